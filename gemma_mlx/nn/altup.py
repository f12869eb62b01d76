"""AltUp, alternating updates (Gemma 3n): a residual stream of n parts, for the price of a layer that computes one.

Before a layer all streams are predicted, each as itself and a mix of all. The layer computes the active one, and all
are corrected by how far its result is from the prediction. How to mix and how much to correct is decided token by token
(Baykal et al., "Alternating Updates for Efficient Transformers", NeurIPS 2023, arXiv:2301.13310).

    streams [B L n dim] ---> predicted [B L n dim] ---> corrected [B L n dim]
                                 | active         ^
                                 +---> layer -----+
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from gemma_mlx.nn.norm import Norms
from gemma_mlx.spec import AltUpSpec

# A stream is divided by its magnitude, or by the root of this where it has none (transformers, Gemma3nTextModel).
LEAST_MEAN_SQUARE: Final = 1e-5


class AltUp(nn.Module):
    """Predicts the streams before one layer, and corrects them behind it."""

    def __init__(self, dim: int, spec: AltUpSpec, norms: Norms) -> None:
        super().__init__()
        n = spec.streams
        self.modality_router = nn.Linear(dim, n, bias=False)
        self.router_norm = norms(dim)
        self.prediction_coefs = nn.Linear(n, n * n, bias=False)
        self.correction_coefs = nn.Linear(n, n, bias=False)
        self.correct_output_scale = mx.zeros((dim,))
        self._streams, self._active, self._squash = n, spec.active, partial(_squash, scale=1 / dim)
        self._corrected = _corrected_and_scaled if spec.scaled else _corrected
        self._but_first = mx.array([[0.0]] + [[1.0]] * (n - 1))  # [n 1]

    def predict(
        self, streams: Float[mx.array, "B L n dim"]
    ) -> tuple[Float[mx.array, "B L n dim"], Float[mx.array, "B L dim"]]:
        """All streams as they are expected behind the layer, and the active one of them."""
        mix = self.prediction_coefs(self._modalities(streams[:, :, self._active]))  # [B L n·n]
        predicted = mx.addmm(streams, mix.reshape(*mix.shape[:2], self._streams, self._streams), streams)
        return predicted, predicted[:, :, self._active]

    def correct(
        self,
        predicted: Float[mx.array, "B L n dim"],
        active: Float[mx.array, "B L dim"],
        computed: Float[mx.array, "B L dim"],
        addition: Callable[[mx.array], mx.array],
    ) -> Float[mx.array, "B L n dim"]:
        """The streams behind the layer.

        Args:
            predicted: all streams.
            active: the one the layer was given, of these.
            computed: what the layer made of it.
            addition: makes of the active stream, corrected and scaled, what is added to all streams but the first.
        """
        gains = self.correction_coefs(self._modalities(computed))  # [B L n]
        gain = gains[:, :, self._active : self._active + 1]
        added = addition(self._corrected(active, computed, gain, self.correct_output_scale))
        streams: mx.array = _correct(
            predicted, active[:, :, None], computed[:, :, None], gains[..., None], added[:, :, None], self._but_first
        )
        return streams

    def _modalities(self, x: Float[mx.array, "B L dim"]) -> Float[mx.array, "B L n"]:
        routed: mx.array = self._squash(self.modality_router(self.router_norm(x)))
        return routed


@partial(mx.compile, shapeless=True)
def match_magnitude(x: mx.array, like: mx.array) -> mx.array:
    """x [B L n dim], scaled so that its root mean square is that of `like` [B L 1 dim]."""
    exact, other = x.astype(mx.float32), like.astype(mx.float32)
    wanted = mx.square(other).mean(axis=-1, keepdims=True)
    found = mx.maximum(mx.square(exact).mean(axis=-1, keepdims=True), LEAST_MEAN_SQUARE)
    return (exact * mx.sqrt(wanted / found)).astype(x.dtype)


# Elementwise steps, each one kernel. They compute in float32 and round once: streams are long sums.


@partial(mx.compile, shapeless=True)
def _squash(x: mx.array, scale: float) -> mx.array:
    return mx.tanh(x.astype(mx.float32) * scale).astype(x.dtype)


@partial(mx.compile, shapeless=True)
def _corrected(active: mx.array, computed: mx.array, gain: mx.array, _scale: mx.array) -> mx.array:
    exact = active.astype(mx.float32)
    return (exact + (computed.astype(mx.float32) - exact) * (1 + gain.astype(mx.float32))).astype(active.dtype)


@partial(mx.compile, shapeless=True)
def _corrected_and_scaled(active: mx.array, computed: mx.array, gain: mx.array, scale: mx.array) -> mx.array:
    return _corrected(active, computed, gain, scale) * scale


@partial(mx.compile, shapeless=True)
def _correct(
    predicted: mx.array, active: mx.array, computed: mx.array, gains: mx.array, added: mx.array, share: mx.array
) -> mx.array:
    """predicted + (computed - active) · (1 + gains) + added · share; all [B L n dim], or 1 in the place of n or dim."""
    change = (computed.astype(mx.float32) - active.astype(mx.float32)) * (1 + gains.astype(mx.float32))
    return (predicted.astype(mx.float32) + change + added.astype(mx.float32) * share).astype(predicted.dtype)
