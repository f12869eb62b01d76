"""The program as a whole: help in time, exit codes, and no traceback for anybody."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from gemma_mlx.cli import app as program
from gemma_mlx.errors import GemmaError
from tests.terminal import ROOT

HEAVY = ("mlx", "rich", "prompt_toolkit", "tokenizers", "sentencepiece", "jinja2", "numpy", "huggingface_hub", "mlx_lm")


def gemma(*arguments: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gemma_mlx", *arguments],
        input=text, env=os.environ | env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs `gemma fail` with a command that raises, and returns the exit code."""

    def run(error: BaseException) -> int:
        def fail() -> None:
            raise error

        app = typer.Typer(rich_markup_mode=None)
        app.callback()(lambda: None)
        app.command()(fail)
        monkeypatch.setattr(program, "app", app)
        with pytest.raises(SystemExit) as left:
            program.main(["fail"])
        assert isinstance(left.value.code, int)
        return left.value.code

    return run


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    """The processor's time, Python's start included: on an idle machine that is also the time one waits."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = gemma("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
    assert min(seconds) < 0.3
    for command in ("chat", "prompt", "show", "bench"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["bench", "--help"], ["--version"], ["caht"]])
def test_nothing_heavy_is_loaded_to_print_a_page(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom gemma_mlx.cli.app import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stdout.partition("LOADED")[2].split()) & set(HEAVY) == set()


def test_help_fits_forty_columns() -> None:
    for arguments in (["--help"], ["chat", "--help"], ["prompt", "--help"], ["bench", "--help"]):
        done = gemma(*arguments, COLUMNS="40")
        assert done.returncode == 0
        # Typer breaks neither the longest flags nor the usage line.
        wide = [line for line in done.stdout.splitlines() if len(line) > 40 and "--" not in line and "[" not in line]
        assert wide == []


def test_without_a_command_comes_the_help() -> None:
    done = gemma()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: gemma ")


def test_version() -> None:
    from gemma_mlx import __version__

    assert gemma("--version").stdout == f"gemma {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["caht"], "error: No such command 'caht'.\n\nhint: Did you mean 'chat'?\n"),
        (["xyzzy"], "error: No such command 'xyzzy'.\n\nhint: gemma --help\n"),
        (["chat", "--temprature", "1"], "error: No such option: --temprature.\n\nhint: Did you mean --temperature?\n"),
        (["chat", "a", "b"], "hint: gemma chat --help\n"),
        (["chat", "-t", "warm"], "hint: gemma chat --help\n"),
        (["bench", "--against", "ollama"], "hint: gemma bench --help\n"),
        (["bench", "--runs", "0"], "hint: gemma bench --help\n"),
    ],
)
def test_a_mistyped_command_line(arguments: list[str], told: str) -> None:
    done = gemma(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(told)
    assert "Traceback" not in done.stderr


def test_an_error_is_a_sentence_and_a_hint(failing: Callable[[Any], int], capfd: pytest.CaptureFixture[str]) -> None:
    assert failing(GemmaError("It is broken.", "Mend it.")) == 1
    assert capfd.readouterr() == ("", "error: It is broken.\n\nhint: Mend it.\n")


def test_an_error_of_the_system(failing: Callable[[Any], int], capfd: pytest.CaptureFixture[str]) -> None:
    assert failing(PermissionError(13, "Permission denied", "notes.txt")) == 1
    assert capfd.readouterr().err == "error: Permission denied: notes.txt.\n"


def test_a_fault_is_told_in_a_sentence(
    failing: Callable[[Any], int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failing(ZeroDivisionError("division\nby zero")) == 70
    told = capfd.readouterr().err
    assert told.startswith(
        "error: gemma failed, and it is not your doing: ZeroDivisionError: division by zero.\n\nhint: "
    )
    assert "Traceback" not in told
    monkeypatch.setenv("GEMMA_DEBUG", "1")
    assert failing(ZeroDivisionError("division by zero")) == 70
    assert "Traceback" in capfd.readouterr().err


def test_debug_is_an_option_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GEMMA_DEBUG", "0")
    with pytest.raises(SystemExit):
        program.main(["--debug", "show", "no-such-model"])
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141), (typer.Abort(), 130)]
)
def test_silent_endings(
    failing: Callable[[Any], int], error: BaseException, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failing(error) == code
    assert capfd.readouterr() == ("", "")


def test_an_exit_code_of_a_command(failing: Callable[[Any], int]) -> None:
    assert failing(typer.Exit(7)) == 7


def test_control_characters_in_an_error_stay_out(
    failing: Callable[[Any], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert failing(GemmaError("Bad \x1b[31m name.")) == 1
    assert "\x1b" not in capfd.readouterr().err


def test_completion_for_shells() -> None:
    done = gemma(_GEMMA_COMPLETE="complete_bash", COMP_WORDS="gemma ", COMP_CWORD="1")
    assert done.returncode == 0
    assert {"chat", "prompt", "show", "bench"} <= set(done.stdout.split())


@pytest.mark.parametrize("arguments", [["show", "no-such-model"], ["chat", "./nowhere"], ["prompt", "Hi", "-m", ""]])
def test_a_model_that_is_not_there(arguments: list[str]) -> None:
    done = gemma(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "\n\nhint: " in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    command = f"{sys.executable} -m gemma_mlx prompt Hello -m demo {closed}; echo $? >&3"
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&1; {{ {command}; }}"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_a_full_disk() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has a device that is always full")
    command = f"{sys.executable} -m gemma_mlx --version > /dev/full"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device.\n")
