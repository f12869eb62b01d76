"""Rows of the catalogue, drawn; and what `gemma show` says of a model that is not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mlx import catalog
from gemma_mlx.cli import published
from gemma_mlx.cli.app import main
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import hub


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["show", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_show_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("4:e4b") == 0
    out = capsys.readouterr().out
    for part in (
        "repository  google/gemma-4-E4B-it",
        "context     131,072 tokens",
        "7,941,100,832: ",
        "16.0 GB at 16-bit",
        "here        no: gemma pull gemma4:e4b",
    ):
        assert part in out
    assert run("google/gemma-4-e4b-it", "--json") == 0
    assert json.loads(capsys.readouterr().out)["bytes_16_bit"] == catalog.find("4:e4b").nbytes()


def test_a_slice_needs_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gemma3n:e4b", "--slice", "e2b") == 1
    assert "gemma3n:e4b is not on this machine, and --slice reads its files." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dolphingemma"])
def test_show_what_can_never_be_here(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "runs not in this version" in words
    assert words.endswith("here no")


def test_absent() -> None:
    assert published.absent("gemma3:4b") == catalog.find("gemma3:4b")
    assert published.absent(str(hub.DEMO_FOLDER)) is None
    assert published.absent("no such thing") is None
    with pytest.raises(
        ModelNotFoundError, match="someone/x is not on this machine, and not in the catalogue"
    ) as caught:
        published.absent("someone/x")
    assert caught.value.hint == "gemma pull someone/x"


def test_headlines() -> None:
    shown = published.headlines(catalog.rows())
    families = {row.generation for row in catalog.rows()} - {"Derivative"}
    assert {row.generation for row in shown} == families
    only = [row for row in catalog.rows() if row.generation == "Derivative"]
    assert set(published.headlines(only)) <= set(only)
    assert published.headlines(only)


def test_sizes_are_the_published_ones() -> None:
    """google/gemma-3-4b-it has two files of 4,961,251,752 and 3,639,026,128 bytes, headers included."""
    nbytes = catalog.find("gemma3:4b").nbytes()
    assert nbytes is not None
    assert nbytes == pytest.approx(4_961_251_752 + 3_639_026_128, rel=1e-4)


@pytest.mark.parametrize("columns", [40, 80])
def test_it_fits(columns: int) -> None:
    text = published.drawn(catalog.find("gemma4:26b-a4b"), columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "M take part in a token" in " ".join(text.split())


def test_a_variant_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("12b:8bit") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "gemma4:12b:8bit is not on this machine." in said
    assert "gemma pull gemma4:12b:8bit fetches it; gemma show gemma4:12b says" in said
