"""Short names on the command line: the variant for this machine is chosen, fetched or made, and runs without a network.

The repositories hold the model in the box, packed or not, so that all of it really answers.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx import registry
from gemma_mlx.cli import opening
from gemma_mlx.cli.app import main
from gemma_mlx.errors import GemmaError, InputError, MemoryLimitError, ModelNotFoundError
from gemma_mlx.macs import find
from gemma_mlx.quantize import machine
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights import cached, hub, made, pull
from gemma_mlx.weights.load import inspect
from tests.hub import Hub, environment, online, server
from tests.terminal import CTRL_C, ENTER, ROOT, Terminal

__all__ = ["online", "server"]

EIGHT, FOUR, PLAIN, BASE = (
    "mlx-community/gemma-3-1b-it-8bit",
    "mlx-community/gemma-3-1b-it-4bit",
    "google/gemma-3-1b-it",
    "google/gemma-3-4b-pt",
)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, bytes]]:
    """The model in the box as a repository has it, by bits."""
    top = tmp_path_factory.mktemp("contents")
    folders = {16: hub.DEMO_FOLDER}
    for bits in (4, 8):
        quantize(plan(hub.DEMO_FOLDER, recipe_name="uniform", bits=bits), top / str(bits))
        folders[bits] = top / str(bits)
    kinds = (".json", ".safetensors", ".model", ".jinja")
    return {
        bits: {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in kinds}
        for bits, folder in folders.items()
    }


@pytest.fixture
def variants(online: Hub, contents: dict[int, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with several variants, and a MacBook Air that asks it."""
    online.models |= {EIGHT: contents[8], FOUR: contents[4], PLAIN: contents[16], BASE: contents[16]}
    air = machine.of(find("MacBook Air M4 16"))
    monkeypatch.setattr(machine, "here", lambda: air)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors",)))
    return online


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert isinstance(left.value.code, int)
    return left.value.code


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def weights_fetched(online: Hub) -> list[str]:
    return [request for request in online.requests if "/cdn/" in request and request.startswith("GET")]


def test_the_variant_for_this_mac_is_fetched_explained_and_runs_offline(
    variants: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("prompt", "Hello", "-m", "1b", "--max-tokens", "3") == 0
    out, err = capsys.readouterr()
    assert out.strip()
    told = err.splitlines()
    assert told[0].startswith("gemma3:1b in 8-bit, 1.1 GB, is the best that fits: 2.0 of 12.7 GB, ")
    assert told[0].endswith("gemma3:1b:4bit names another.") or "names another." in told[0]
    assert told[1].startswith(f"{EIGHT}: ")
    assert all(EIGHT in request for request in weights_fetched(variants))
    offline(monkeypatch)
    variants.requests.clear()
    for name in ("1b", "gemma3:1b", "gemma3:1b:8bit", EIGHT):
        assert run("prompt", "Hello", "-m", name, "--max-tokens", "3") == 0
    assert variants.requests == []
    assert "is the best" not in capsys.readouterr().err, "nothing was chosen"


def test_pull_reports_the_choice(variants: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "1b", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["variant"], found["way"]) == (EIGHT, "8-bit", "fetch")
    assert "is the best that fits" in found["reason"]
    assert found["fetched_bytes"] > 0
    assert run("pull", "1b", "--json") == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert (again["model"], again["way"], again["fetched_bytes"]) == (EIGHT, "here", 0)
    assert "nothing newer is on the hub" in err


def test_a_variant_by_its_name(variants: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", "gemma3:1b-it-q4_K_M") == 0
    assert Path(capsys.readouterr().out.strip()) == cached.complete(FOUR)
    assert opening.found("1b") == (FOUR, cached.complete(FOUR)), "what is here and fits comes first"
    assert run("pull", "1b:bf16", "-q") == 0
    assert cached.complete(PLAIN) is not None
    name, _ = opening.found("1b")
    assert name == FOUR, "bf16 is here, too, and no quicker"
    assert "is here, and fits" in capsys.readouterr().err, "there was a choice"
    assert opening.found("1b", exact=True)[1] == cached.complete(PLAIN), "to quantize, what is not packed"


def test_files_that_hold_more_than_their_name_says(variants: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    trained, four = (f"mlx-community/gemma-3-12b-it-{kind}4bit" for kind in ("qat-", ""))
    variants.models |= {trained: variants.models[FOUR], four: variants.models[FOUR]}
    variants.sizes[trained, "model.safetensors"] = 20 * 10**9
    assert opening.found("gemma3:12b")[0] == four
    err = capsys.readouterr().err
    assert "gemma3:12b in QAT, 8.1 GB, is the best that fits" in err
    assert f"{trained} holds 20.0 GB, more than its name says: It needs " in err
    assert "gemma3:12b in 4-bit" in err


def test_what_is_not_published_packed_is_packed_here(
    variants: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("pull", "gemma3:4b-pt", "--json", "--yes") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["model"], found["variant"], found["way"], found["commit"]) == (
        "gemma3:4b-pt:8bit", "8-bit", "make", None,
    )  # fmt: skip
    folder = Path(found["folder"])
    assert folder.is_relative_to(made.root())
    assert inspect(folder).bits_per_weight == pytest.approx(8.5, abs=0.3)
    assert "It is packed here, out of google/gemma-3-4b-pt." in err
    assert "gemma rm google/gemma-3-4b-pt gives back" in err, "and never without being asked"
    assert cached.complete(BASE) is not None
    assert run("rm", BASE, "--yes", "-q") == 0
    offline(monkeypatch)
    variants.requests.clear()
    for name in ("gemma3:4b-pt", "gemma3:4b-pt:8bit", str(folder)):
        assert opening.found(name)[1] == folder
    assert run("pull", "gemma3:4b-pt") == 0
    assert "was packed on this machine, and is here" in capsys.readouterr().err
    assert run("models", "--here", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["here"]
    assert listed[0]["model"] == "gemma3:4b-pt:8bit"
    assert listed[0]["format"] == "affine, 8 bits in groups of 64" or "8" in listed[0]["format"]
    assert variants.requests == []
    assert run("rm", "gemma3:4b-pt:8bit", "--yes") == 0
    assert not folder.exists()


def test_nobody_says_yes(variants: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "ASK_ABOVE_BYTES", 1000)
    with pytest.raises(InputError, match="to fetch, and nobody is here to say yes") as caught:
        opening.found("1b")
    assert caught.value.hint == "gemma pull gemma3:1b:8bit --yes"
    with pytest.raises(InputError, match=r"to fetch and .* to write, and nobody is here") as caught:
        opening.found("gemma3:4b-pt")
    assert caught.value.hint == "gemma pull gemma3:4b-pt:8bit --yes"
    assert weights_fetched(variants) == []
    assert run("pull", "gemma3:4b-pt:8bit", "--yes", "-q") == 0


def test_no_room(variants: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "free_bytes", lambda: 1000)
    with pytest.raises(ModelNotFoundError, match=r"gemma3:4b-pt:8bit is packed here: .* and the disk has 1.0 kB left"):
        opening.found("gemma3:4b-pt")
    with pytest.raises(ModelNotFoundError, match="of disk"):
        opening.found("1b")
    assert weights_fetched(variants) == []


def test_terms_to_accept(variants: Hub) -> None:
    variants.gated.add(BASE)
    with pytest.raises(ModelNotFoundError, match=f"{BASE} is a gated repository") as caught:
        opening.found("gemma3:4b-pt")
    assert f"{variants.url}/{BASE}" in str(caught.value.hint)


def test_a_line_that_breaks(variants: Hub) -> None:
    variants.cut[EIGHT, "model.safetensors"] = 100_000
    try:
        opening.found("1b", quiet=True)
    except GemmaError:
        assert opening.found("1b", quiet=True)[0] == EIGHT, "it goes on where it was"
    assert cached.complete(EIGHT) is not None


def test_no_network(variants: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE forbids"):
        opening.found("1b")


def test_none_fits(variants: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryLimitError, match="gemma4:31b does not fit, not even in 4-bit") as caught:
        opening.found("31b")
    assert str(caught.value.hint).startswith("gemma4:12b fits: gemma chat gemma4:12b. gemma pull gemma4:31b:4bit")
    assert variants.requests == []
    variants.models["mlx-community/gemma-4-31b-it-4bit"] = variants.models[FOUR]
    assert opening.found("31b", force=True)[0] == "mlx-community/gemma-4-31b-it-4bit"


def test_where_nothing_can_be_judged_it_is_as_published(variants: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> machine.Machine:
        raise InputError("This machine does not say how much memory it has.")

    monkeypatch.setattr(machine, "here", nothing)
    assert opening.found("1b")[1] == cached.complete(PLAIN)


@pytest.mark.parametrize(("name", "near"), [("12bb", "gemma4:12b"), ("12b:9bit", "12b:8bit"), ("gemma3:1b:qatt", "")])
def test_a_slip_of_the_keys(name: str, near: str, variants: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", name) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert near in err
    assert variants.requests == []


@pytest.fixture
def program(variants: Hub, tmp_path: Path) -> dict[str, str]:
    """What a program of its own needs: the same hub, and a limit above which it asks."""
    patched = tmp_path / "patched"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text(
        "from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 10_000\n"
        "from gemma_mlx.cli import opening\nopening.ASK_ABOVE_BYTES = 1000\n"
    )
    found = environment(tmp_path / "home", variants.url)
    return found | {"COLUMNS": "", "PYTHONPATH": f"{patched}{os.pathsep}{ROOT}", "TERM": "xterm-256color"}


def test_a_person_in_40_columns_stops_twice_and_goes_on(variants: Hub, program: dict[str, str]) -> None:
    columns, command = 40, ("gemma_mlx", "pull", "gemma3:4b-pt:8bit")
    with Terminal(*command, columns=columns, env=program) as terminal:
        terminal.wait("into")
        terminal.type(CTRL_C)
        assert terminal.leave() == 130
    assert weights_fetched(variants) == []
    variants.slow, variants.portion = 0.2, 100_000
    with Terminal(*command, columns=columns, env=program) as terminal:
        terminal.wait("[Y/n]")
        terminal.type(ENTER)
        terminal.wait("B/s")
        terminal.type(CTRL_C)
        terminal.wait("Stopped. What was fetched is kept")
        assert terminal.leave() == 130
    variants.slow = 0.0
    with Terminal(*command, columns=columns, env=program) as terminal:
        terminal.wait("[Y/n]")
        terminal.type("y", ENTER)
        terminal.wait("Packed: ")
        terminal.wait("[y/N]")
        terminal.type("y", ENTER)
        assert terminal.leave() == 0
        assert all(len(line) <= columns for line in terminal.screen if "/" not in line)
    home = Path(program["HF_HOME"])
    assert not (home / "hub" / f"models--{BASE.replace('/', '--')}").exists(), "the person said so"
    assert inspect(home / "gemma-mlx" / "gemma-3-4b-pt-8bit").bits_per_weight < 9


def test_two_at_once(variants: Hub, program: dict[str, str]) -> None:
    command = [sys.executable, "-m", "gemma_mlx", "pull", "gemma3:4b-pt:8bit", "--yes"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=program, cwd=ROOT, **pipes) for _ in range(2)]
    told = [each.communicate(timeout=120) for each in both]
    codes = [each.returncode for each in both]
    assert 0 in codes, told
    for code, (_, err) in zip(codes, told, strict=True):
        assert code == 0 or "Another process is writing" in err or "exists" in err, err
    assert inspect(Path(program["HF_HOME"]) / "gemma-mlx" / "gemma-3-4b-pt-8bit").bits_per_weight < 9
