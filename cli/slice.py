"""`gemma slice`: a part of a Gemma 3n, written as a checkpoint of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.opening import found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.render.tables import pairs, size, table, width
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from gemma_mlx.weights.load import Checkpoint


def slice(
    model: flags.ModelArgument = None,
    also_model: flags.AlsoModel = None,
    slice: flags.Slice = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to write it; must not exist.", show_default=False),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the published slices, and write nothing.")] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write a slice of a Gemma 3n as a checkpoint of its own.

    Only what belongs to the slice is read, and it is copied as it is: nothing is computed, and towers, tokenizer and
    template come along. With --json one object is printed: model, slice, folder, layers, weights and bytes; with --list
    an array of name, slice and mmlu, the accuracy that was published with it, in percent.
    """
    from gemma_mlx.weights.slices import PUBLISHED, SYNTAX, parse

    if list_them:
        rows = [{"name": name, "slice": written, "mmlu": mmlu} for name, (written, mmlu) in PUBLISHED.items()]
        print(json.dumps(rows, indent=2) if as_json else _listed(rows, width()))
        return
    if slice is None:
        raise InputError(
            "There is no slice to write.", f"gemma slice MODEL --slice e2b --to FOLDER; --list shows names, and "
            f"written out a slice is {SYNTAX}"
        )  # fmt: skip
    piece = parse(slice)
    if to is None:
        raise InputError("There is no folder to write to.", f"gemma slice MODEL --slice {slice} --to FOLDER")
    from gemma_mlx.weights.write import write_slice

    name, folder = found(flags.one_model(model, also_model), exact=True, quiet=quiet)
    with Progress(quiet=quiet) as progress:
        written = write_slice(folder, piece, to.expanduser(), on_progress=progress.writing)
    facts = {"model": name, "slice": str(piece), "folder": str(to), **_facts(written)}
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else _drawn(facts, width()))


def _facts(written: Checkpoint) -> dict[str, Any]:
    return {"layers": len(written.match.spec.layers), "weights": written.weights, "bytes": written.nbytes}


def _drawn(facts: dict[str, Any], fit: int | None) -> str:
    rows = [
        ("folder", facts["folder"]),
        ("slice", f"{facts['slice']} of {facts['model']}"),
        ("weights", f"{facts['weights']:,} in {facts['layers']} layers, {size(facts['bytes'])}"),
    ]
    return pairs(rows, fit)


def _listed(rows: list[dict[str, Any]], fit: int | None) -> str:
    return table(("name", "MMLU", "slice"), [(row["name"], f"{row['mmlu']:.1f} %", row["slice"]) for row in rows], fit)
