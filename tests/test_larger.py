"""The larger tiny model: that what was added to the model in the box does something, and what quantizing costs both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import pytest

import gemma_mlx
from gemma_mlx import demo
from gemma_mlx.quantize.calibrate.reading import windows as calibration
from gemma_mlx.quantize.calibrate.run import Calibration
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.plan import Plan, plan
from gemma_mlx.quantize.target import Aim, plan_for
from gemma_mlx.quantize.texts import passages, windows
from gemma_mlx.weights.load import inspect
from tests.larger import PATH

JUDGED, LENGTH = 8, 64  # windows evenly out of the texts to judge by, and tokens of each
READ: Final = 4  # windows of 256 tokens, out of the texts to calibrate on

Lost = Callable[[Plan], float]


@pytest.fixture(params=[demo.PATH, PATH], ids=["the box", "the larger"])
def source(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


@pytest.fixture
def lost(source: Path, tmp_path: Path) -> Lost:
    """Writes a plan; what it made says less than the source by so many nats a token, on texts that no run has seen."""
    teacher = gemma_mlx.load(source, mx.float32)
    found = [window.tokens for window in windows(passages("judge"), teacher.processor, LENGTH)]
    whole = [list(tokens) for tokens in found if len(tokens) == LENGTH]
    judged = whole[:: len(whole) // JUDGED][:JUDGED]
    text = calibration(source, length=256, most=READ)
    wanted = teacher.logits(judged)

    def measured(made: Plan) -> float:
        number = len(list(tmp_path.iterdir()))
        calibrated = Calibration(made, text) if made.calibrated else None
        student = gemma_mlx.load(quantize(made, tmp_path / f"{number}", calibration=calibrated).folder, mx.float32)
        return full_divergence(wanted, student.logits(judged)).mean().item()  # type: ignore[return-value]

    return measured


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


def test_bytes_where_they_count_lose_less_than_the_same_everywhere(source: Path, lost: Lost) -> None:
    uniform, halves = (plan(source, recipe_name="uniform", group_size=group) for group in (64, 32))
    gemma, aimed = plan(source), plan_for(source, Aim(nbytes=uniform.nbytes, measured=False)).plan
    assert gemma.nbytes <= halves.nbytes
    assert aimed.nbytes <= uniform.nbytes
    coarse = lost(uniform)
    assert lost(gemma) < 0.7 * lost(halves)
    assert lost(aimed) < 0.85 * coarse
    assert lost(plan(source, recipe_name="uniform", bits=8)) < coarse / 20


@pytest.mark.parametrize("source", [PATH], ids=["the larger"])
def test_a_text_and_chosen_ranges_lose_less_than_neither(source: Path, lost: Lost) -> None:
    # Two of its ten layers, to be quick; the box's are all calibrated in test_quantize_calibrate.py.
    rest: dict[str, Any] = {"recipe_name": "uniform", "keep": [r"layers\.[2-9]|embed_tokens=bf16"]}
    made = [plan(source, **rest), plan(source, clip=True, **rest), plan(source, method="gptq", **rest)]
    assert len({one.nbytes for one in made}) == 1
    plain, clipped, calibrated = map(lost, made)
    assert clipped < 0.95 * plain
    assert calibrated < 0.9 * clipped
