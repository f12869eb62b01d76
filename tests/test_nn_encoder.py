"""The encoder: the mean over a row's own tokens, in float32; its numbers are judged in tests/parity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.weights.load import load

GOLDEN = Path(__file__).parent / "goldens" / "embeddinggemma"


def encoder(dtype: mx.Dtype = mx.float32) -> Encoder:
    model = load(GOLDEN, dtype=dtype).model
    assert isinstance(model, Encoder)
    return model


@pytest.fixture
def model() -> Encoder:
    return encoder()


def test_the_mean_over_the_tokens_of_a_row(model: Encoder) -> None:
    tokens, lengths = mx.array([[5, 6, 7, 8], [9, 10, 0, 0]]), mx.array([4, 2])
    hidden = model.hidden(tokens, lengths)
    model.dense = []
    found = model(tokens, lengths)
    assert mx.allclose(found[0], hidden[0].mean(axis=0), atol=1e-6)
    assert mx.allclose(found[1], hidden[1, :2].mean(axis=0), atol=1e-6)


def test_rows_of_one_length_need_no_lengths(model: Encoder) -> None:
    tokens = mx.array([[5, 6, 7], [8, 9, 10]])
    assert mx.allclose(model(tokens), model(tokens, mx.array([3, 3])), atol=1e-5)


def test_later_tokens_count(model: Encoder) -> None:
    """No mask hides them: the first token's output changes with the last."""
    one, other = (model.hidden(mx.array([[5, 6, 7, last]]), None) for last in (8, 9))
    assert mx.abs(one[:, 0] - other[:, 0]).max().item() > 1e-3


def test_vectors_are_float32_whatever_it_computes_in() -> None:
    model = encoder(mx.bfloat16)
    assert model.hidden(mx.array([[5, 6]]), None).dtype == mx.bfloat16
    assert model(mx.array([[5, 6]])).dtype == mx.float32


def test_the_vector_is_as_wide_as_the_last_map(model: Encoder) -> None:
    assert (model.spec.dim, model.spec.embedding_dim) == (40, 36)
    assert replace(model.spec, dense=()).embedding_dim == 40
    assert model(mx.array([[5]])).shape == (1, 36)


def test_no_row_of_padding_is_nan(model: Encoder) -> None:
    """The longest window in which the padding of a row has no token of its own in sight."""
    tokens = mx.zeros((2, 24), mx.int32)
    assert not mx.isnan(model.hidden(tokens, mx.array([24, 1]))).any().item()
    assert not mx.isnan(model(tokens, mx.array([24, 1]))).any().item()
