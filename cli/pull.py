"""`gemma pull`: fetches a model, or what is new or missing of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import fetch
from gemma_mlx.cli.variant import Asking, taken
from gemma_mlx.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.quantize.variants import Choice


def pull(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name such as gemma3:4b, gemma3:4b:8bit or google/gemma-3-4b-it."),
    ],
    yes: flags.Yes = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare what is here already with the hub, byte for byte; mend what differs."),
    ] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Fetch a model, or what is new or missing of it, and print its folder.

    A short name is the variant of it that suits this machine, and a line says which and why: one that is published
    packed, or one that is packed here. gemma3:4b:8bit, :6bit, :4bit, :qat, :mixed or :bf16 is that one, and the id of a
    repository is that repository.

    Only what gemma reads is fetched. More than 2 GB is asked for; where nobody can answer, --yes must be given. What
    stops goes on where it was with the same command. Every file is held against the size and the hash that the hub
    tells. With --json one object is printed: model, folder, commit, bytes, fetched_bytes, files (name, bytes), and of a
    variant that was chosen variant, way ("here", "fetch", "make") and reason, which are null where nothing was chosen.
    """
    from gemma_mlx.weights import cached, hub

    meant = hub.short(model)
    name, here = hub.look(model) if meant is None or meant.row.repository is None else (model, None)
    if name == hub.DEMO:
        raise InputError("The model in the box came with the program; there is nothing to fetch.", "gemma chat demo")
    if here is not None and not here.is_relative_to(cached.root()):
        raise InputError(f"{model} is a folder on this machine; there is nothing to fetch.", f"gemma chat '{model}'")
    one = taken(model, Asking(yes=yes, force=meant is not None and meant.form is not None, quiet=quiet))
    choice = None if one is None else one.choice
    if one is not None and (one.choice.way != "here" or not one.folder.is_relative_to(cached.root())):
        folder, fetched = one.folder, one.fetched
        name = one.choice.name
        if one.choice.way == "here" and not quiet:
            say(f"{name} was packed on this machine, and is here.")
    else:
        name, here = hub.look(model) if one is None else (one.choice.name, one.folder)
        folder, fetched = _newest(name, here, yes=yes, verify=verify, quiet=quiet)
    print(json.dumps(as_object(name, folder, fetched, choice), indent=2) if as_json else folder)


def _newest(name: str, here: Path | None, *, yes: bool, verify: bool, quiet: bool) -> tuple[Path, int]:
    """The folder of a repository with what is newest on the hub, and the bytes fetched for it."""
    from gemma_mlx.weights import pull as pulling

    plan = None
    try:
        plan = pulling.plan(name)
        folder = fetch(plan, yes=yes, verify=verify, quiet=quiet)
    except ModelNotFoundError as error:
        if here is None or verify or plan is not None:
            raise
        if not quiet:
            say(f"{error.message} What is here is whole, and runs.")
        return here.parent if here.is_file() else here, 0
    if not plan.missing and not quiet:
        say(f"{plan.name} is here already, and nothing newer is on the hub.")
    return folder, plan.missing


def as_object(name: str, folder: Path, fetched: int, choice: Choice | None = None) -> dict[str, Any]:
    """What `--json` prints; the keys are stable."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {
        "model": name,
        "folder": str(folder),
        "commit": folder.name if folder.parent.name == "snapshots" else None,
        "bytes": sum(files.values()),
        "fetched_bytes": fetched,
        "variant": None if choice is None else choice.form,
        "way": None if choice is None else choice.way,
        "reason": None if choice is None else choice.reason,
        "files": [{"name": file, "bytes": nbytes} for file, nbytes in sorted(files.items())],
    }
