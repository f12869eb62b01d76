"""`gemma quantize`: a smaller checkpoint, and before it the plan of what becomes of every tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.calibration import calibrating, listen
from gemma_mlx.cli.compare import finished
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.render.plans import decided, drawn, facts, fitting
from gemma_mlx.cli.render.tables import width
from gemma_mlx.errors import InputError


def quantize(
    model: flags.ModelArgument = None,
    also_model: flags.AlsoModel = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to write it; must not exist.", show_default=False),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="NAME", help="gemma, uniform, qat, bf16, or exact: what is kept finer."),
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
    target_size: Annotated[
        str | None,
        typer.Option("--target-size", metavar="SIZE", help="As in 6GB: best in so many bytes.", show_default=False),
    ] = None,
    target_bits: Annotated[
        float | None,
        typer.Option(
            "--target-bits", metavar="N", help="As in 4.6: best in so many bits a weight.", show_default=False
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit", metavar="MAC", help="As in 'MacBook Air M4 16', or here: best that it holds.", show_default=False
        ),
    ] = None,
    context: Annotated[int, typer.Option("--context", metavar="N", help="Tokens that a Mac shall hold.")] = 8192,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Run the model to see which parts count.")
    ] = True,
    second_head: Annotated[
        bool | None,
        typer.Option(
            "--second-head/--one-head",
            show_default=False,
            help="Write a Gemma 3's head twice, for mlx-vlm; without either, beside towers.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and write nothing.")] = False,
    judging: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Compare it with the original, and write the result into it.")
    ] = True,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write a smaller checkpoint of a model, which mlx-lm reads too.

    A tensor at a time is read, packed and written, so a model of any size needs little memory. The folder appears when
    it is complete; a run that is stopped goes on where it was when the same command is given again. Weights that were
    trained for 4 bits (QAT) are recognized and kept exactly. Tokenizer, templates and processor come along. Where there
    is memory for the original, both are compared on texts, as `gemma compare` does.

    With a target, how sensitive the model is to each of its matrices is measured once and remembered, and the bytes are
    spent where they save most. A target counts the bytes of all tensors.

    With --json one object is printed: model, recipe, folder, tensors, weights, bytes, bits_per_weight, aim (bytes,
    predicted_loss, sensitivity, tokens; null without a target), calibration (method, tokens, memory_bytes, blind; null
    without --method), groups (what, layers, tensors, weights, bytes, packing, method, and errors where weights lie on a
    lattice) and judgement, as `gemma compare --json` has it, or null; with --dry-run also fits (context,
    comfortable_gb, tight_gb; null where it cannot be told) and decisions, one for each
    tensor.
    """
    if to is None and not dry_run:
        raise InputError(
            "There is no folder to write to.", "gemma quantize MODEL --to FOLDER, or --dry-run to see the plan"
        )
    from gemma_mlx.quantize.convert import quantize as write
    from gemma_mlx.quantize.plan import plan
    from gemma_mlx.quantize.target import aim_of, check_alone, plan_for
    from gemma_mlx.weights.write import check_target

    name, folder = found(flags.one_model(model, also_model), exact=True, quiet=quiet)
    if to is not None:
        to = to.expanduser()
        check_target(folder, to)
    check_alone(recipe, mode, bits, group_size, aimed_at=(target_size, target_bits, fit))
    aim, aimed = aim_of(target_size, target_bits, fit, context=context, measured=measure), None
    how: dict[str, Any] = {"keep": keep or (), "clip": clip, "method": method, "second_head": second_head}
    if aim is None:
        made = plan(folder, recipe_name=recipe, mode=mode, bits=bits, group_size=group_size, **how)
    else:
        with Progress(quiet=quiet) as progress:
            aimed = plan_for(folder, aim, on_progress=progress.sensing, **how)
        made = aimed.plan
        if measure and not aimed.sensitivity.tokens and not quiet:
            say("This model cannot be measured; the bytes are spent by what is known of such parts.")
    calibration = calibrating(made, text)
    judgements: list[dict[str, Any] | None] = []
    packed = False
    if not dry_run and (target := to) is not None:
        try:
            with Progress(quiet=quiet) as progress:
                listen(calibration, progress, quiet=quiet)

                def finish(draft: Path) -> None:
                    nonlocal packed
                    packed = True
                    progress.stop()
                    judgements.append(finished(made, name, target, draft, judging=judging, quiet=quiet))

                write(made, target, calibration=calibration, on_progress=progress.quantizing, finish=finish)
        except KeyboardInterrupt:
            if not quiet:
                rest = "; with --no-judge nothing is left to do." if packed and judging else "."
                say(f"Stopped. The same command goes on where it was{rest}")
            raise
    told = facts(name, made, None if dry_run else to, aimed, calibration)
    told["judgement"] = judgements[0] if judgements else None
    if dry_run:
        told["fits"] = fitting(made, context)
    if as_json:
        if dry_run:
            told["decisions"] = [decided(one, aimed) for one in made.decisions]
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    print(drawn(told, made, width(), plan=dry_run))
