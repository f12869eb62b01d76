"""`gemma classify`: what is read, what is printed, what it leaves with, and what is refused."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.cli import classify
from gemma_mlx.cli.app import main
from gemma_mlx.gemma import Gemma
from gemma_mlx.text.policies import POLICIES
from tests.terminal import CTRL_C, Terminal
from tests.tiny import write_tiny_classifier


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Gemma:
    folder = tmp_path_factory.mktemp("shield")
    write_tiny_classifier(folder)
    return gemma_mlx.load(folder, mx.float32)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["classify", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_block_for_each_text(gemma: Gemma, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hello", "two\n words " + "x" * 200, "-m", gemma.name, "-p", "harassment", "-p", "hate speech") == 0
    out, err = capsys.readouterr()
    assert err == ""
    first, second = gemma.classify(["hello", "two\n words " + "x" * 200], ["harassment", "hate-speech"])
    found = out.splitlines()
    assert (found[0], found[3][:11], len(found[3]), found[3][-3:]) == ("hello", "two words x", 100, "...")
    for at, verdict in ((1, first), (4, second)):
        for line, (name, probability) in zip(found[at:], verdict.probabilities.items(), strict=False):
            word = "violated" if probability >= 0.5 else "-       "
            assert line == f"  {probability:.3f}  {word}  {name}"


def test_jsonl(gemma: Gemma, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("hello", "--response", "bye", "-m", gemma.name, "--jsonl", "--threshold", "0") == 0
    (found,) = lines(capsys)
    keys = ["index", "text", "response", "probabilities", "violated", "prompt_tokens", "reused_tokens"]
    assert list(found) == keys
    (verdict,) = gemma.classify("hello", responses="bye")
    assert (found["index"], found["text"], found["response"]) == (0, "hello", "bye")
    assert found["probabilities"] == pytest.approx(dict(verdict.probabilities), rel=1e-5)
    assert found["violated"] == list(POLICIES)
    assert found["prompt_tokens"] == verdict.prompt_tokens


def test_json(gemma: Gemma, capsys: pytest.CaptureFixture[str]) -> None:
    rule = '"No Spoilers": The prompt shall not tell the end.'
    assert run("a", "b", "-m", gemma.name, "--json", "--policy-text", rule, "--policy", "harassment") == 0
    (found,) = lines(capsys)
    assert list(found) == ["model", "threshold", "verdicts"]
    assert (found["model"], found["threshold"]) == (gemma.name, 0.5)
    assert [(row["index"], row["text"]) for row in found["verdicts"]] == [(0, "a"), (1, "b")]
    assert list(found["verdicts"][0]["probabilities"]) == ["harassment", "No Spoilers"]
    assert "response" not in found["verdicts"][0]


def test_records(gemma: Gemma, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What else a record holds comes back, so that it can be told which is which."""
    pipe(monkeypatch, b'{"text": "a", "id": 7, "index": 9}\n\n{"text": "b", "response": "c"}\n')
    assert run("-m", gemma.name, "--records", "--jsonl", "-p", "harassment") == 0
    found = lines(capsys)
    assert [(row["index"], row["text"], row.get("response"), row.get("id")) for row in found] == [
        (0, "a", None, 7),
        (1, "b", "c", None),
    ]
    wanted = gemma.classify(["a", "b"], "harassment", responses=[None, "c"])
    for row, verdict in zip(found, wanted, strict=True):
        assert row["probabilities"]["harassment"] == pytest.approx(verdict.probabilities["harassment"], rel=1e-5)


def test_lines_of_stdin(gemma: Gemma, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"one\n\nthree\n")
    assert run("-m", gemma.name, "--jsonl", "-p", "harassment") == 0
    assert [row["text"] for row in lines(capsys)] == ["one", "", "three"]


@pytest.mark.parametrize("how", [[], ["--json"], ["--jsonl"]])
def test_the_exit_code(gemma: Gemma, how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a", "-m", gemma.name, "--check", "--threshold", "0", *how) == 3
    assert run("a", "-m", gemma.name, "--check", "--threshold", "1", *how) == 0
    assert run("a", "-m", gemma.name, "--threshold", "0", *how) == 0
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--json", "--jsonl"], "exclude each other"),
        (["a", "--threshold", "1.5"], "--threshold is 1.5, but a probability is from 0 to 1"),
        (["a", "--threshold", "nan"], "--threshold is nan"),
        (["a", "--policy", "spam"], "There is no policy 'spam'"),
        (["a", "--policy-text", " "], "The policy is empty"),
        (["a", "b", "--response", "c"], "--response answers one text, and there are 2"),
        (["a", "--records"], "--records reads texts and responses from lines of JSON"),
        (["--records", "--file", "nowhere.jsonl"], "No such file or directory: nowhere.jsonl"),
        (["word " * 900], "Text 1 takes"),
    ],
)
def test_errors_are_sentences(
    gemma: Gemma, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "-m", gemma.name) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_another_model_is_asked_and_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a", "-m", "demo", "-p", "harassment") == 0
    assert capsys.readouterr().err == (
        "demo was not trained to judge texts: what its probabilities are worth is not known.\n"
    )
    assert run("a", "-m", "demo", "-p", "harassment", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_model_that_is_taken_is_named(
    gemma: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert run("a") == 1
    assert "gemma classify -m google/shieldgemma-2b" in capsys.readouterr().err
    monkeypatch.setattr("gemma_mlx.weights.hub.default", lambda _role: (gemma.name, "because"))
    monkeypatch.setattr("gemma_mlx.cli.classify.found", lambda name, **_: (name, None))
    assert run("a") == 0
    assert f"Taking {gemma.name}" in capsys.readouterr().err


def test_the_help_names_every_policy() -> None:
    assert re.findall(r"[a-z-]+", classify.POLICY_NAMES.replace(" or ", " ")) == list(POLICIES)


def test_progress_where_nothing_else_shows_it(gemma: Gemma, tmp_path: Path) -> None:
    """It appears after a second, though no single text takes that long."""
    path = tmp_path / "texts"
    path.write_text("text\n" * 500)
    with Terminal("gemma_mlx", "classify", "-m", gemma.name, "-f", str(path), "--json", columns=80) as terminal:
        terminal.wait("of 500 texts")
        terminal.type(CTRL_C)
        assert terminal.leave() == 130
