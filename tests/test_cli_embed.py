"""`gemma embed`: what is read, what is printed, and what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import gemma_mlx
from gemma_mlx.cli import embed
from gemma_mlx.cli.app import main
from gemma_mlx.gemma import Gemma
from gemma_mlx.text.tasks import NONE, TASKS
from tests.goldens.text import assets
from tests.tiny import write_tiny_embedder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    folder = tmp_path_factory.mktemp("embedder")
    write_tiny_embedder(folder, vocab=4202, tokenizer=assets.small("gemma3"))
    return gemma_mlx.load(folder, mx.float32)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["embed", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("more", [[], ["--jsonl"]])
def test_a_line_for_each_text(gemma: Gemma, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hello", "two wörds", "-m", gemma.name, *more) == 0
    found = lines(capsys)
    assert [list(line) for line in found] == [["index", "text", "embedding"]] * 2
    assert [(line["index"], line["text"]) for line in found] == [(0, "hello"), (1, "two wörds")]
    wanted = gemma.embed(["hello", "two wörds"])
    assert np.array_equal(np.array([line["embedding"] for line in found], np.float32), np.array(wanted))


def test_options_reach_the_library(gemma: Gemma, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "16", "--document-title", "On Mars", "--no-normalize", "--batch", "1", "--json"]
    assert run("Red.", "-m", gemma.name, *options) == 0
    (found,) = lines(capsys)
    assert list(found) == ["model", "task", "size", "embeddings"]
    assert (found["model"], found["task"], found["size"]) == (gemma.name, "document", 16)
    wanted = gemma.embed("Red.", title="On Mars", size=16, normalize=False)
    assert np.allclose(found["embeddings"][0]["embedding"], np.array(wanted[0]), atol=1e-5)
    assert run("Red.", "-m", gemma.name, "--task", "query") == 0
    assert np.allclose(lines(capsys)[0]["embedding"], np.array(gemma.embed("Red.", task="query")[0]), atol=1e-5)


@pytest.mark.parametrize("data", [b"one\n\nthree\n", b"one\r\n\r\nthree", b"\xef\xbb\xbfone\n\nthree"])
def test_lines_of_stdin(
    gemma: Gemma, data: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, data)
    assert run("-m", gemma.name) == 0
    assert [line["text"] for line in lines(capsys)] == ["one", "", "three"]


def test_arguments_then_files(
    gemma: Gemma, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a1\na2\n", encoding="utf-8")
    pipe(monkeypatch, b"piped")
    assert run("first", "--file", str(tmp_path / "a.txt"), "-f", "-", "-m", gemma.name) == 0
    assert [line["text"] for line in lines(capsys)] == ["first", "a1", "a2", "piped"]


def test_nothing_in_nothing_out(
    gemma: Gemma, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"")
    assert run("-m", gemma.name, "--out", str(tmp_path / "none.npy")) == 0
    assert capsys.readouterr().out == ""
    assert np.load(tmp_path / "none.npy").shape == (0, 64)


def test_npy(gemma: Gemma, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "vectors.npy"
    target.write_bytes(b"older")
    assert run("hello", "two words", "-m", gemma.name, "--out", str(target)) == 0
    assert capsys.readouterr() == ("", "")
    found = np.load(target)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.array(gemma.embed(["hello", "two words"])))
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--jsonl"], "exclude each other"),
        (["--out", "x.npy", "--json"], "exclude each other"),
        (["--out", "x.csv"], "hint: --out x.npy"),
        (["--task", "chat"], "There is no task 'chat'"),
        (["--size", "65"], "this model's have 64"),
        (["--file", "nowhere.txt"], "No such file or directory: nowhere.txt"),
        (["-m", "demo"], "demo writes text; it makes no vectors"),
        (["word " * 64], "Text 2 has"),
        (["--out", "nowhere/x.npy"], "No such file or directory: nowhere"),
    ],
)
def test_errors_are_sentences(
    gemma: Gemma, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = [] if "-m" in arguments else ["-m", gemma.name]
    assert run("hello", *model, *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_truncate(gemma: Gemma, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("word " * 64, "-m", gemma.name, "--truncate") == 0
    assert len(lines(capsys)) == 1


def test_a_file_that_is_not_utf8(gemma: Gemma, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin.txt").write_bytes("wört".encode("latin-1"))
    assert run("--file", str(tmp_path / "latin.txt"), "-m", gemma.name) == 1
    assert "latin.txt is not UTF-8 text" in capsys.readouterr().err


def test_no_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    assert run() == 1
    assert "There is no text." in capsys.readouterr().err


def test_no_model_named_and_none_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert run("hello") == 1
    assert "google/embeddinggemma-300m" in capsys.readouterr().err


def test_the_model_that_is_taken_is_named(
    gemma: Gemma, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gemma_mlx.weights.hub.default", lambda _role: (gemma.name, "because"))
    monkeypatch.setattr("gemma_mlx.cli.embed.found", lambda name, **_: (name, None))
    assert run("hello") == 0
    assert f"Taking {gemma.name}" in capsys.readouterr().err
    assert run("hello", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_an_embedding_model_does_not_chat(
    gemma: Gemma, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, b"")
    with pytest.raises(SystemExit) as left:
        main(["prompt", "Hi", "-m", gemma.name])
    assert left.value.code == 1
    assert "is an embedding model" in capsys.readouterr().err


def test_the_help_names_every_task() -> None:
    assert re.findall(r"[a-z-]+", embed.TASK_NAMES.replace(" or ", " ")) == [*TASKS, NONE]
