"""How many scores a prompt's attention forms, and which of them go through memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemma_mlx.quantize.costs import Reach
from gemma_mlx.spec import AttentionSpec, Rope


def _reach(head_dim: int, window: int | None, heads: int = 8, kv_heads: int = 1) -> Reach:
    attention = AttentionSpec(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=1.0, rope=Rope(theta=1e4), window=window
    )
    return Reach(attention=attention, layers=3, prefilled=2)


@pytest.mark.parametrize("window", [None, 3, 8, 100])
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 30])
def test_scores_of_a_prompt(window: int | None, tokens: int) -> None:
    seen = sum(min(query + 1, window or tokens) for query in range(tokens))
    assert _reach(128, window).pairs(tokens, chunk=8) == seen
    chunks = [(start, min(start + 8, tokens)) for start in range(0, tokens, 8)]
    rectangles = sum((end - start) * (end - max(0, start - (window or tokens) + 1)) for start, end in chunks)
    assert _reach(256, window).pairs(tokens, chunk=8) == rectangles


def test_capped_scores_are_never_fused() -> None:
    reach = _reach(128, None)
    assert reach.fused
    assert not _reach(256, None).fused
    assert not replace(reach, attention=replace(reach.attention, softcap=50.0)).fused


def test_an_encoder_forms_all_scores() -> None:
    reach = _reach(128, 8)
    both = replace(reach, attention=replace(reach.attention, ahead=7))
    assert both.pairs(100, chunk=10) == 100 * 100
