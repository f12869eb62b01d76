"""How far the predictions of one model are from those of another: Kullback-Leibler divergence, in full or from a part.

KL(p || q) = sum p·(log p - log q), in nats, for each position. Each term is taken as p·(d + exp(-d) - 1) with
d = log p - log q, which adds up to the same, as p and q each add up to 1, and loses no digits where d is small: a term
is never negative, and an error that all logits of a position share cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from jaxtyping import Float, Int

_SMALL = 0.5  # below, exp(-d) - 1 is computed as one


class Said(NamedTuple):
    """What a model said at some positions, short enough to be kept.

    Attributes:
        ids: [N k] its likeliest tokens.
        log_p: [N k] their log-probabilities.
        log_rest: [N] that of all other tokens together; -inf where there are none.
        top: [N] the likeliest token.
        log_next: [N] log-probability of the token that came next.
    """

    ids: Int[mx.array, "N k"]
    log_p: Float[mx.array, "N k"]
    log_rest: Float[mx.array, " N"]
    top: Int[mx.array, " N"]
    log_next: Float[mx.array, " N"]


def log_probabilities(logits: Float[mx.array, "*axes V"]) -> Float[mx.array, "*axes V"]:
    """Logits -> log-probabilities, in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def full_divergence(
    teacher: Float[mx.array, "*axes V"], student: Float[mx.array, "*axes V"]
) -> Float[mx.array, "*axes"]:
    """KL of each position, from the logits of both models."""
    return _terms(log_probabilities(teacher), log_probabilities(student)).sum(axis=-1)


def said(logits: Float[mx.array, "N V"], following: Int[mx.array, " N"], k: int) -> Said:
    """The likeliest `k` tokens of each position, and the rest as one.

    Args:
        logits: of the teacher.
        following: the tokens that came next.
        k: at most V.
    """
    log_p = log_probabilities(logits)
    ids = mx.argpartition(-log_p, k - 1, axis=-1)[:, :k] if k < log_p.shape[1] else _all_ids(log_p)
    return Said(
        ids=ids.astype(mx.int32),
        log_p=mx.take_along_axis(log_p, ids, axis=-1),
        log_rest=_rest(log_p, ids),
        top=mx.argmax(log_p, axis=-1).astype(mx.int32),
        log_next=mx.take_along_axis(log_p, following[:, None], axis=-1)[:, 0],
    )


def divergence(teacher: Said, student: Float[mx.array, "N V"]) -> Float[mx.array, " N"]:
    """KL of each position over the teacher's likeliest tokens and the rest as one: never more than the full KL.

    Args:
        teacher: what it said.
        student: logits.
    """
    log_q = log_probabilities(student)
    kept = _terms(teacher.log_p, mx.take_along_axis(log_q, teacher.ids, axis=-1)).sum(axis=-1)
    log_rest = _rest(log_q, teacher.ids)
    nothing = mx.isinf(teacher.log_rest)  # is left to the others: of such a term only q stays
    rest = _terms(mx.where(nothing, 0.0, teacher.log_rest), mx.where(nothing, 0.0, log_rest))
    return kept + mx.where(nothing, mx.exp(log_rest), rest)


def _terms(log_p: mx.array, log_q: mx.array) -> mx.array:
    """p·(d + exp(-d) - 1) with d = log p - log q."""
    p, d = mx.exp(log_p), log_p - log_q
    near = p * (mx.expm1(-mx.where(mx.abs(d) < _SMALL, d, 0.0)) + d)
    return mx.where(mx.abs(d) < _SMALL, near, p * d - p + mx.exp(log_q))


def _rest(log_p: mx.array, ids: mx.array) -> mx.array:
    """Log-probability of all tokens but `ids` together."""
    if ids.shape[1] == log_p.shape[1]:
        return mx.full(log_p.shape[:1], -mx.inf)
    others = mx.put_along_axis(log_p, ids, mx.array(-mx.inf), axis=-1)
    return mx.logsumexp(others, axis=-1)


def _all_ids(log_p: mx.array) -> mx.array:
    return mx.broadcast_to(mx.arange(log_p.shape[1]), log_p.shape)
