"""The caches of all layers together."""

from __future__ import annotations

import mlx.core as mx
import pytest

from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.cache.kv import KVCache
from gemma_mlx.cache.sliding import STEP, SlidingCache
from gemma_mlx.errors import CacheError
from gemma_mlx.spec import AttentionSpec, DecoderSpec, LayerSpec, Rope
from tests.test_cache_kv import positions, rows

WINDOWS = (4, None, 4)


def spec(windows: tuple[int | None, ...] = WINDOWS) -> DecoderSpec:
    attention = {"heads": 2, "kv_heads": 2, "head_dim": 3, "scale": 1.0, "rope": Rope(theta=100.0)}
    layers = [LayerSpec(attention=AttentionSpec(**attention, window=w), mlp_dim=8) for w in windows]
    return DecoderSpec(vocab=9, dim=6, layers=tuple(layers), context=99, embed_scale=1.0, norm_eps=1e-6)


def read(cache: DecoderCache, count: int) -> list[list[float]]:
    """Reads `count` more tokens; returns the positions each layer sees."""
    start = cache.offset
    return [positions(layer.update(rows(count, start), rows(count, start))[0]) for layer in cache.layers]


def test_a_layer_gets_the_cache_its_window_asks_for() -> None:
    cache = DecoderCache.empty(spec())
    assert [type(layer) for layer in cache.layers] == [SlidingCache, KVCache, SlidingCache]
    assert cache.keys(4, 10) == 10
    read(cache, 10)
    assert (cache.offset, cache.keys(4, 1), cache.keys(None, 1)) == (10, 4, 11)


def test_rollback_moves_all_layers_or_none() -> None:
    cache = DecoderCache.empty(spec())
    read(cache, 10)
    cache.rollback(3)
    assert cache.is_even
    assert cache.offset == 7
    for _ in range(3 * STEP):
        read(cache, 1)
    with pytest.raises(CacheError, match="window of 4"):
        cache.rollback(2 * STEP)
    assert cache.is_even
    assert cache.offset == 7 + 3 * STEP


def test_snapshot_and_restore() -> None:
    cache = DecoderCache.empty(spec())
    read(cache, 10)
    snapshot = cache.snapshot()
    assert snapshot.nbytes == 2 * 2 * (1 * 2 * 3 * 3 * 4)  # two sliding layers, keys and values, 3 rows of [2 3] floats
    read(cache, 300)
    cache.restore(snapshot)
    assert read(cache, 2) == [[7, 8, 9, 10, 11], list(range(12)), [7, 8, 9, 10, 11]]


def test_rows_by_name_restore_a_cache() -> None:
    cache, other = DecoderCache.empty(spec()), DecoderCache.empty(spec())
    read(cache, 10)
    held = cache.rows()
    assert sorted(held) == ["0.keys", "0.values", "1.keys", "1.values", "2.keys", "2.values"]
    other.load(10, held)
    assert read(other, 1) == read(cache, 1)
    other.load(0, {})
    assert (other.offset, other.nbytes) == (0, 0)


def test_no_cache_keeps_nothing() -> None:
    cache = DecoderCache.none(spec())
    read(cache, 5)
    assert (cache.offset, cache.keys(4, 6), cache.arrays()) == (0, 6, [])
    assert mx.get_active_memory() >= 0
