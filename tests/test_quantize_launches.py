"""Kernels that no array stands for; the whole counts are compared with graphs in tests/test_quantize_traffic.py."""

from __future__ import annotations

from dataclasses import replace

from gemma_mlx import registry
from gemma_mlx.quantize.launches import each, once
from gemma_mlx.spec import LayerSpec
from tests.tiny import tiny_config


def test_capped_scores_take_more_kernels_than_a_fused_one() -> None:
    layer = registry.match(tiny_config("gemma2")).spec.layers[0]
    assert isinstance(layer, LayerSpec)
    plain = replace(layer, attention=replace(layer.attention, softcap=None))
    assert each(layer) - each(plain) == 4


def test_a_third_block_takes_its_own() -> None:
    layer = registry.match(tiny_config("t5gemma")).spec.layers[0]
    assert isinstance(layer, LayerSpec)
    assert each(layer) - each(replace(layer, cross=None)) == 6  # capped attention, and a sum


def test_outside_the_layers() -> None:
    plain, apart = (registry.match(tiny_config(kind)).spec for kind in ("t5gemma", "t5gemma2"))
    assert once(apart) - once(plain) == 2 - 1  # the token that stands apart, and no cap of the logits
