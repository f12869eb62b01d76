"""`gemma models`: what is here, as its headers say; what is published; in any width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mlx.cli import models
from gemma_mlx.cli.app import main
from gemma_mlx.weights import cached, pull
from tests.hub import TINY, Hub, online, repository_files, server
from tests.terminal import Watched
from tests.tiny import write_tiny

__all__ = ["online", "server"]

NAMES = ["name", "repository", "family", "parameters", "bytes_16_bit", "bytes_8_bit", "bytes_4_bit", "context",
         "reads", "variant", "qat", "license", "runs", "here", "note"]  # fmt: skip
HERE = ["model", "folder", "bytes", "unfinished_bytes", "format", "bits_per_weight", "context", "used", "error"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["models", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture
def stocked(online: Hub, tmp_path: Path) -> Hub:
    """A cache with a model that is whole, one in 4 bits, a part of one, a damaged one, and one of another kind."""
    online.models["google/gemma-3-4b-it"] = repository_files(tmp_path / "q", quantize={"bits": 4, "group_size": 64})
    for name in (TINY, "google/gemma-3-4b-it"):
        pull.fetch(pull.plan(name))
    (cached.repository("google/gemma-3-1b-it") / "blobs").mkdir(parents=True)
    (cached.repository("google/gemma-3-1b-it") / "blobs" / "a.incomplete").write_bytes(b"1" * 5000)
    write_tiny(cached.repository("google/gemma-2b") / "snapshots" / ("a" * 40))
    cached.point("google/gemma-2b", "a" * 40)
    damaged = cached.repository("google/gemma-2b") / "snapshots" / ("a" * 40)
    (damaged / "tokenizer.json").write_text("{}")
    (damaged / "model.safetensors").write_bytes(b"<html>")
    (cached.repository("meta/llama") / "blobs").mkdir(parents=True)
    return online


def test_what_is_here(stocked: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--here", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["published"] == []
    here = {one["model"]: one for one in found["here"]}
    assert list(here) == ["google/gemma-2b", "google/gemma-3-1b-it", "google/gemma-3-4b-it", TINY, "demo"]
    assert all(list(one) == HERE for one in here.values())
    assert (here[TINY]["format"], here[TINY]["bits_per_weight"]) == ("BF16", 16.0)
    assert here["google/gemma-3-4b-it"]["format"] == "affine, 4 bits, groups of 64"
    assert 4.5 <= here["google/gemma-3-4b-it"]["bits_per_weight"] < 5
    assert here["google/gemma-3-1b-it"]["unfinished_bytes"] == 5000
    assert here["google/gemma-3-1b-it"]["folder"] is None
    assert "safetensors" in here["google/gemma-2b"]["error"]
    assert run("--here") == 0
    out = capsys.readouterr().out
    assert "cannot be read" in out
    assert "unfinished" in out
    assert "today" in out


def test_what_is_published(stocked: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("3", "4b", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in found["here"]] == ["google/gemma-3-4b-it"]
    (row,) = found["published"]
    assert list(row) == NAMES
    assert (row["name"], row["here"], row["runs"]) == ("gemma3:4b", True, True)
    assert row["parameters"] == 4_300_079_472
    assert run("gemma3:1b", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["unfinished_bytes"] for one in found["here"]] == [5000]
    assert [row["here"] for row in found["published"] if row["name"] == "gemma3:1b"] == [False], "a part is not all"
    assert run() == 0
    out, err = capsys.readouterr()
    line = next(line for line in out.splitlines() if line.startswith("gemma3:4b "))
    assert line.split() == ["gemma3:4b", "8.6", "4.6", "2.4", "128k", "text", "image", "gemma", "yes"]
    assert "gemma pull NAME fetches one" in err
    assert run("--quiet") == 0
    assert capsys.readouterr().err == ""


def test_filters(stocked: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*arguments: str) -> list[str]:
        assert run(*arguments, "--json") == 0
        return [row["name"] for row in json.loads(capsys.readouterr().out)["published"]]

    assert listed("4") == ["gemma4:e2b", "gemma4:e4b", "gemma4:12b", "gemma4:26b-a4b", "gemma4:31b"]
    assert set(listed("4")) < set(listed("4", "--all"))
    assert listed("--family", "vaultgemma") == ["vaultgemma:1b"], "a family without one that answers"
    assert listed("--family", "gemma 3n", "e4b") == ["gemma3n:e4b"]
    assert len(listed("--all")) == 187


def test_nothing_of_that_name(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("xyzzy") == 1
    assert "No Gemma is called 'xyzzy'." in capsys.readouterr().err
    assert run("--family", "gema 4") == 1
    assert "hint: Did you mean Gemma 4" in capsys.readouterr().err
    assert run("gemma3:4b", "--here") == 0
    assert capsys.readouterr().out == "Nothing of that is on this machine.\n"


def test_a_folder_of_checkpoints(online: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "mine" / "one")
    write_tiny(tmp_path / "mine" / "two", quantize={"bits": 8, "group_size": 32})
    (tmp_path / "mine" / "notes").mkdir()
    assert run(str(tmp_path / "mine"), "--json") == 0
    here = json.loads(capsys.readouterr().out)["here"]
    assert [one["model"] for one in here] == [str(tmp_path / "mine" / name) for name in ("one", "two")]
    assert here[1]["format"] == "affine, 8 bits, groups of 32"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits(columns: int, stocked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    monkeypatch.setattr("sys.stdout", watched)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run() == 0
    lines = watched.getvalue().splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("gemma4:31b") and "62.5" in line for line in lines)


def test_listing_is_no_use(stocked: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    def used() -> list[float]:
        assert run("--here", "--json") == 0
        return [one["used"] for one in json.loads(capsys.readouterr().out)["here"]]

    assert used() == used()


def test_ago() -> None:
    day = 86_400
    ages = [0, day - 1, day, 3 * day, 45 * day, 400 * day, 1000 * day]
    assert [models.ago(age) for age in ages] == [
        "today", "today", "1 day ago", "3 days ago", "1 month ago", "1 year ago", "2 years ago",
    ]  # fmt: skip
