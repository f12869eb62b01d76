"""`gemma rm`: removes models from the cache, never a folder of the user's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import confirm, say
from gemma_mlx.cli.render.tables import size
from gemma_mlx.errors import GemmaError, InputError

if TYPE_CHECKING:
    from gemma_mlx.weights.cached import Cached
    from gemma_mlx.weights.made import Made


def rm(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names as `gemma models --here` has them.")],
    yes: flags.Yes = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Remove models from the cache, with what is unfinished of them, and models that were packed here.

    Says what goes and asks; where nobody can answer, --yes must be given. Other programs that use the Hugging Face
    cache lose them, too. With --json one object is printed: removed (model, bytes) and bytes.
    """
    found = list({each.name: each for each in map(meant, models)}.values())
    total = sum(each.nbytes for each in found)
    for each in found if not (quiet and yes) else ():
        unfinished = getattr(each, "unfinished", 0)
        part = f", {size(unfinished)} of it unfinished" if unfinished else ""
        say(f"{each.name}: {size(each.nbytes)}{part}")
    if not yes and (answer := confirm(f"Remove {size(total)}?", enter=False)) is not True:
        if answer is None:
            raise InputError("Nobody is here to say yes, so nothing was removed.", f"gemma rm {' '.join(models)} --yes")
        raise InputError("Nothing was removed.")
    removed = [{"model": each.name, "bytes": _removed(each)} for each in found]
    if as_json:
        print(json.dumps({"removed": removed, "bytes": total}, indent=2))
    elif not quiet:
        say(f"Removed {size(total)}.")


def _removed(each: Cached | Made) -> int:
    from gemma_mlx.weights import cached, made

    return made.remove(each) if isinstance(each, made.Made) else cached.remove(each.name)


def meant(name: str) -> Cached | Made:
    """The repository in the cache that `name` means, or the variant that was packed here.

    Raises:
        InputError: it is a folder of the user's, or the model in the box.
        ModelNotFoundError: it is not here.
    """
    from gemma_mlx.weights import cached, hub, made

    here = cached.find(name)
    if here is not None:
        return here
    short = hub.short(name)
    if short is not None and short.form is not None and (packed := made.find(short.row, short.form)) is not None:
        return packed
    if name == hub.DEMO:
        raise InputError("The model in the box is a part of the program, and stays.", "gemma models --here")
    if os.path.exists(os.path.expanduser(name)):
        raise InputError(
            f"{name} is a folder of yours; gemma removes nothing but what is in its cache, {cached.root()}.",
            "Remove it with the tools of your system, if you mean to.",
        )
    bare = [known for known, _ in cached.repositories() if known.rpartition("/")[2].lower() == name.lower()]
    try:
        repository = bare[0] if len(bare) == 1 else hub.repository(name)
        here = cached.find(repository)
    except GemmaError as error:
        error.hint = "gemma models --here lists what can be removed."
        raise
    if here is None:
        raise InputError(f"{repository} is not on this machine.", "gemma models --here lists what can be removed.")
    return here
