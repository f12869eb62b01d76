"""`gemma quantize`: a smaller checkpoint, and before it the plan of what becomes of every tensor."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.calibration import calibrating, drawn, listen, named, told
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.render.tables import pairs, size, table, width
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from gemma_mlx.quantize.plan import Decision, Group, Plan
    from gemma_mlx.weights.quantized import Quantization


def quantize(
    model: flags.ModelArgument = None,
    also_model: flags.AlsoModel = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to write it; must not exist.", show_default=False),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="NAME", help="gemma, uniform, qat or bf16: which matrices are kept finer."),
    ] = "gemma",
    bits: Annotated[
        int | None, typer.Option("--bits", metavar="N", help="2, 3, 4, 5, 6 or 8, of the rest.", show_default=False)
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", metavar="N", help="32, 64 or 128 weights share a scale.", show_default=False),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", metavar="MODE", help="affine, mxfp4, mxfp8 or nvfp4, of the rest.", show_default=False),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="PATTERN=HOW",
            show_default=False,
            help="Modules whose path holds PATTERN: 8, 6/32, mxfp4, bf16, ...; may be given again.",
        ),
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Choose each group's range for the least error; slower.")
    ] = False,
    method: flags.Method = None,
    text: flags.CalibrationText = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and write nothing.")] = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write a smaller checkpoint of a model, which mlx-lm reads too.

    A tensor at a time is read, packed and written, so a model of any size needs little memory. The folder appears when
    it is complete; a run that is stopped goes on where it was when the same command is given again. Weights that were
    trained for 4 bits (QAT) are recognized and kept exactly. Tokenizer, templates and processor come along.

    With --json one object is printed: model, recipe, folder, tensors, weights, bytes, bits_per_weight, calibration
    (method, tokens, memory_bytes, blind; null without --method), and groups, each with what, layers, tensors, weights,
    bytes, packing, method, and errors where weights lie on a lattice; with --dry-run also decisions, one for each
    tensor.
    """
    if to is None and not dry_run:
        raise InputError(
            "There is no folder to write to.", "gemma quantize MODEL --to FOLDER, or --dry-run to see the plan"
        )
    from gemma_mlx.quantize.convert import quantize as write
    from gemma_mlx.quantize.plan import plan
    from gemma_mlx.weights.write import check_target

    name, folder = found(flags.one_model(model, also_model), quiet=quiet)
    if to is not None:
        to = to.expanduser()
        check_target(folder, to)
    made = plan(
        folder, recipe_name=recipe, mode=mode, bits=bits, group_size=group_size, keep=keep or (), clip=clip,
        method=method,
    )  # fmt: skip
    calibration = calibrating(made, text)
    if not dry_run and to is not None:
        try:
            with Progress(quiet=quiet) as progress:
                listen(calibration, progress, quiet=quiet)
                write(made, to, calibration=calibration, on_progress=progress.quantizing)
        except KeyboardInterrupt:
            if not quiet:
                say("Stopped. The same command goes on where it was.")
            raise
    facts = _facts(name, made, None if dry_run else to) | {"calibration": told(calibration)}
    if as_json:
        if dry_run:
            facts["decisions"] = [_decision(one) for one in made.decisions]
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    print(_drawn(facts, made, width(), plan=dry_run))


def _facts(name: str, made: Plan, folder: Path | None) -> dict[str, Any]:
    return {
        "model": name,
        "recipe": made.recipe.name,
        "folder": None if folder is None else str(folder),
        "tensors": len(made.decisions),
        "weights": made.weights,
        "bytes": made.nbytes,
        "bits_per_weight": made.bits_per_weight,
        "groups": [_group(group) for group in made.groups()],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "what": group.what,
        "layers": list(group.layers),
        "tensors": group.tensors,
        "weights": group.weights,
        "bytes": group.nbytes,
        "packing": _packing(group.how),
        "method": group.method,
        "errors": None if group.errors is None else {"lattice": group.errors[0], "plain": group.errors[1]},
    }


def _decision(one: Decision) -> dict[str, Any]:
    return {
        "module": one.module,
        "tensors": [output.name for output in one.outputs],
        "weights": one.weights,
        "bytes": one.nbytes,
        "packing": _packing(one.how),
        "method": one.method,
    }


def _packing(how: Quantization | None) -> dict[str, Any] | None:
    return None if how is None else {"mode": how.mode, "bits": how.bits, "group_size": how.group_size}


def _drawn(facts: dict[str, Any], made: Plan, fit: int | None, *, plan: bool) -> str:
    before = made.checkpoint
    rows = [
        ("model", f"{facts['model']}, {size(sum(one.source.nbytes for one in made.decisions))}"),
        ("folder", facts["folder"] or ""),
        ("recipe", f"{made.recipe.name}: {made.recipe.told}"),
        ("weights", f"{facts['weights']:,} in {len(before.match.spec.layers)} layers"),
        ("size", f"{size(facts['bytes'])}, {facts['bits_per_weight']:.2f} bits per weight"),
    ]
    exact = [group.errors for group in made.groups() if group.errors is not None]
    if exact:
        lattice, plain = (max(each) for each in zip(*exact, strict=True))
        rows.append(("trained for Q4_0", f"error {lattice:.2%} at most, where plain packing has {plain:.1%}"))
    rows += drawn(facts["calibration"])
    if not plan:
        return pairs(rows, fit)
    lines = [
        (group.what, _layers(group.layers), f"{group.tensors:,}", _told(group), size(group.nbytes))
        for group in made.groups()
    ]
    return f"{pairs(rows, fit)}\n\n{table(('part', 'layers', 'tensors', 'packing', 'bytes'), lines, fit)}"


def _told(group: Group) -> str:
    if group.how is None:
        return "bf16"
    told = f"{group.how.bits} bits / {group.how.group_size}" if group.how.mode == "affine" else group.how.mode
    return told + {"lattice": ", exact", "clip": ", clipped"}.get(group.method or "", named(group.method))


def _layers(layers: tuple[int, ...]) -> str:
    """`0-2, 9`."""
    starts = [index for before, index in pairwise((-2, *layers)) if index != before + 1]
    ends = [index for index, after in pairwise((*layers, -2)) if after != index + 1]
    return ", ".join(f"{one}" if one == other else f"{one}-{other}" for one, other in zip(starts, ends, strict=True))
