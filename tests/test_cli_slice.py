"""`gemma slice`, and `--slice` where a model is named."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from gemma_mlx.weights.slices import PUBLISHED
from tests.running import run

GOLDEN = str(Path(__file__).parent / "goldens" / "gemma3n_text")
SLICE = "skip=1,3,ffn=20,9,11"


def test_it_writes_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new"
    code, out, err = run(capsys, "slice", GOLDEN, "--slice", SLICE, "--to", str(target), "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["model"], facts["slice"], facts["layers"], facts["weights"]) == (GOLDEN, SLICE, 3, 24_954)
    code, out, _ = run(capsys, "show", str(target), "--json")
    shown = json.loads(out)
    assert (shown["weights"], shown["bytes"], shown["slice"]) == (24_954, facts["bytes"], None)
    code, out, err = run(capsys, "slice", GOLDEN, "--slice", SLICE, "--to", str(target))
    assert code == 1
    assert "exists already" in err


def test_show_shows_a_slice_that_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", GOLDEN, "--slice", SLICE.upper())
    assert code == 0
    assert SLICE in out
    assert "24,954" in out
    assert "stays on the disk" in out


def test_the_published_ones_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "slice", "--list")
    assert all(name in out and written in out for name, (written, _) in PUBLISHED.items())
    _, out, _ = run(capsys, "slice", "--list", "--json")
    assert [row["name"] for row in json.loads(out)] == list(PUBLISHED)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("slice", GOLDEN, "--to", "x"), "There is no slice to write"),
        (("slice", GOLDEN, "--slice", "e2b"), "There is no folder to write to"),
        (("slice", GOLDEN, "--slice", "e2b", "--to", "x"), "is one of E4B"),
        (("slice", "demo", "--slice", "e2b", "--to", "x"), "gemma3_text cannot be sliced"),
        (("slice", GOLDEN, "--slice", "half", "--to", "x"), "'half' is neither"),
        (("show", GOLDEN, "--slice", "half"), "'half' is neither"),
        (("prompt", "hi", "-m", "demo", "--slice", "e2b"), "gemma3_text cannot be sliced"),
        (("chat", "-m", "demo", "--slice", "e2b"), "gemma3_text cannot be sliced"),
        (("bench", "demo", "--slice", "e2b"), "gemma3_text cannot be sliced"),
        (("bench", "demo", "--slice", "e2b", "--against", "mlx-lm"), "reads whole checkpoints"),
    ],
)
def test_what_cannot_be_done(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert says in err
    assert "hint: " in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_bench_says_what_it_measured(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--prompt", "4", "--generate", "2", "--runs", "1", "--warmup", "0", "--per-layer", place, "--slice", SLICE)
    _, out, _ = run(capsys, "bench", GOLDEN, *short, "--json")
    facts = json.loads(out)
    assert (facts["slice"], facts["per_layer"]) == (SLICE, place)
    _, out, _ = run(capsys, "bench", GOLDEN, *short)
    assert f"slice {SLICE}" in out
    assert f"table {'on the' if place == 'disk' else 'in'} {place}" in out
