"""`gemma pull`: fetched, resumed, asked for, refused; on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_mlx.cli import opening
from gemma_mlx.cli.app import main
from gemma_mlx.weights import cached, hub
from tests.hub import COMMIT, TINY, Hub, environment, online, server
from tests.terminal import CTRL_C, ENTER, ROOT, Terminal

__all__ = ["online", "server"]


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["pull", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_folder_is_printed(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TINY) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()) == hub.resolve(TINY)
    assert f"{TINY}: " in err
    assert "Fetched and verified: " in err
    assert run(TINY) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()) == hub.resolve(TINY)
    assert err == f"{TINY} is here already, and nothing newer is on the hub.\n"
    assert run(TINY, "--quiet", "--verify") == 0
    assert capsys.readouterr().err == ""


def test_json(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TINY, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["model", "folder", "commit", "bytes", "fetched_bytes", "variant", "way", "reason", "files"]
    assert found["commit"] == COMMIT
    assert found["bytes"] == sum(file["bytes"] for file in found["files"])
    assert 0 < found["fetched_bytes"] < found["bytes"], "config.json came first"


def test_without_a_network_what_is_here_is_enough(
    online: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    assert run(TINY, "-q") == 0
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    capsys.readouterr()
    assert run(TINY, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["fetched_bytes"] == 0
    assert "HF_HUB_OFFLINE forbids to fetch it. What is here is whole, and runs." in err
    assert run(TINY, "--verify") == 1, "which cannot be done without the hub"


def test_what_is_large_must_be_asked_for(
    online: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "ASK_ABOVE_BYTES", 1000)
    assert run(TINY) == 1
    err = capsys.readouterr().err
    assert "to fetch, and nobody is here to say yes to that." in err
    assert f"hint: gemma pull {TINY} --yes" in err
    assert not any("/cdn/" in request for request in online.requests)
    assert run(TINY, "--yes") == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("demo", "came with the program"),
        (str(hub.DEMO_FOLDER), "is a folder on this machine"),
        ("gema3:4b", "is no published Gemma"),
        ("gemma3", "is 5 models"),
        ("someone/nothing", "There is no repository someone/nothing"),
    ],
)
def test_names_of_nothing_to_fetch(name: str, told: str, online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert "hint: " in err


def test_settings_are_huggingface_hubs(server: Hub, online: Hub, tmp_path: Path) -> None:
    env = environment(tmp_path / "home", server.url, HF_HUB_CACHE=str(tmp_path / "mine"), HF_TOKEN="hf_mine")
    done = subprocess.run(
        [sys.executable, "-m", "gemma_mlx", "pull", TINY], env=env, cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "mine")
    assert ("127.0.0.1", "Bearer hf_mine") in server.tokens


@pytest.fixture
def terminal_env(online: Hub, tmp_path: Path) -> dict[str, str]:
    """A hub that takes some seconds, and a limit above which `gemma pull` asks."""
    online.slow, online.portion = 0.2, 15_000
    patched = tmp_path / "patched"
    patched.mkdir()
    (patched / "sitecustomize.py").write_text(
        "from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 10_000\n"
        "from gemma_mlx.cli import opening\nopening.ASK_ABOVE_BYTES = 1000\n"
    )
    found = environment(tmp_path / "home", online.url, HF_HUB_CACHE=str(cached.root()))
    return found | {"COLUMNS": "", "PYTHONPATH": f"{patched}{os.pathsep}{ROOT}", "TERM": "xterm-256color"}


def test_a_person_is_asked_sees_how_far_it_is_and_stops_it(online: Hub, terminal_env: dict[str, str]) -> None:
    columns = 40
    with Terminal("gemma_mlx", "pull", TINY, columns=columns, env=terminal_env) as terminal:
        terminal.wait("Fetch it? [Y/n]")
        terminal.type("perhaps", ENTER)
        terminal.wait("Fetch it? [Y/n]")
        terminal.type(ENTER)
        terminal.wait("B/s")
        terminal.type(CTRL_C)
        terminal.wait("Stopped. What was fetched is kept")
        assert terminal.leave() == 130
        assert all(len(line) <= columns for line in terminal.screen)
        assert not any("Fetching" in line for line in terminal.screen), "the line of progress goes away"
    online.slow = 0.0
    with Terminal("gemma_mlx", "pull", TINY, columns=columns, env=terminal_env) as terminal:
        asked = terminal.wait("Fetch it? [Y/n]")
        assert "of them" in " ".join(asked.split())
        terminal.type("y", ENTER)
        terminal.wait("Fetched and verified")
        assert terminal.leave() == 0


def test_no_is_an_answer(online: Hub, terminal_env: dict[str, str]) -> None:
    with Terminal("gemma_mlx", "pull", TINY, env=terminal_env) as terminal:
        terminal.wait("Fetch it? [Y/n]")
        terminal.type("n", ENTER)
        terminal.wait("error: Nothing was fetched.")
        assert terminal.leave() == 1
    assert not any("/cdn/" in request for request in online.requests)
