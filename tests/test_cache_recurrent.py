"""The state of a recurrent layer, and what it makes of memory: nothing grows with the text."""

from __future__ import annotations

import gc
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.cache import sliding
from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.cache.kv import KVCache
from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.cache.recurrent import RecurrentCache
from gemma_mlx.cache.sliding import SlidingCache
from gemma_mlx.errors import CacheError
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.spec import AttentionSpec, DecoderSpec, LayerSpec, RecurrenceSpec, RecurrentLayerSpec, Rope
from gemma_mlx.weights.load import load
from tests.tiny import tiny_config, tiny_model

GOLDEN = Path(__file__).parent / "goldens" / "recurrent_gemma"
WINDOW, CHUNK = 64, 32


def inputs(value: int | float, width: int = 3) -> tuple[mx.array, mx.array]:
    return mx.full((2, 3, width), float(value)), mx.full((2, width), -float(value))


def test_holds_what_it_was_given_last() -> None:
    cache = RecurrentCache()
    assert (cache.offset, cache.arrays(), cache.inputs, cache.state) == (0, (), None, None)
    cache.update(5, *inputs(1))
    cache.update(1, *inputs(2))
    assert cache.offset == 6
    assert [array.max().item() for array in cache.arrays()] == [2, -2]


@pytest.mark.parametrize("tokens", [1, 4, 100])
def test_nothing_can_be_taken_back(tokens: int) -> None:
    cache = RecurrentCache()
    cache.update(4, *inputs(1))
    assert cache.can_rollback(0)
    cache.rollback(0)
    assert not cache.can_rollback(tokens)
    with pytest.raises(CacheError, match=f"{tokens} tokens cannot be taken back: the state of a recurrent layer"):
        cache.rollback(tokens)
    assert cache.offset == 4


def test_a_snapshot_is_the_way_back() -> None:
    cache = RecurrentCache()
    empty = cache.snapshot()
    cache.update(4, *inputs(1))
    snapshot = cache.snapshot()
    cache.update(1, *inputs(2))
    cache.restore(4, snapshot)
    assert (cache.offset, cache.state is not None and cache.state.max().item()) == (4, -1)
    cache.restore(0, empty)
    assert (cache.offset, cache.arrays()) == (0, ())


def test_does_not_hold_the_chunk_it_was_cut_from() -> None:
    """A slice of a chunk's states would keep all of them in memory."""
    cache = RecurrentCache()
    mx.eval(before := mx.zeros((1,)))
    held = mx.get_active_memory()
    chunk = mx.random.normal((1, 512, 1024))
    cache.update(512, chunk[:, -3:], chunk[:, -1])
    mx.eval(cache.arrays(), before)
    del chunk
    assert mx.get_active_memory() - held < 1 << 16


def spec() -> DecoderSpec:
    recurrent = RecurrentLayerSpec(recurrence=RecurrenceSpec(width=3, heads=1, taps=4), mlp_dim=8)
    attention = {"heads": 1, "kv_heads": 1, "head_dim": 2, "scale": 1.0, "rope": Rope(theta=100.0)}
    layers = [LayerSpec(attention=AttentionSpec(**attention, window=window), mlp_dim=8) for window in (4, None)]
    return DecoderSpec(
        vocab=9, dim=6, layers=(recurrent, *layers, recurrent), context=99, embed_scale=1.0, norm_eps=1e-6
    )


def test_beside_layers_of_other_kinds() -> None:
    cache = DecoderCache.empty(spec())
    assert [type(layer) for layer in cache.layers] == [RecurrentCache, SlidingCache, KVCache, RecurrentCache]
    assert [type(layer) for layer in DecoderCache.none(spec()).layers].count(RecurrentCache) == 2
    assert cache.keys(4, 10) == 10
    assert cache.row_names()[0] == ("0.inputs", "0.state")
    assert cache.row_names()[1] == ("1.keys", "1.values")


def test_layers_of_all_kinds_go_back_together() -> None:
    cache, other = DecoderCache.empty(spec()), DecoderCache.empty(spec())

    def read(tokens: int, value: float) -> None:
        for layer in cache.layers:
            if isinstance(layer, RecurrentCache):
                layer.update(tokens, *inputs(value))
            else:
                layer.update(mx.full((2, 1, tokens, 2), value), mx.full((2, 1, tokens, 2), value))

    read(6, 1.0)
    snapshot = cache.snapshot()
    assert snapshot.nbytes == 2 * (2 * 3 * 3 + 2 * 3) * 4 + 2 * (2 * 3 * 2) * 4  # two states, and one window of 3 rows
    read(9, 2.0)
    with pytest.raises(CacheError, match="recurrent"):
        cache.rollback(1)
    assert cache.is_even
    cache.restore(snapshot)
    assert (cache.offset, cache.is_even) == (6, True)
    assert all(mx.abs(array).max().item() == 1 for array in cache.rows().values())
    other.load(6, cache.rows())
    assert other.rows().keys() == cache.rows().keys()
    other.load(0, {})
    assert (other.offset, other.nbytes) == (0, 0)


def test_an_interrupted_step_costs_only_the_way_from_the_last_mark() -> None:
    """A token was read and not yet counted: the state has moved on, and the mark before it is where to begin again."""
    model = load(GOLDEN, dtype=mx.float32).model
    cache, prompt = PromptCache(model.make_cache()), list(range(5, 30))
    done = [*generate(model, cache, prompt, Options(temperature=0, max_tokens=6))][-1]
    model(model.embed(mx.array([[7]])), cache.cache)
    reused, _ = cache.reuse([*prompt, *done.tokens])
    assert reused == len(prompt)
    assert cache.tokens == prompt


def long_model() -> Decoder:
    return tiny_model(tiny_config("recurrent_gemma", attention_window_size=WINDOW, num_hidden_layers=4))


def held_and_peaks(model: Decoder, tokens: int) -> tuple[int, int, int]:
    """Bytes of the cache behind so many tokens, and the most taken on top of the model for a chunk and for a token."""
    gc.collect()
    cache = model.make_cache()
    before = mx.get_active_memory()

    def read(ids: mx.array) -> int:
        mx.clear_cache()  # a buffer that is left over may be larger than what it is taken for
        mx.reset_peak_memory()
        mx.eval(model(model.embed(ids), cache, last=1), cache.arrays())
        return mx.get_peak_memory() - before

    for _ in range(tokens // CHUNK):
        chunk = read(mx.random.randint(4, 96, (1, CHUNK)))
    token = max(read(mx.array([[5]])) for _ in range(2))
    return cache.nbytes, chunk, token


def test_memory_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes held, and the peaks while reading a chunk and while writing a token, at 2 and at 16 times the window."""
    monkeypatch.setattr(sliding, "STEP", CHUNK)
    monkeypatch.setattr(sliding, "ROLLBACK", 4)
    model = long_model()
    early, late = (held_and_peaks(model, times * WINDOW) for times in (2, 16))
    assert late[0] == early[0]
    assert late[1] <= 1.5 * early[1]  # when temporaries are freed is a matter of timing
    assert late[2] <= 1.5 * early[2]
    growing = tiny_model(tiny_config("gemma", num_hidden_layers=4))
    early, late = (held_and_peaks(growing, times * WINDOW) for times in (2, 16))
    assert all(figure > 2 * before for figure, before in zip(late, early, strict=True)), "it would not have been seen"


def test_far_behind_the_window_the_text_is_still_the_same_chunked_or_not() -> None:
    model = long_model()
    tokens = mx.random.randint(4, 96, (1, 16 * WINDOW + 3))
    whole = model(model.embed(tokens), last=1)
    cache = model.make_cache()
    for at in range(0, tokens.shape[1], 101):
        out = model(model.embed(tokens[:, at : at + 101]), cache, last=1)
    assert mx.abs(out - whole).max().item() <= 1e-4 * (whole.max() - whole.min()).item()
