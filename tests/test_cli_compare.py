"""`gemma compare`, and the judgement after `gemma quantize`: what is printed, kept and shown, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mlx.cli import compare as comparing
from gemma_mlx.cli.render.judgement import told
from gemma_mlx.quantize import judge as judging
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.judge import Task
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights import hub
from gemma_mlx.weights.hub import resolve
from tests.running import run
from tests.tiny import write_tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("Who are you? I am a very small model in a box.", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "demo-4bit"
    quantize(plan(resolve("demo"), recipe_name="uniform", bits=4), target)
    return target


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judges by two lines after quantizing: the project's texts take a minute here."""
    short = Task(chosen=Task.of(quick=True).chosen[:2], name="judge", window=24, quick=True)
    monkeypatch.setattr(judging.Task, "of", lambda *_, **__: short)


def test_a_text_of_ones_own(packed: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compare", "demo", str(packed), "--text", str(text), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == [
        "teacher", "student", "measure", "texts", "window", "top_k", "kinds", "layers", "computed",
    ]  # fmt: skip
    assert (found["teacher"], found["student"], found["texts"]) == ("demo", "demo-4bit", "mine.txt")
    assert [one["kind"] for one in found["kinds"]] == ["all"]
    assert 0 < found["kinds"][0]["kl_mean"] < 1
    assert len(found["layers"]) == 6
    code, out, err = run(capsys, "compare", "demo", str(packed), "--text", str(text))
    assert (code, err) == (0, "")
    assert f"{found['kinds'][0]['kl_mean']:.2g}" in out.splitlines()[-1].split()


def test_what_was_found_is_written_where_it_is_asked_for(
    packed: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("compare", "demo", str(packed), "--text", str(text), "--json")
    before = (packed / "config.json").read_bytes()
    found = json.loads(run(capsys, *arguments)[1])
    assert (packed / "config.json").read_bytes() == before
    run(capsys, *arguments, "--record")
    shown = json.loads(run(capsys, "show", str(packed), "--json")[1])
    assert shown["judgement"] == found
    assert told(found) in " ".join(run(capsys, "show", str(packed))[1].split())
    assert "mine.txt" in (packed / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_quantizing_ends_with_a_judgement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    code, out, err = run(capsys, "quantize", "demo", "--to", str(target), "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["judgement"]
    assert (found["teacher"], found["student"]) == ("demo", "made")
    assert json.loads((target / "config.json").read_text())["gemma_mlx"] == {"judgement": found}
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "# The model in the box" in card, "the source's card is kept"
    assert "recipe `gemma`: 5.01 bits per weight, 2.2 MB instead of 7.2 MB" in card
    assert json.loads(run(capsys, "show", str(target), "--json")[1])["judgement"] == found
    code, out, err = run(capsys, "compare", "demo", str(target), "--json")
    assert json.loads(out) == found, "the same comparison, told again"


@pytest.mark.usefixtures("quick")
def test_evidence_is_not_inherited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run(capsys, "quantize", "demo", "--to", str(first), "--recipe", "bf16")
    assert json.loads(run(capsys, "show", str(first), "--json")[1])["judgement"] is not None
    run(capsys, "quantize", str(first), "--to", str(second), "--no-judge")
    assert json.loads(run(capsys, "show", str(second), "--json")[1])["judgement"] is None
    card = (second / "README.md").read_text(encoding="utf-8")
    assert card.count("## Quantized") == 1
    assert "Made from first with" in card


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GEMMA_MEMORY_LIMIT", "1MB")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where demo was not captured by another test
    target = tmp_path / "made"
    code, out, err = run(capsys, "quantize", "demo", "--to", str(target))
    assert code == 0
    assert "Not judged: demo takes" in err
    assert f"gemma compare demo {target} --record" in " ".join(err.split())
    assert "judged" not in out
    assert "## Quantized" in (target / "README.md").read_text(encoding="utf-8")


def test_what_has_no_tokenizer_is_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "source")
    code, out, err = run(capsys, "quantize", str(tmp_path / "source"), "--to", str(tmp_path / "made"), "--json")
    assert code == 0
    assert "Not judged:" in err
    assert "no tokenizer" in err
    assert json.loads(out)["judgement"] is None
    assert run(capsys, "quantize", str(tmp_path / "source"), "--to", str(tmp_path / "again"), "-q")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo", "nowhere/at-all"), "nowhere/at-all"),
        (("demo", "demo", "--text", "absent.txt"), "absent.txt cannot be read"),
        (("demo", "demo", "--record", "--quick"), "nothing is written into it"),
    ],
)
def test_what_cannot_be_done(arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compare", *arguments)
    assert (code, out) == (1, "")
    assert says in " ".join(err.split())


def test_one_model_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compare", "demo")
    assert code == 2
    assert "B" in err


def test_where_a_name_leads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "look", lambda name: (name, None))
    assert comparing._repository("google/gemma-3-4b-it") == "google/gemma-3-4b-it"
    assert comparing._repository("demo") is None
    assert comparing._repository(str(tmp_path)) is None


KILLED = """
import os, signal
from gemma_mlx.quantize import judge
short = judge.Task(chosen=judge.Task.of().chosen[:1], name="judge", window=24, quick=True)
judge.Task.of = lambda: short
judge.divergence = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from gemma_mlx.cli.app import main
main({arguments!r})
"""


@pytest.mark.usefixtures("quick")
def test_a_run_killed_while_it_judges_comes_out_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, torn = tmp_path / "a" / "made", tmp_path / "b" / "made"
    for target in (whole, torn):
        target.parent.mkdir()
    run(capsys, "quantize", "demo", "--to", str(whole))
    code = KILLED.format(arguments=["quantize", "demo", "--to", str(torn)])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=300, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not torn.exists()
    assert (torn.parent / ".made.partial" / "model.safetensors").exists()
    run(capsys, "quantize", "demo", "--to", str(torn))
    assert _files(torn) == _files(whole)
    assert os.listdir(torn.parent) == ["made"]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
