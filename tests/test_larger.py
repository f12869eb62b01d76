"""The larger tiny model: what it is, and that what was added to the model in the box does something."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

import gemma_mlx
from gemma_mlx import demo
from gemma_mlx.quantize.texts import passages, windows
from gemma_mlx.weights.load import inspect
from tests.larger import PATH


def test_it_is_larger_and_knows_more() -> None:
    checkpoint = inspect(PATH)
    assert checkpoint.weights == 8_728_064
    assert checkpoint.nbytes < 18e6
    assert (PATH / "tokenizer.model").read_bytes() == (demo.PATH / "tokenizer.model").read_bytes()
    box, larger = gemma_mlx.load(demo.PATH, mx.float32), gemma_mlx.load(PATH, mx.float32)
    judged, text = (windows(passages(which), box.processor, 256)[0].tokens for which in ("judge", "calibrate"))
    assert _loss(larger, judged) < _loss(box, judged) - 1
    whole = _loss(larger, text)
    for layer in (1, 3, 6, 8):
        for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
            larger.decoder.model.layers[layer][norm].weight *= 0
    assert _loss(larger, text) > whole + 0.05


def _loss(gemma: gemma_mlx.Gemma, tokens: tuple[int, ...]) -> float:
    logits = gemma.logits(list(tokens[:-1]))[0]
    return nn.losses.cross_entropy(logits, mx.array(tokens[1:])).mean().item()
