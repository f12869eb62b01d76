"""Checks of what works on single positions: norms, rotations, gates, caps, matrix products, rows of tables."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from gemma_mlx.nn.attention import rope
from gemma_mlx.nn.grid import HIGHEST, LOWEST, on_grid
from gemma_mlx.nn.mlp import gelu_gate, sparse_gelu_gate
from gemma_mlx.nn.norm import Norms
from gemma_mlx.nn.recurrent import CausalConv, scan
from gemma_mlx.nn.softcap import softcap
from gemma_mlx.selftest.check import EXACT, Array, Check, Note, Pair, rounded
from gemma_mlx.selftest.numbers import exact, integers, normal
from gemma_mlx.spec import AttentionSpec, Rope

_EPS = 1e-6
_ROPES = {
    "sliding": (256, Rope(theta=10_000.0)),
    "full": (256, Rope(theta=1_000_000.0)),
    "linear": (128, Rope(theta=1_000_000.0, scale=1 / 8)),
    "proportional": (512, Rope(theta=1_000_000.0, turning=0.25)),
    "partial": (256, Rope(theta=10_000.0, span=0.5)),
    "small": (64, Rope(theta=10_000.0)),
}
_POSITIONS = {"near": (0, 1, 1023), "far": (8191, 131_071, 262_143)}
_UPDATE = "Update MLX, and report it with `gemma doctor --json`."


def checks(dtype: mx.Dtype, *, large: bool) -> Iterator[Check]:
    """The checks, in the dtype that activations have here.

    Args:
        dtype: of activations.
        large: whether matrices have the sizes that models have; too much for MLX's CPU back end.
    """
    yield Check(
        name="norm/rms",
        group="norm",
        covers=("mx.fast.rms_norm",),
        cases=lambda: _norms(dtype),
        allowed=rounded(dtype, 3, sums=256),
        meaning=f"RMS norm is wrong, so every model answers nonsense. {_UPDATE}",
        quick=True,
    )
    for kind, (head_dim, turning) in _ROPES.items():
        for reach, positions in _POSITIONS.items():
            yield _rope_check(dtype, kind, head_dim, turning, reach, positions)
    yield Check(
        name="gate/gelu",
        group="gate",
        covers=("mx.compile",),
        cases=lambda: _gates(dtype),
        allowed=rounded(dtype, 10, sums=16),
        meaning=f"The gate of the feed-forward is wrong, so every model answers nonsense. {_UPDATE}",
        quick=True,
    )
    yield Check(
        name="gate/softcap",
        group="gate",
        covers=("mx.compile",),
        cases=lambda: _caps(dtype),
        allowed=rounded(dtype, 4, sums=8),
        meaning=f"Caps are wrong, so Gemma 2 answers nonsense, and others choose their words badly. {_UPDATE}",
    )
    yield Check(
        name="gate/grid",
        group="gate",
        covers=("mx.round", "mx.clip"),
        cases=lambda: _grids(dtype),
        allowed=EXACT,
        meaning=f"Activations are rounded wrongly, so Gemmas for phones answer nonsense. {_UPDATE}",
    )
    yield from _products(large=large)
    yield Check(
        name="embedding/rows",
        group="embedding",
        covers=("mx.take",),
        cases=_rows,
        allowed=EXACT,
        meaning=f"Rows of a large table are read wrongly, so models misread your words. {_UPDATE}",
        quick=True,
    )
    yield Check(
        name="embedding/head",
        group="embedding",
        covers=("mx.matmul",),
        cases=lambda: _head(dtype),
        allowed=rounded(dtype, 2, sums=128),
        meaning=f"The product with a vocabulary of 262,144 is wrong, so models say wrong words. {_UPDATE}",
    )
    yield Check(
        name="recurrence/scan",
        group="recurrence",
        covers=("mx.conv1d", "mx.addmm"),
        cases=lambda: _recurrence(dtype),
        allowed=rounded(dtype, 4, sums=64),
        meaning=f"Convolution, scan or addmm is wrong, so RecurrentGemma and Gemma 3n answer nonsense. {_UPDATE}",
    )


def _norms(dtype: mx.Dtype) -> Iterator[Pair]:
    norms = Norms(eps=_EPS, stored_offset=0.0)
    for rows, dim in ((1, 5376), (7, 256), (300, 1152), (3, 20480)):
        x, right = normal(rows, dim, dtype=dtype, seed=dim)
        right = right / np.sqrt((right**2).mean(axis=-1, keepdims=True) + _EPS)
        yield norms.bare()(x), right
        norm = norms(dim)
        norm.weight, weight = normal(dim, dtype=dtype, seed=3)
        yield norm(x), right * weight


def _rope_check(
    dtype: mx.Dtype, kind: str, head_dim: int, turning: Rope, reach: str, positions: tuple[int, ...]
) -> Check:
    return Check(
        name=f"rope/{kind}/{reach}",
        group="rope",
        covers=("mx.fast.rope",),
        cases=lambda: _turned(dtype, head_dim, turning, positions),
        # Of the angle: one for the wavelength, its inverse, and the product; three for a GPU's fast sine to reduce it.
        allowed=rounded(
            dtype, 3, besides=positions[-1] * turning.scale * 6 * 2.0**-24 + (2.0**-11 if dtype != mx.float32 else 0),
            why=f"6 of float32 in angles of up to {positions[-1] * turning.scale:,.0f}, and a GPU's fast sines",
        ),
        meaning=(
            f"Rotation by position ({kind}) is wrong"
            + (" far into a text, so long texts are misread. " if reach == "far" else ", so word order is lost. ")
            + _UPDATE
        ),
        quick=kind in ("sliding", "proportional"),
    )  # fmt: skip


def _turned(dtype: mx.Dtype, head_dim: int, turning: Rope, positions: tuple[int, ...]) -> Iterator[Pair]:
    spec = AttentionSpec(heads=4, kv_heads=4, head_dim=head_dim, scale=1.0, rope=turning)
    turn = rope(spec)
    x, values = normal(2, 4, 5, head_dim, dtype=dtype)
    for first in positions:
        yield turn(x, offset=first), rotated(values, turning, first)
        yield turn(x[:, :, :1], offset=first), rotated(values[:, :, :1], turning, first)


def rotated(x: Array, turning: Rope, first: int) -> Array:
    """[B H L D] turned as `Rope` says, in float64."""
    pairs = round(x.shape[-1] * turning.span) // 2
    index = np.arange(pairs)
    speeds = np.where(index < round(turning.turning * pairs), turning.theta ** (-index / pairs), 0.0)
    angles = (first + np.arange(x.shape[2]))[:, None] * turning.scale * speeds
    a, b, still = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, still], axis=-1)


def _gelu(x: Array) -> Array:
    gated: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return gated


def _gates(dtype: mx.Dtype) -> Iterator[Pair]:
    for shape in ((1, 6912), (33, 2048)):
        (gate, g), (up, u) = (normal(*shape, dtype=dtype, seed=seed) for seed in (1, 2))
        yield gelu_gate(gate, up), _gelu(g) * u
        above = g - g.mean(axis=-1, keepdims=True)
        above -= np.sqrt((above**2).mean(axis=-1, keepdims=True))
        yield sparse_gelu_gate(gate, up, 1.0), _gelu(np.maximum(above, 0)) * u


def _grids(dtype: mx.Dtype) -> Iterator[Pair]:
    """Whole steps and what lies clearly between them; the step is a power of two, so nothing else is rounded."""
    steps = np.arange(-160, 161, dtype=np.float64)[:, None] + np.array([-0.375, 0.0, 0.25])
    x = mx.array(steps.astype(np.float32)).astype(dtype) * mx.array(0.125, dtype)
    yield on_grid(x, mx.array(0.125, dtype)), np.clip(np.round(exact(x) / 0.125), LOWEST, HIGHEST) * 0.125


def _caps(dtype: mx.Dtype) -> Iterator[Pair]:
    x, right = normal(3, 4096, dtype=dtype, seed=5)
    for factor, cap in ((1, 30.0), (16, 30.0), (64, 50.0)):
        yield softcap(x * factor, cap), cap * np.tanh(right * factor / cap)


def _products(*, large: bool) -> Iterator[Check]:
    """bfloat16 and float32, one row, a few, and many; and a large K, which kernels divide among themselves."""
    small = [(1, 512, 640), (5, 512, 640), (96, 384, 640), (16, 64, 6144)]
    of_models = [(40, 2560, 10240), (1024, 2048, 2048)]
    sizes = [("small", small, mx.bfloat16), ("small", small, mx.float32)]
    if large:  # the last of these is where M5's kernels begin to divide K (ml-explore/mlx issue 3797)
        sizes += [("model", [*of_models, (2048, 2048, 10240)], mx.bfloat16), ("model", of_models, mx.float32)]
    for size, these, dtype in sizes:
        longest = max(k for _, _, k in these)
        kind = str(dtype).rpartition(".")[2]
        tf32 = dtype == mx.float32 and large
        precise = rounded(dtype, 2, sums=longest)
        loose = rounded(dtype, 2, sums=longest, besides=2.0**-10, why="factors of 11 bits, as GPUs take for float32")
        yield Check(
            name=f"matmul/{kind}/{size}",
            group="matmul",
            covers=("mx.matmul",),
            cases=lambda dtype=dtype, these=these: _multiplied(dtype, these),  # type: ignore[misc]
            allowed=loose if tf32 else precise,
            meaning=(
                f"Matrix products in {kind} are wrong"
                + (" at the sizes prompts have, so prompts are misread. " if size == "model" else ". ")
                + _UPDATE
            ),
            note=Note(
                limit=2.0**-16,  # float32 stays below 1e-5, factors of 11 bits do not
                text="float32 products keep 11 bits here (TF32); MLX_ENABLE_TF32=0 gives all 24. Gemma computes in "
                "bfloat16 on a GPU, which is not touched.",
            )
            if tf32
            else None,
            quick=size == "small",
        )


def _multiplied(dtype: mx.Dtype, shapes: list[tuple[int, int, int]]) -> Iterator[Pair]:
    for rows, out, columns in shapes:
        (x, a), (w, b) = (normal(rows, columns, dtype=dtype, seed=1), normal(out, columns, dtype=dtype, seed=2))
        # All are computed, some compared.
        some, others = (
            np.unique(np.linspace(0, size - 1, most).astype(int)) for size, most in ((rows, 24), (out, 640))
        )
        yield (x @ w.T)[mx.array(some)][:, mx.array(others)], a[some] @ b[others].T


def _rows() -> Iterator[Pair]:
    """262,144 rows of bfloat16, from the first to the last; a wrong one shows by every bit."""
    vocab, dim = 262_144, 64
    bits = np.random.default_rng(6).integers(0, 0x7F80, (vocab, dim), dtype=np.uint16)  # finite and positive
    table = nn.Embedding(1, 1)
    table.weight = mx.array(bits).view(mx.bfloat16)
    ids = np.concatenate([[0, 1, vocab - 1, vocab - 2, 65_535, 65_536, 131_071, 131_072], integers(vocab, 248, seed=7)])
    yield table(mx.array(ids)).view(mx.uint16), bits[ids]
    yield table(mx.array(ids[2:3])).view(mx.uint16), bits[ids[2:3]]


def _head(dtype: mx.Dtype) -> Iterator[Pair]:
    vocab, dim = 262_144, 64
    table, right = normal(vocab, dim, dtype=dtype, seed=8)
    head = nn.Embedding(1, 1)
    head.weight = table
    for rows in (1, 3):
        x, values = normal(rows, dim, dtype=dtype, seed=9)
        yield head.as_linear(x), values @ right.T


def _recurrence(dtype: mx.Dtype) -> Iterator[Pair]:
    width, taps = 160, 4
    conv = CausalConv(width, taps)
    (weight, w), (conv.bias, bias), (u, x) = (
        normal(width, 1, taps, dtype=dtype, seed=1), normal(width, dtype=dtype, seed=2),
        normal(2, 33, width, dtype=dtype, seed=3),
    )  # fmt: skip
    conv.weight = weight
    padded = np.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    yield conv(u, None)[0], sum(padded[:, tap : tap + 33] * w[:, 0, tap] for tap in range(taps)) + bias
    (blocks, p), (maps, m), (add, b) = (
        normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(((2, 5, 33, 32), (5, 32, 32), (5, 1, 32)))
    )
    yield mx.addmm(add, blocks, maps), p @ m + b  # as the gates have it
    decay = mx.array(np.exp(-np.exp(exact(u[..., :32]))).astype(np.float32))
    step, h, states = u[..., 32:64].astype(mx.float32), np.zeros((2, 32)), []
    for t in range(33):
        h = exact(decay[:, t]) * h + exact(step[:, t])
        states.append(h)
    yield scan(decay, step), np.stack(states, axis=1)
