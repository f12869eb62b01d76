"""The assembled decoder: what the goldens do not look at."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from gemma_mlx.models import gemma3_text
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.weights.load import load

GOLDEN = Path(__file__).parent / "goldens" / "gemma3_text"


@pytest.fixture
def model() -> Decoder:
    return load(GOLDEN, dtype=mx.float32).model


def test_building_takes_no_memory() -> None:
    before = mx.get_active_memory()
    spec = replace(load(GOLDEN, dtype=mx.float32).model.spec, vocab=262_144, dim=5376)
    built = gemma3_text.build(spec)
    assert sum(array.nbytes for _, array in tree_flatten(built.parameters())) > 5e9
    assert mx.get_active_memory() - before < 10_000  # scalars of initialisers


def test_a_model_is_freed_when_the_last_one_lets_go_of_it(model: Decoder) -> None:
    alive = weakref.ref(load(GOLDEN, dtype=mx.float32).model)
    gc.disable()  # no cycle may be left for the collector
    try:
        again = load(GOLDEN, dtype=mx.float32).model
        alive = weakref.ref(again)
        again(again.embed(mx.array([[4, 5]])))
        del again
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("last", [1, 3, 7])
def test_last_returns_only_those_positions(model: Decoder, last: int) -> None:
    x = model.embed(mx.array([[4, 5, 6, 7, 8, 9, 10]]))
    assert mx.allclose(model(x, last=last), model(x)[:, -last:], atol=1e-6)


def test_an_untied_head_is_a_table_of_its_own(model: Decoder) -> None:
    untied = gemma3_text.build(replace(model.spec, tied_head=False))
    untied.load_weights([*tree_flatten(model.parameters()), ("lm_head.weight", 2 * model.model.embed_tokens.weight)])
    tokens = mx.array([[4, 5, 6]])
    assert mx.allclose(untied(untied.embed(tokens)), 2 * model(model.embed(tokens)), atol=1e-5)


def test_embeddings_are_scaled_in_the_dtype_it_computes_in(model: Decoder) -> None:
    tokens = mx.array([[4, 5]])
    expected = model.model.embed_tokens.weight[tokens] * model.spec.embed_scale
    assert mx.allclose(model.embed(tokens), expected, rtol=1e-6)
    model.set_compute_dtype(mx.bfloat16)
    assert model.embed(tokens).dtype == mx.bfloat16
