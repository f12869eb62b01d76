"""`gemma fit`, as it is typed: Macs, models, JSON, mistakes, and how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from gemma_mlx.cli.app import main
from gemma_mlx.macs import GIB
from gemma_mlx.quantize import machine
from gemma_mlx.quantize.memory import Kernels
from tests.hub import Hub, server
from tests.terminal import ROOT
from tests.test_weights_remote import environment
from tests.tiny import write_tiny

__all__ = ["server"]

AIR: Final = ("--mac", "MacBook Air M4 16")
ANSWER: Final = [
    "model", "format", "bits_per_weight", "memory", "limit_bytes", "verdict", "reason", "command", "context",
    "largest_context", "decode", "prefill", "first_token", "fetch", "repository", "ready", "drafting",
    "peak_bytes", "margin_bytes",
]  # fmt: skip
MACHINE: Final = [
    "name", "is_mac", "memory_bytes", "limit_bytes", "ceiling_bytes", "live", "wired_limit_mb", "power", "chip",
    "notes",
]  # fmt: skip
MEMORY: Final = [
    "weights", "towers", "drafter", "kv_full", "kv_sliding", "source", "states", "marks", "scores", "working",
]  # fmt: skip


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["fit", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def facts(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(*arguments, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run on a Mac, whose memory is anything."""
    elsewhere = machine.Machine(
        name="this machine, no Mac", memory_bytes=32 * GIB, limit_bytes=25 * GIB, live=True,
        kernels=Kernels(backend="cpu", itemsize=4),
    )  # fmt: skip
    monkeypatch.setattr(machine, "here", lambda: elsewhere)


def test_every_model_for_a_mac(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, *AIR)
    assert list(found) == ["machine", "asked", "models", "left_out"]
    assert list(found["machine"]) == MACHINE
    assert [list(answer) for answer in found["models"]] == [[*ANSWER, "also"]] * len(found["models"])
    assert len(found["models"]) > 15
    assert found["models"][0]["model"] == "gemma4:12b"
    assert found["asked"]["context"] == 8192


def test_a_model_and_a_mac(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "gemma3:12b", *AIR)
    keys = ["model", "context", "notes", "machine", "asked", "best", "formats", "matrix"]
    assert list(found) == keys
    assert found["matrix"] == []
    assert [answer["format"] for answer in found["formats"]] == ["bf16", "8-bit", "6-bit", "4-bit", "mixed", "QAT"]
    for answer in found["formats"]:
        assert list(answer) == ANSWER
        assert list(answer["memory"]) == MEMORY
        assert sum(answer["memory"].values()) == answer["peak_bytes"]
        assert answer["margin_bytes"] == answer["limit_bytes"] - answer["peak_bytes"]
        assert list(answer["decode"]) == ["tokens_per_second", "low", "high", "bound", "reason"]
        assert list(answer["first_token"]) == ["seconds", "low", "high", "bound", "reason"]


@pytest.mark.usefixtures("no_mac")
def test_a_model_alone(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "gemma4:31b")
    assert found["machine"] is None
    assert found["best"] is None
    assert found["formats"] == []
    assert [row["memory_gb"] for row in found["matrix"]] == list(machine.sizes())
    cell = found["matrix"][0]["formats"][0]
    assert list(cell) == ["format", "bits_per_weight", "verdict", "peak_bytes", "largest_context", "command"]
    lines = [cell["command"] for row in found["matrix"] for cell in row["formats"] if cell["verdict"] == "needs sysctl"]
    assert lines
    assert all(line.startswith("sudo sysctl iogpu.wired_limit_mb=") for line in lines)


@pytest.mark.usefixtures("no_mac")
def test_a_machine_that_is_no_mac(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert err.startswith("This machine is no Mac: its memory is taken")
    assert "gemma4:12b" in out
    assert run("--quiet") == 0
    assert capsys.readouterr() == (out, "")


def test_this_mac(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    mac = machine.named("m4 max 64", None, None)
    assert mac is not None
    monkeypatch.setattr(machine, "here", lambda: mac)
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "M4 Max: 16 CPU cores, 40 GPU cores" in out
    found = facts(capsys, "12b")
    assert found["machine"]["name"] == mac.name
    assert found["matrix"]
    assert found["formats"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--chip", "m4-max", "--memory", "64"),
        ("--memory", "36"),
        ("12b", "--memory", "36", "--macos", "15"),
        ("27b", *AIR, "--context", "32768", "--kv-bits", "8", "--chunk", "128"),
        ("gemma3:4b", *AIR, "--images", "3", "--batch", "2"),
        ("e4b", *AIR, "--images", "1", "--audio", "30"),
        ("e4b", *AIR, "--text-only", "--format", "4bit"),
        ("-m", "embeddinggemma:300m", *AIR),
        ("recurrentgemma:9b", *AIR, "--prompt", "100"),
        ("demo", *AIR),
    ],
)
def test_every_form(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "judged" in out
    assert facts(capsys, *arguments)["asked"]


def test_options_are_heeded(capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (facts(capsys, "--memory", "16", "--macos", version)["machine"] for version in ("15", "26"))
    assert old["limit_bytes"] < new["limit_bytes"]
    only = facts(capsys, "12b", *AIR, "--format", "6-bit")
    assert [answer["format"] for answer in only["formats"]] == ["6-bit"]
    notes = facts(capsys, "vaultgemma:1b", *AIR, "--batch", "2")["notes"]
    assert notes == [
        "It was trained for 1,024 tokens, and is judged with those.",
        "Speeds are those of one sequence.",
    ]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("gema3:4b",), "'gema3:4b' is no published Gemma", "gemma3:4b"),
        (("--mac", "MacBok Air"), "is no part of a Mac's name", "MacBook Air"),
        (("--mac", "MacBook Air"), "does not say which chip", "Add one of them"),
        (("--chip", "m9"), "No Mac has a chip 'm9'", "M"),
        (("--memory", "20"), "No Mac has 20 GB", "--memory 16"),
        (("12b", "--kv-bits", "3"), "cannot have 3 bits", "--kv-bits 8"),
        (("12b", "--format", "5bit"), "'5bit' is no format", "4-bit"),
        (("gemma3:1b", "--images", "1", *AIR), "gemma3:1b reads no pictures", "gemma fit gemma3:1b"),
        (("gemma4:12b", "--draft", "gemma4:e2b-assistant"), "made for another model", "-assistant"),
        (("gemma4:12b", "--draft", "gemma4:e2b"), "is no drafter", "--draft"),
        (("--draft", "gemma4:e2b-assistant"), "no model that it drafts for", "gemma fit gemma4:e2b-assistant"),
        (("12b", "-m", "4b"), "Two models are named", "Name one"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str, hint: str) -> None:
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    said, _, told = " ".join(err.split()).partition(" hint: ")
    assert message in said
    assert hint in told


def test_a_repository_on_a_hub(tmp_path: Path, server: Hub) -> None:
    """Known from its headers; a name that belies its bits is told."""
    folder = tmp_path / "made"
    write_tiny(folder, quantize={"bits": 8, "group_size": 64})
    server.models["someone/tiny-4bit"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = [sys.executable, "-m", "gemma_mlx", "fit", "someone/tiny-4bit", *AIR, "--json"]
    done = subprocess.run(
        command, env=environment(tmp_path / "home", server.url), capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found["notes"][0] == "Its name says 4 bits; its files hold 8.55 bits per weight."
    assert [answer["format"] for answer in found["formats"]] == ["8.5-bit file"]
    assert found["best"] == "8.5-bit file"


@pytest.mark.parametrize("arguments", ["*AIR", "'31b'"])
def test_under_a_second(arguments: str) -> None:
    """Seconds of this processor with all imports; the clock on the wall would count what else runs here."""
    program = (
        "import sys, time; from gemma_mlx.cli.app import main\n"
        f"AIR = {AIR!r}\n"
        f"try: main(['fit', {arguments}])\n"
        "finally: print(time.process_time(), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
        )
        seconds.append(float(done.stderr.split()[-1]))
    assert min(seconds) < 1.0
