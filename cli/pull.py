"""`gemma pull`: fetches a model, or what is new or missing of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import fetch
from gemma_mlx.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.weights.transfer import Plan


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name such as gemma3:4b or google/gemma-3-4b-it.")],
    yes: flags.Yes = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare what is here already with the hub, byte for byte; mend what differs."),
    ] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Fetch a model, or what is new or missing of it, and print its folder.

    Only what gemma reads is fetched. More than 2 GB is asked for; where nobody can answer, --yes must be given. What
    stops goes on where it was with the same command. Every file is held against the size and the hash that the hub
    tells. With --json one object is printed: model, folder, commit, bytes, fetched_bytes and files (name, bytes).
    """
    from gemma_mlx.weights import cached, hub
    from gemma_mlx.weights import pull as pulling

    name, here = hub.look(model)
    if name == hub.DEMO:
        raise InputError("The model in the box came with the program; there is nothing to fetch.", "gemma chat demo")
    if here is not None and not here.is_relative_to(cached.root()):
        raise InputError(f"{model} is a folder on this machine; there is nothing to fetch.", f"gemma chat '{model}'")
    here = here.parent if here is not None and here.is_file() else here
    plan = None
    try:
        plan = pulling.plan(name)
        folder = fetch(plan, yes=yes, verify=verify, quiet=quiet)
    except ModelNotFoundError as error:
        if here is None or verify or plan is not None:
            raise
        folder = here
        if not quiet:
            say(f"{error.message} What is here is whole, and runs.")
    if plan is not None and not plan.missing and not quiet:
        say(f"{plan.name} is here already, and nothing newer is on the hub.")
    print(json.dumps(as_object(name, folder, plan), indent=2) if as_json else folder)


def as_object(name: str, folder: Path, plan: Plan | None) -> dict[str, Any]:
    """What `--json` prints; the keys are stable. Without a plan the hub was not asked."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {
        "model": name,
        "folder": str(folder),
        "commit": folder.name,
        "bytes": sum(files.values()),
        "fetched_bytes": plan.missing if plan is not None else 0,
        "files": [{"name": file, "bytes": nbytes} for file, nbytes in sorted(files.items())],
    }
