"""Fits as text: at every width, without colour, and with what a bar must show."""

from __future__ import annotations

from typing import Any

import pytest

from gemma_mlx.cli.fit import described, told
from gemma_mlx.cli.render.fits import PARTS, bar, drawn_model, drawn_survey
from gemma_mlx.quantize import machine
from gemma_mlx.quantize.fit import Asked, Judge, best, matrix, survey
from gemma_mlx.quantize.subject import of

ASKED = {
    "context": 8192, "prompt": 1000, "chunk": 512, "batch": 2, "kv_bits": 8, "images": 2, "audio": 5.0,
    "text_only": False,
}  # fmt: skip


def _model(name: str, mac: str | None) -> dict[str, Any]:
    judge = Judge(of(name), Asked())
    on = machine.named(mac, None, None)
    answers = judge.answers(on) if on else ()
    rows = {} if on else matrix(judge)
    return {
        "model": name,
        "context": 131_072,
        "notes": ["Something to know."],
        "machine": described(on) if on else None,
        "asked": ASKED,
        "best": best(answers).format if answers else None,
        "formats": [told(answer) for answer in answers],
        "matrix": [
            {
                "memory_gb": size,
                "limit_bytes": row[0].limit_bytes,
                "formats": [told(answer) for answer in row],
            }
            for size, row in rows.items()
        ],
    }


def _survey(mac: str) -> dict[str, Any]:
    on = machine.named(mac, None, None)
    assert on is not None
    found, left_out = survey(on, Asked())
    models = [told(answer) | {"also": others} for answer, others in found]
    return {"machine": described(on), "asked": ASKED, "models": models, "left_out": left_out}


SURVEY = _survey("m4 pro 24")
MODELS = {
    "matrix": _model("gemma4:31b", None),
    "mac": _model("gemma3:27b", "MacBook Air M4 24"),
    "too large": _model("gemma4:31b", "MacBook Neo"),
    "encoder": _model("embeddinggemma:300m", "MacBook Air M4 16"),
}


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_it_fits(columns: int) -> None:
    texts = [drawn_survey(SURVEY, columns), *(drawn_model(facts, columns) for facts in MODELS.values())]
    for text in texts:
        assert all(len(line) <= columns for line in text.splitlines())
        assert "\x1b" not in text


@pytest.mark.parametrize("columns", [40, 80, None])
def test_commands_are_whole(columns: int | None) -> None:
    texts = [drawn_survey(SURVEY, columns), drawn_model(MODELS["mac"], columns), drawn_model(MODELS["matrix"], columns)]
    for text in texts:
        lines = [line for line in text.splitlines() if "sudo" in line]
        assert lines
        assert all(line.rpartition("sudo sysctl iogpu.wired_limit_mb=")[2].isdigit() for line in lines)


def test_a_survey() -> None:
    text = drawn_survey(SURVEY, 80)
    first = next(line for line in text.splitlines() if line.startswith("gemma4:"))
    assert first.split()[:2] == ["gemma4:26b-a4b", "4-bit"]
    for part in ("Best first: ", "the same sizes:", "medgemma:4b", "left out:", "too large", "model  ", "273 GB/s"):
        assert part in text
    assert "2 sequences; keys and values of full layers in 8 bits; 2 pictures; 5 s of sound" in drawn_survey(
        SURVEY, None
    )


def test_nothing_fits() -> None:
    assert "No Gemma fits." in drawn_survey(SURVEY | {"models": []}, 80)


def test_the_matrix_at_three_widths() -> None:
    wide, middle, narrow = (drawn_model(MODELS["matrix"], columns) for columns in (120, 80, 40))
    assert "needs sysctl" in wide
    assert "comfortable  comfortable" in wide
    assert "fits: comfortable. sysctl: with the limit raised." in middle
    assert "comfortable from" in " ".join(narrow.split())
    assert wide.count("\n512 GB") == middle.count("\n512 GB") == 1
    assert "name a Mac" in wide


def test_a_model_on_a_mac() -> None:
    wide, middle = drawn_model(MODELS["mac"], 120), drawn_model(MODELS["mac"], 80)
    assert "note         Something to know." in wide
    for part in ("needs sysctl", "tokens per second. Each token reads", "first token", "GPU cores take"):
        assert part in wide
    assert wide.count("(") > middle.count("("), "intervals of every format where there is room"
    assert drawn_model(MODELS["encoder"], 80).count("writing") == 0


def test_judged_with_the_context_there_is() -> None:
    facts = _model("e2b", None)
    assert "a context of 128 tokens" in drawn_model(facts | {"context": 128}, None)


def test_a_bar() -> None:
    answer = next(each for each in MODELS["mac"]["formats"] if each["format"] == "4-bit")
    title, cells, *legend = bar(answer, 80).splitlines()
    assert title.startswith("gemma3:27b in 4-bit: ")
    assert len(cells) == 72
    whole = max(answer["limit_bytes"], answer["peak_bytes"])
    for part, (letter, name) in PARTS.items():
        assert abs(cells.count(letter) - answer["memory"][part] / whole * 72) <= 1
        assert any(line.endswith(name) for line in legend) == (answer["memory"][part] > 0)
    assert "".join(sorted(cells, key=cells.index)) == cells, "in the order of the legend"


def test_a_bar_over_the_limit() -> None:
    answer = MODELS["too large"]["formats"][0]
    text = bar(answer, 60)
    assert "over the limit" in text
    assert "." not in text.splitlines()[1]
    assert len(text.splitlines()[1]) == 60
