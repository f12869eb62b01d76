"""`gemma compare`: how near one model is to another, on texts; and the same after a model was quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import admission, found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.render.judgement import drawn
from gemma_mlx.cli.render.tables import size, width
from gemma_mlx.errors import GemmaError, InputError, MemoryLimitError

if TYPE_CHECKING:
    from gemma_mlx.quantize.judge import Judgement, Side, Task
    from gemma_mlx.quantize.plan import Plan


def compare(
    teacher: Annotated[str, typer.Argument(metavar="A", help="The original: a folder, a name, or demo.")],
    student: Annotated[str, typer.Argument(metavar="B", help="What was made of it.")],
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", metavar="FILE", show_default=False,
            help='Judge by this text instead; of a .jsonl, by the "text" or the "messages" of each line.',
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read only the first tokens of a few texts.")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="Write what is found into B: its README.md and config.json.")
    ] = False,
    force: flags.Force = False,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:  # fmt: skip
    """Measure how far model B is from model A: what quantizing has cost.

    A is read first and let go, then B. What A said is kept, so the next comparison with A reads B alone. KL is the
    divergence of B's predictions from A's in nats, over the 256 tokens A finds likeliest and the rest as one.

    With --json one object is printed: teacher, student, measure, texts, window, top_k, computed, layers (the relative
    error behind each) and kinds: all texts first, then each kind, with kind, count, kl_mean, kl_p999, same_top,
    perplexity_teacher and perplexity_student; of embedding models distance_mean, distance_max and same_nearest.
    """  # fmt: skip
    from gemma_mlx.quantize.judge import Side, Task
    from gemma_mlx.quantize.texts import read_passages

    task = Task.of(quick=quick) if text is None else Task.of(read_passages(text), text.name, quick=quick)
    before, after = (Side(name=name, folder=folder) for name, folder in (
        found(one, quiet=quiet) for one in (teacher, student)
    ))  # fmt: skip
    if record and not Path(after.name).expanduser().exists():
        raise InputError(f"{student} is kept as it was fetched, and nothing is written into it.", "Name a folder.")
    judgement = judged(before, after, task, force=force, quiet=quiet).to_json()
    if record:
        from gemma_mlx.quantize.card import write_evidence

        write_evidence(after.folder, f"Made from {judgement['teacher']}.", judgement, _repository(before.name))
    print(json.dumps(judgement, indent=2, ensure_ascii=False) if as_json else drawn(judgement, width()))


def judged(teacher: Side, student: Side, task: Task, *, force: bool = False, quiet: bool = False) -> Judgement:
    """Compares, with progress."""
    from gemma_mlx.quantize.judge import judge

    with Progress(quiet=quiet) as progress:
        return judge(
            teacher, student, task, memory=admission(force=force, quiet=quiet),
            on_load=progress.loading, on_read=progress.comparing,
        )  # fmt: skip


def finished(plan: Plan, name: str, target: Path, draft: Path, *, judging: bool, quiet: bool) -> dict[str, Any] | None:
    """Judges what was quantized, where it can be, and writes down what it is; the judgement, or None.

    Args:
        plan: after which it was made.
        name: of the source.
        target: what it will be called.
        draft: the folder it is in now.
        judging: whether it is judged.
        quiet: say nothing.
    """
    from gemma_mlx.quantize.card import write_evidence
    from gemma_mlx.quantize.judge import Side, Task

    found: dict[str, Any] | None = None
    if judging:
        try:
            source = Side(name=name, folder=plan.checkpoint.folder)
            found = judged(
                source, Side(name=str(draft), folder=draft, label=target.name), Task.of(), quiet=quiet
            ).to_json()
        except GemmaError as error:
            if not quiet:
                later = f" Later, or on another Mac: gemma compare {name} {target} --record"
                say(f"Not judged: {error.message}{later if isinstance(error, MemoryLimitError) else ''}")
    before = sum(one.source.nbytes for one in plan.decisions)
    public = Path(name).name if Path(name).exists() else name
    made = (
        f"Made from {public} with `gemma quantize`, recipe `{plan.recipe.name}`: {plan.bits_per_weight:.2f} bits per "
        f"weight, {size(plan.nbytes)} instead of {size(before)}."
    )
    write_evidence(draft, made, found, _repository(name), plan.checkpoint.folder)
    return found


def _repository(name: str) -> str | None:
    """The id of the repository that a name means; None where it is a folder, or in the box."""
    from gemma_mlx.weights.hub import look

    known = look(name)[0]
    return known if "/" in known and not Path(known).expanduser().exists() else None
