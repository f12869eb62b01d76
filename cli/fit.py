"""`gemma fit`: which Gemma fits which Mac, how far its context reaches there, and how fast it answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.render.fits import drawn_model, drawn_survey
from gemma_mlx.cli.render.tables import width
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from gemma_mlx.quantize.fit import Answer, Asked
    from gemma_mlx.quantize.machine import Machine
    from gemma_mlx.quantize.subject import Subject

_NO_MAC: Final = (
    "This machine is no Mac: its memory is taken, and no speed is predicted. Name one: "
    "gemma fit --mac 'MacBook Air M4 16'"
)

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A name such as gemma3:4b, a folder, or the id of a repository; every Gemma where none is named.",
        show_default=False,
    ),
]
MacOption = Annotated[
    str | None, typer.Option("--mac", metavar="WORDS", help="As in 'MacBook Air M4 16'.", show_default=False)
]
ChipOption = Annotated[
    str | None, typer.Option("--chip", metavar="CHIP", help="As in m4-max, whatever the Mac.", show_default=False)
]
MemoryOption = Annotated[
    int | None, typer.Option("--memory", metavar="GB", help="Of the Mac; may stand alone.", show_default=False)
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="One of bf16, 8-bit, 6-bit, 4-bit, mixed, QAT.", show_default=False),
]


def fit(
    model: ModelArgument = None,
    also_model: flags.AlsoModel = None,
    mac: MacOption = None,
    chip: ChipOption = None,
    memory: MemoryOption = None,
    macos: Annotated[int, typer.Option("--macos", metavar="N", help="Its version, where a Mac is named.")] = 26,
    format_name: FormatOption = None,
    context: Annotated[int, typer.Option("--context", metavar="N", help="Tokens it shall hold.")] = 8192,
    prompt: Annotated[int, typer.Option("--prompt", metavar="N", help="Tokens before a first answer.")] = 1000,
    chunk: Annotated[int, typer.Option("--chunk", metavar="N", help="Tokens that are read at once.")] = 512,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Sequences side by side.")] = 1,
    kv_bits: Annotated[
        int | None, typer.Option("--kv-bits", metavar="N", help="Bits of keys and values: 8 or 4.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option("--images", metavar="N", help="Pictures in the context.")] = 0,
    audio: Annotated[float, typer.Option("--audio", metavar="SECONDS", help="Sound in the context.")] = 0.0,
    text_only: Annotated[bool, typer.Option("--text-only", help="Without what reads pictures and sound.")] = False,
    per_layer: flags.PerLayer = flags.Place.DISK,
    draft: Annotated[
        str | None, typer.Option("--draft", metavar="NAME", help="A drafter beside it.", show_default=False)
    ] = None,
    as_json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Say which Gemma fits which Mac, and how fast it answers there. No weight is fetched or read.

    Without a MODEL: this Mac, or the one named, and every Gemma that fits it, best first. With one: for every size of
    memory and every format whether it fits; for one Mac also the memory part by part and the speeds, with intervals in
    which nine of ten measurements lie. Verdicts: comfortable, 0.5 GB or more below what macOS lets a process keep for
    the GPU; tight, below it; needs sysctl, below it once the limit is raised; no.

    With --json one object is printed. Always: asked (the options), machine (null where none is meant). Without a MODEL:
    models (best first; as in formats, and also: others that take the same) and left_out (reason: names). With one:
    model, context, notes, best (a format), formats (each with bits_per_weight, memory, peak_bytes, limit_bytes,
    margin_bytes, verdict, reason, command, context, largest_context, decode, prefill, first_token, fetch, repository,
    ready: whether that holds it, or it is packed here, and drafting) and matrix (memory_gb, limit_bytes and formats:
    verdict, peak_bytes, largest_context, command; empty where a Mac is named).
    """
    from gemma_mlx.quantize import machine
    from gemma_mlx.quantize.fit import Asked

    asked = Asked(
        context=context, prompt=prompt, chunk=chunk, batch=batch, kv_bits=kv_bits, images=images, audio=audio,
        text_only=text_only, per_layer=per_layer.value,
    )  # fmt: skip
    name = flags.one_model(model, also_model)
    on = machine.named(mac, chip, memory, macos)
    facts: dict[str, Any]
    if name is None:
        if draft is not None:
            raise InputError("A drafter is given, and no model that it drafts for.", f"gemma fit {draft}")
        on = on or _here(quiet=quiet)
        facts = _survey(on, asked, format_name)
    else:
        facts = _model(name, on, asked, format_name, draft)
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print((drawn_survey if name is None else drawn_model)(facts, width()))


def _here(*, quiet: bool) -> Machine:
    from gemma_mlx.quantize import machine

    on = machine.here()
    if not on.is_mac and not quiet:
        say(_NO_MAC)
    return on


def _survey(on: Machine, asked: Asked, format_name: str | None) -> dict[str, Any]:
    from gemma_mlx.quantize.fit import survey

    found, left_out = survey(on, asked, format_name)
    return {
        "machine": described(on),
        "asked": asdict(asked),
        "models": [told(answer) | {"also": others} for answer, others in found],
        "left_out": left_out,
    }


def _model(name: str, on: Machine | None, asked: Asked, format_name: str | None, draft: str | None) -> dict[str, Any]:
    from gemma_mlx.quantize import machine, subject
    from gemma_mlx.quantize.fit import Judge, best, matrix

    judge = Judge(subject.of(name, draft), asked, format_name)
    sizes = {} if on is not None else matrix(judge)
    if on is None and (here := machine.here()).is_mac:
        on = here
    answers = () if on is None else judge.answers(on)
    return {
        "model": judge.subject.name,
        "context": judge.subject.spec.context,
        "notes": list(_notes(judge.subject, asked, judge.context)),
        "machine": None if on is None else described(on),
        "asked": asdict(asked),
        "best": best(answers).format if answers else None,
        "formats": [told(answer) for answer in answers],
        "matrix": [
            {
                "memory_gb": size,
                "limit_bytes": row[0].limit_bytes,
                "formats": [
                    {
                        "format": answer.format,
                        "bits_per_weight": answer.bits_per_weight,
                        "verdict": answer.verdict,
                        "peak_bytes": answer.memory.peak,
                        "largest_context": answer.largest_context,
                        "command": answer.command,
                    }
                    for answer in row
                ],
            }
            for size, row in sizes.items()
        ],
    }


def _notes(model: Subject, asked: Asked, context: int) -> list[str]:
    notes = list(model.notes)
    if context < asked.context:
        notes.append(f"It was trained for {model.spec.context:,} tokens, and is judged with those.")
    if model.spec.per_layer is not None and model.spec.per_layer.vocab and asked.per_layer == "disk":
        notes.append("Its table of per-layer embeddings stays on the disk.")
    if asked.batch > 1:
        notes.append("Speeds are those of one sequence.")
    return notes


def described(on: Machine) -> dict[str, Any]:
    """A machine, as `--json` prints it."""
    return {
        "name": on.name,
        "is_mac": on.is_mac,
        "memory_bytes": on.memory_bytes,
        "limit_bytes": on.limit_bytes,
        "ceiling_bytes": on.ceiling_bytes,
        "live": on.live,
        "wired_limit_mb": on.wired_limit_mb,
        "power": on.power,
        "chip": None if on.chip is None else asdict(on.chip),
        "notes": list(on.notes),
    }


def told(answer: Answer) -> dict[str, Any]:
    """An answer, as `--json` prints it."""
    return asdict(answer) | {"peak_bytes": answer.memory.peak, "margin_bytes": answer.margin_bytes}
