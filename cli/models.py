"""`gemma models`: the models that are here, and those that could be."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.published import as_object, headline, headlines
from gemma_mlx.cli.render.tables import narrowed, size, width
from gemma_mlx.errors import GemmaError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADERS: Final = ("here", "size", "bits", "format", "used")
_KEPT: Final = ((0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 4), (0, 1), (0,))
_DAY_SECONDS: Final = 86_400


def models(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...",
            show_default=False,
            help="Parts of names that all must occur: 4, 3n, e4b, medgemma. A folder lists the checkpoints in it.",
        ),
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only what is on this machine.")] = False,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help='Only one family: "Gemma 4".', show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Base models, quantized ones and other formats, too.")] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """List the models that are on this machine, and those that are published.

    With --json one object is printed: here (model, folder, bytes, unfinished_bytes, format, bits_per_weight, context,
    used, error) and published (name, repository, family, parameters, bytes_16_bit, bytes_8_bit, bytes_4_bit, context,
    reads, variant, qat, license, runs, here, note).
    """  # fmt: skip
    from gemma_mlx import catalog

    folders = [word for word in words or () if _is_folder(word)]
    asked = [word for word in words or () if word not in folders]
    wanted = catalog.matching(asked, family)
    names = {row.repository.lower() for row in wanted if row.repository} if asked or family else None
    found = [one for folder in folders for one in _in_folder(folder)] or list(_in_cache(names))
    rows = [] if here or folders else headlines(wanted) if not every else wanted
    if not found and not wanted:
        raise ModelNotFoundError(f"No Gemma is called {' '.join(asked)!r}.", "gemma models lists them all.")
    installed = {one["model"] for one in found if one["folder"] is not None and one["error"] is None}
    if as_json:
        published = [as_object(row, row.repository in installed) for row in rows]
        print(json.dumps({"here": found, "published": published}, indent=2, ensure_ascii=False))
        return
    fit = width()
    blocks = [_here(found, fit)] if found else []
    if rows:
        blocks.append(headline(rows, installed, fit))
    print("\n\n".join(blocks) or "Nothing of that is on this machine.")
    if rows and not quiet:
        rest = f" {len(wanted) - len(rows)} more: --all." if len(wanted) > len(rows) else ""
        say(f"Sizes in GB, about. gemma pull NAME fetches one, gemma show NAME tells more.{rest}", dim=True)


def _here(found: list[dict[str, Any]], fit: int | None) -> str:
    rows = []
    for one in found:
        bits = "" if one["bits_per_weight"] is None else f"{one['bits_per_weight']:.2f}"
        state = one["format"] or ("unfinished" if one["error"] is None else "cannot be read")
        used = ago(time.time() - one["used"]) if one["used"] else ""
        rows.append((one["model"], size(one["bytes"]), bits, state, used))
    return narrowed(
        ("here", "size", "bits", "format", "used"), rows, fit, ((0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1), (0,))
    )


def ago(seconds: float) -> str:
    """`today`, `3 days ago`, `5 months ago`."""
    days = int(seconds // _DAY_SECONDS)
    if days < 1:
        return "today"
    for length, unit in ((365, "year"), (30, "month"), (1, "day")):
        if days >= length:
            count = days // length
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    raise AssertionError("unreachable: a day divides all")


def _is_folder(word: str) -> bool:
    return (os.sep in word or word.startswith(("~", "."))) and os.path.isdir(os.path.expanduser(word))


def _in_cache(names: set[str] | None) -> Iterator[dict[str, Any]]:
    """The Gemmas that were packed here, those in the cache, whole or not, and the model in the box.

    Args:
        names: those asked for, in lower case; None for all.
    """
    from gemma_mlx.weights import cached, hub, made

    for each in made.everything():
        if names is None or (each.row.repository or "").lower() in names:
            yield _inspected(each.name, each.folder)
    for one in cached.everything():
        if names is not None and one.name.lower() not in names:
            continue
        facts = _inspected(one.name, one.folder) | {
            "bytes": one.nbytes,
            "unfinished_bytes": one.unfinished,
            "used": one.used,
        }
        if "gemma" in one.name.lower() or facts["format"] is not None:
            yield facts
    if names is None:
        yield _inspected(hub.DEMO, hub.DEMO_FOLDER)


def _in_folder(word: str) -> Iterator[dict[str, Any]]:
    top = Path(os.path.expanduser(word))
    for folder in (top, *sorted(path for path in top.iterdir() if path.is_dir())):
        if (folder / "config.json").exists():
            yield _inspected(str(folder), folder)


def _inspected(name: str, folder: Path | None) -> dict[str, Any]:
    """What the headers of a checkpoint say; `error` where they cannot be read."""
    from gemma_mlx.cli.show import stored
    from gemma_mlx.weights.load import inspect

    facts: dict[str, Any] = {
        "model": name, "folder": None if folder is None else str(folder), "bytes": 0, "unfinished_bytes": 0,
        "format": None, "bits_per_weight": None, "context": None, "used": None, "error": None,
    }  # fmt: skip
    if folder is None:
        return facts
    facts["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        checkpoint = inspect(folder)
    except GemmaError as error:
        return facts | {"error": error.message}
    most = max(stored(checkpoint), key=lambda way: int(way["bytes"]))
    spec = checkpoint.match.spec
    return facts | {
        "format": most["how"],
        "bits_per_weight": checkpoint.bits_per_weight,
        "context": spec.context if hasattr(spec, "context") else None,
    }
