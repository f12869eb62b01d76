"""Borrowing layers and per-layer embeddings: what runs for which positions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.per_layer import PerLayerDecoder
from gemma_mlx.weights.load import load

GOLDEN = Path(__file__).parent / "goldens" / "gemma4_e"


@pytest.fixture(scope="module")
def model() -> PerLayerDecoder:
    loaded = load(GOLDEN, dtype=mx.float32).model
    assert isinstance(loaded, PerLayerDecoder)
    return loaded


def test_the_embeddings_are_the_tokens_rows_scaled_by_their_width(model: PerLayerDecoder) -> None:
    tokens = mx.array([[5, 9, 5]])
    _, rows = model.embed(tokens)
    assert rows.shape == (1, 3, 5, 6)
    table = model.model.embed_tokens_per_layer.weight
    assert mx.allclose(rows[0, 1, 3], table[9, 18:24] * 6**0.5, atol=1e-6)
    assert mx.array_equal(rows[0, 0], rows[0, 2])


def test_ids_beyond_the_table_have_its_first_row() -> None:
    model = load(GOLDEN.parent / "gemma3n_text", dtype=mx.float32).model
    assert isinstance(model, PerLayerDecoder)
    assert (model.spec.vocab, model.model.embed_tokens_per_layer.weight.shape[0]) == (96, 80)
    _, rows = model.embed(mx.array([[0, 79, 80, 95]]))
    assert mx.array_equal(rows[0, 2], rows[0, 0])
    assert mx.array_equal(rows[0, 3], rows[0, 0])
    assert not mx.array_equal(rows[0, 1], rows[0, 0])


def test_only_owners_have_a_cache(model: PerLayerDecoder) -> None:
    assert model.spec.owners == (0, 1, 2)
    assert [layer.borrows_from for layer in model.spec.layers] == [None, None, None, 2, 1]
    assert len(model.make_cache().layers) == 3


def test_borrowing_layers_run_for_the_last_position_of_a_chunk_only(
    model: PerLayerDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the positions each layer is built for while 20 tokens are read in chunks of 7 and 4 are sampled."""
    positions: Counter[int] = Counter()
    index = {id(layer): at for at, layer in enumerate(model.model.layers)}
    kind = type(model.model.layers[0])
    call = kind.__call__

    def counted(self: object, x: mx.array, *rest: object) -> mx.array:
        positions[index[id(self)]] += x.shape[1]
        return call(self, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "__call__", counted)
    options = Options(temperature=0, max_tokens=4, chunk=7)
    list(generate(model, PromptCache(model.make_cache()), list(range(4, 24)), options))
    assert dict(positions) == {0: 20 + 3, 1: 20 + 3, 2: 20 + 3, 3: 3 + 3, 4: 3 + 3}


def test_logits_of_several_last_positions_see_what_they_should(model: PerLayerDecoder) -> None:
    tokens = mx.array([list(range(4, 24))])
    whole = model(model.embed(tokens))
    for last in (1, 2, 6, 20):
        assert mx.allclose(model(model.embed(tokens), last=last), whole[:, -last:], atol=1e-4)
        cache = model.make_cache()
        model(model.embed(tokens[:, :9]), cache, last=1)
        rest = model(model.embed(tokens[:, 9:]), cache, last=min(last, 11))
        assert mx.allclose(rest, whole[:, -min(last, 11) :], atol=1e-4)
