"""The recurrent block against its formulas, written out one position at a time in float64."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from gemma_mlx.cache.recurrent import RecurrentCache
from gemma_mlx.nn.mask import text_positions
from gemma_mlx.nn.recurrent import CausalConv, GatedRecurrence, RecurrentBlock, scan
from gemma_mlx.spec import RecurrenceSpec

DIM, WIDTH, HEADS, TAPS = 5, 12, 3, 4
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 13, 31, 64)
Weights = dict[str, np.ndarray]


def close(ours: mx.array, expected: np.ndarray, tolerance: float = 2e-6) -> bool:
    return bool(
        np.abs(np.array(ours.astype(mx.float32)) - expected).max() <= tolerance * max(1, np.abs(expected).max())
    )


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def conv(w: Weights, u: np.ndarray) -> np.ndarray:
    padded = np.concatenate([np.zeros((TAPS - 1, WIDTH)), u])
    kernel = w["weight"][:, 0]  # [WIDTH TAPS]
    return np.stack([(padded[t : t + TAPS] * kernel.T).sum(0) for t in range(len(u))]) + w["bias"]


def recurrence(w: Weights, u: np.ndarray) -> np.ndarray:
    """Section 2.4 of arXiv 2402.19427 with what transformers adds: the first token is not damped."""
    h, out, block = np.zeros(WIDTH), [], WIDTH // HEADS
    for t in range(len(u)):
        heads = u[t].reshape(HEADS, 1, block)
        i = sigmoid((heads @ w["input_gate_weight"])[:, 0] + w["input_gate_bias"]).reshape(-1)
        r = sigmoid((heads @ w["recurrent_gate_weight"])[:, 0] + w["recurrent_gate_bias"]).reshape(-1)
        a = np.exp(-8 * r * np.log1p(np.exp(w["recurrent_param"])))
        h = i * u[t] if t == 0 else a * h + np.sqrt(1 - a**2) * i * u[t]
        out.append(h)
    return np.stack(out)


def block(w: Weights, x: np.ndarray) -> np.ndarray:
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    y = linear("linear_y", x)
    y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    u = conv(part(w, "conv_1d"), linear("linear_x", x))
    return linear("linear_out", recurrence(part(w, "rg_lru"), u) * y)


def part(w: Weights, name: str) -> Weights:
    return {key.removeprefix(f"{name}."): value for key, value in w.items() if key.startswith(f"{name}.")}


def random(module: nn.Module) -> Weights:
    """Draws the module's parameters; states that last for a while, so that the past shows."""
    module.update(tree_map(lambda array: 0.6 * mx.random.normal(array.shape), module.parameters()))
    slow = [(name, array - 4) for name, array in tree_flatten(module.parameters()) if name.endswith("recurrent_param")]
    module.load_weights(slow, strict=False)
    return {name: np.array(array).astype(np.float64) for name, array in tree_flatten(module.parameters())}


@pytest.mark.parametrize("length", LENGTHS)
def test_scan(length: int) -> None:
    a, x = mx.random.uniform(shape=(2, length, 3)), mx.random.normal((2, length, 3))
    h, expected = np.zeros((2, 3)), []
    for t in range(length):
        h = np.array(a[:, t]).astype(np.float64) * h + np.array(x[:, t])
        expected.append(h)
    assert close(scan(a, x), np.stack(expected, axis=1))


@pytest.mark.parametrize("decay", [0.0, 1e-30, 1.0])
def test_scan_at_the_ends_of_what_decays_can_be(decay: float) -> None:
    """Products of many small factors become 0 and are never divided by; factors of 1 add up."""
    x = mx.ones((1, 300, 2))
    h = scan(mx.full(x.shape, decay), x)
    assert mx.array_equal(h[0, :, 0], mx.arange(1, 301).astype(mx.float32) if decay == 1 else mx.ones((300,)))


@pytest.mark.parametrize("chunks", [[9], [1] * 9, [2, 7], [4, 1, 4]])
@pytest.mark.parametrize("taps", [2, TAPS])
def test_convolution_in_chunks(chunks: list[int], taps: int) -> None:
    module = CausalConv(WIDTH, taps)
    module.weight, module.bias = mx.random.normal((WIDTH, 1, taps)), mx.random.normal((WIDTH,))
    u = mx.random.normal((2, 9, WIDTH))
    padded = mx.concatenate([mx.zeros((2, taps - 1, WIDTH)), u], axis=1)
    expected = sum(padded[:, j : j + 9] * module.weight[:, 0, j] for j in range(taps)) + module.bias
    before, out, at = None, [], 0
    for length in chunks:
        sums, before = module(u[:, at : at + length], before)
        out.append(sums)
        at += length
    assert before is not None
    assert before.shape == (2, taps - 1, WIDTH)
    assert close(mx.concatenate(out, axis=1), np.array(expected))


@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_gated_recurrence(length: int) -> None:
    module = GatedRecurrence(WIDTH, HEADS)
    weights = random(module)
    u = mx.random.normal((2, length, WIDTH))
    h, state = module(u, text_positions(length, 0, None), None)
    for row in range(2):
        assert close(h[row], recurrence(weights, np.array(u[row]).astype(np.float64)))
    assert mx.array_equal(state, h[:, -1])


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [1, 39], [39, 1], [7, 7, 7, 7, 7, 5], [3, 1, 1, 35]], ids=len)
def test_block_in_chunks(chunks: list[int]) -> None:
    module = RecurrentBlock(DIM, RecurrenceSpec(width=WIDTH, heads=HEADS, taps=TAPS))
    weights = random(module)
    x = mx.random.normal((2, 40, DIM))
    cache, out = RecurrentCache(), []
    for length in chunks:
        at = cache.offset
        out.append(module(x[:, at : at + length], text_positions(length, at, None), cache))
    for row in range(2):
        assert close(mx.concatenate(out, axis=1)[row], block(weights, np.array(x[row]).astype(np.float64)))


@pytest.mark.parametrize("chunks", [[20], [1] * 20, [2, 18], [6, 14], [7, 13]], ids=len)
def test_padding_is_not_read(chunks: list[int]) -> None:
    """Each row is what it is alone, whatever stands in its padding and wherever the text begins in a chunk."""
    module = RecurrentBlock(DIM, RecurrenceSpec(width=WIDTH, heads=HEADS, taps=TAPS))
    weights = random(module)
    x, padding = 5 * mx.random.normal((3, 20, DIM)), mx.array([0, 6, 13])
    cache, out = RecurrentCache(), []
    for length in chunks:
        at = cache.offset
        out.append(module(x[:, at : at + length], text_positions(length, at, padding), cache))
    for row, columns in enumerate([0, 6, 13]):
        ours = mx.concatenate(out, axis=1)[row, columns:]
        assert close(ours, block(weights, np.array(x[row, columns:]).astype(np.float64)))


def test_the_state_stays_float32_in_a_bfloat16_model() -> None:
    module = GatedRecurrence(WIDTH, HEADS)
    random(module)
    module.set_dtype(mx.bfloat16)
    u = mx.random.normal((1, 4, WIDTH)).astype(mx.bfloat16)
    h, state = module(u, None, None)
    assert (h.dtype, state.dtype) == (mx.bfloat16, mx.float32)
    h, state = module(u[:, :1], None, state)
    assert (h.dtype, state.dtype) == (mx.bfloat16, mx.float32)
    assert not mx.array_equal(state, state.astype(mx.bfloat16).astype(mx.float32))


def test_a_decay_next_to_1_keeps_its_precision() -> None:
    """1 - a² of a = 1 - 1e-7 is 2e-7, which float32 would round away."""
    module = GatedRecurrence(1, 1)
    module.recurrent_param = mx.array([np.log(np.expm1(1e-7 / 4))])  # a = exp(-8 / 2 · softplus) = 1 - 1e-7
    _, state = module(mx.ones((1, 1, 1)), None, mx.zeros((1, 1)))
    assert abs(state.item() / (0.5 * np.sqrt(2e-7)) - 1) < 1e-5
