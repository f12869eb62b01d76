"""How windows are read: the predictions that `Gemma.logits` gives, in parts, and what leaves each layer."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.errors import UnsupportedModelError
from gemma_mlx.gemma import Gemma
from gemma_mlx.models.diffusion_gemma import CanvasDecoder
from gemma_mlx.quantize import reading
from gemma_mlx.quantize.reading import measure, read, watched
from gemma_mlx.spec import DrafterSpec
from gemma_mlx.weights.hub import resolve
from tests.tiny import DECODERS, write_tiny

TOKENS = [2, *(7 * n % 90 + 3 for n in range(24))]


def opened(folder: Path, kind: str) -> Gemma:
    write_tiny(folder, kind)
    shutil.copyfile(resolve("demo") / "tokenizer.model", folder / "tokenizer.model")
    return gemma_mlx.load(folder, mx.float32)


def _joined(gemma: Gemma) -> tuple[mx.array, list[int]]:
    parts = list(read(gemma, TOKENS))
    following = mx.concatenate([part.following for part in parts])
    return mx.concatenate([part.logits for part in parts]), following.tolist()


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "diffusion_gemma"])
def test_a_decoder_predicts_each_token_from_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    gemma = opened(tmp_path, kind)
    monkeypatch.setattr(reading, "LOGIT_BYTES", 5 * 4 * gemma.spec.vocab)
    assert measure(kind, gemma.spec) == "tokens"
    assert [len(part.following) for part in read(gemma, TOKENS)] == [5, 5, 5, 5, 4]
    logits, following = _joined(gemma)
    assert following == TOKENS[1:]
    assert mx.allclose(logits, gemma.logits(TOKENS)[0, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5gemma", "t5gemma2"])
def test_an_encoder_decoder_writes_the_second_half(tmp_path: Path, kind: str) -> None:
    gemma = opened(tmp_path, kind)
    assert measure(kind, gemma.spec) == "answers"
    logits, following = _joined(gemma)
    source, answer = TOKENS[:12], TOKENS[12:]
    assert following == answer
    expected = gemma.logits(source, decoder_tokens=[gemma.start, *answer[:-1]])[0]
    assert mx.allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_canvas_is_filled_from_half_of_it(tmp_path: Path) -> None:
    gemma = opened(tmp_path, "diffusion_gemma")
    model = gemma.decoder
    assert isinstance(model, CanvasDecoder)
    assert measure("d", gemma.spec) == "canvas"
    logits, following = _joined(gemma)
    assert following == TOKENS[12:]
    cache = model.make_cache()
    mx.eval(model(model.embed(mx.array([TOKENS[:12]])), cache))
    noisy = [token if index % 2 else index * 2654435761 % model.spec.vocab for index, token in enumerate(following)]
    assert sum(one != other for one, other in zip(noisy, following, strict=True)) > 3
    expected = model.predictions(model.fill(mx.array([noisy]), cache))[0]
    assert mx.allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert len(next(read(gemma, TOKENS * 2)).following) == 16, "no more than the canvas holds"


@pytest.mark.parametrize("kind", [*DECODERS, "t5gemma", "t5gemma2"])
def test_what_leaves_each_layer(tmp_path: Path, kind: str) -> None:
    gemma = opened(tmp_path, kind)
    before, _ = _joined(gemma)
    layers = gemma.decoder.model.layers
    with watched(gemma.decoder, (0.0, 0.5)) as noted:
        after, _ = _joined(gemma)
    assert gemma.decoder.model.layers is layers
    assert mx.array_equal(before, after)
    assert sorted(noted) == list(range(len(layers)))
    width = noted[0].shape[1]
    assert width % gemma.decoder.spec.dim == 0
    assert {array.shape for array in noted.values()} == {(2, width)}
    assert len({tuple(array[1, :4].tolist()) for array in noted.values()}) == len(layers), "each layer adds something"


def test_layers_are_put_back_after_an_error(tmp_path: Path) -> None:
    gemma = opened(tmp_path, "gemma3_text")
    layers = gemma.decoder.model.layers
    with pytest.raises(KeyError), watched(gemma.decoder, (0.5,)):
        raise KeyError
    assert gemma.decoder.model.layers is layers


def test_a_drafter_predicts_nothing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = object.__new__(DrafterSpec)
    with pytest.raises(UnsupportedModelError, match="predicts nothing without"):
        measure("gemma-4-E2B-it-assistant", spec)
