"""The program `gemma`: its commands, and the one place where an exception becomes a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NoReturn

import typer

from gemma_mlx import __version__
from gemma_mlx.cli.bench import bench
from gemma_mlx.cli.chat import chat
from gemma_mlx.cli.classify import classify
from gemma_mlx.cli.compare import compare
from gemma_mlx.cli.console import CLOSED_PIPE, FAILED, FAULT, INTERRUPTED, OK, USAGE, columns, complain, safe_streams
from gemma_mlx.cli.doctor import doctor
from gemma_mlx.cli.embed import embed
from gemma_mlx.cli.fit import fit
from gemma_mlx.cli.models import models
from gemma_mlx.cli.prompt import prompt
from gemma_mlx.cli.pull import pull
from gemma_mlx.cli.quantize import quantize
from gemma_mlx.cli.rm import rm
from gemma_mlx.cli.show import show
from gemma_mlx.cli.slice import slice
from gemma_mlx.errors import GemmaError

HELP: Final = """Every Gemma model on a Mac: talk to it, measure it, look inside it.

Answers and figures go to stdout, everything else to stderr. Exit codes: 0 done; 1 it cannot be done, and stderr says
why; 2 a mistyped command line; 3 a policy is violated (gemma classify --check); 70 a fault in gemma; 130 ended by
Ctrl-C; 141 nobody read the output to its end. NO_COLOR is honoured."""

_COMPLETING: Final = "_GEMMA_COMPLETE"
_HELP_COLUMNS: Final = 100

# rich would take longer to load than the rest of `gemma --help`.
app = typer.Typer(
    name="gemma",
    help=HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"gemma {__version__}")
        raise typer.Exit(OK)
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where a fault in gemma happened (GEMMA_DEBUG=1).")
    ] = False,
) -> None:
    """Options of the program itself."""
    del version
    if debug:
        os.environ["GEMMA_DEBUG"] = "1"


app.command()(chat)
app.command()(prompt)
app.command()(embed)
app.command()(classify)
app.command()(models)
app.command()(pull)
app.command()(rm)
app.command()(show)
app.command()(fit)
app.command()(bench)
app.command()(doctor)
app.command()(slice)
app.command()(quantize)
app.command()(compare)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs `gemma` and leaves with its exit code. No traceback reaches a user, unless GEMMA_DEBUG is set.

    Args:
        arguments: the command line without the program's name; the process's own where None.
    """
    if sys.stdout is None:  # closed by the caller: Python then prints into nothing, and without an error
        complain("stdout is closed, so there is nowhere to write an answer.", "Use > /dev/null to throw it away.")
        sys.exit(FAILED)
    safe_streams()
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = CLOSED_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has shown ^C, and the shell's prompt comes next
    if code in (CLOSED_PIPE, INTERRUPTED):
        _silence()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code of the command, with its error told."""
    try:
        command: Any = typer.main.get_command(app)
        if _COMPLETING in os.environ:  # a shell asks what could be typed next
            command.main(prog_name="gemma", complete_var=_COMPLETING)
        # Not `main`: it has its own ideas about broken pipes and Ctrl-C.
        given = list(sys.argv[1:] if arguments is None else arguments)
        width = min(columns(), _HELP_COLUMNS) - 1  # told, it may be below 50
        with command.make_context("gemma", given or ["--help"], terminal_width=width) as context:
            command.invoke(context)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except GemmaError as error:
        return _told(error, FAILED, error.message, error.hint)
    except typer.Exit as leave:
        return int(leave.exit_code)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _told(error, FAILED, f"{error.strerror or error}{where}.", None)
    except Exception as error:  # noqa: BLE001  the last resort: anything else is a fault of ours, and is told as one
        if hasattr(error, "format_message"):  # a usage error; its class has moved between versions of Typer
            return _mistyped(error)
        what = " ".join(str(error).split()) or "no more is known"
        return _told(
            error,
            FAULT,
            f"gemma failed, and it is not your doing: {type(error).__name__}: {what}.",
            "Report it to the project you have gemma from, with the output of the same command under GEMMA_DEBUG=1.",
        )
    return OK


def _told(error: Exception, code: int, message: str, hint: str | None) -> int:
    """Tells an error and returns its exit code; under GEMMA_DEBUG the traceback comes first."""
    if os.environ.get("GEMMA_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    complain(message, hint)
    return code


def _mistyped(error: Any) -> int:
    """A usage error: what is wrong, and what was probably meant."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "gemma"
    near = getattr(error, "possibilities", None)
    message = error.format_message() if not near else f"No such option: {error.option_name}"
    message, _, suggestion = message.partition(" Did you mean ")
    if near:
        suggestion = f"{' or '.join(sorted(near))}?"
    hint = f"Did you mean {suggestion}" if suggestion else f"{path} --help"
    complain(message if message.endswith((".", "!", "?")) else f"{message}.", hint)
    return int(getattr(error, "exit_code", USAGE))


def _silence() -> None:
    """Sends what is still buffered nowhere: Python would complain at exit that nobody reads it."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
