"""The flags that several commands share, and how they become fields of Options."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma_mlx.errors import InputError


class Place(StrEnum):
    """Where a table of per-layer embeddings is kept."""

    DISK = "disk"
    MEMORY = "memory"


MODEL_HELP = (
    "A folder, a name such as gemma3:4b or google/gemma-3-4b-it, or demo; the newest Gemma on this machine that fits "
    "where none is named."
)

ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", metavar="MODEL", help=MODEL_HELP, show_default=False)]
AlsoModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help="The same as MODEL.", show_default=False)
]
System = Annotated[
    str | None,
    typer.Option("--system", "-s", metavar="TEXT", help="Instructions before the first message.", show_default=False),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", "-t", metavar="X", help="0 always takes the likeliest token.", show_default=False),
]
TopK = Annotated[
    int | None,
    typer.Option("--top-k", metavar="N", help="Keep the N likeliest tokens; 0 keeps all.", show_default=False),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", metavar="X", help="Keep the likeliest tokens that together reach X.", show_default=False),
]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", metavar="X", help="Drop tokens below X times the likeliest.", show_default=False),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option("--repetition-penalty", metavar="X", help="Above 1 discourages repeating.", show_default=False),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Makes the answer repeatable on this machine.", show_default=False),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", metavar="N", help="End an answer after N tokens.", show_default=False),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="End an answer before TEXT; may be given again.", show_default=False),
]
Slice = Annotated[
    str | None,
    typer.Option(
        "--slice",
        metavar="SLICE",
        help="Of a Gemma 3n, take a part: e2b, or written out, such as skip=20-24,ffn=8192.",
        show_default=False,
    ),
]
PerLayer = Annotated[
    Place, typer.Option("--per-layer", help="Where a table of per-layer embeddings is kept.", show_default=True)
]
Tools = Annotated[
    Path | None,
    typer.Option(
        "--tools", metavar="FILE", show_default=False,
        help="What the model may call: a JSON array of functions in JSON schema.",
    ),
]  # fmt: skip
Think = Annotated[
    bool | None,
    typer.Option(
        "--think/--no-think", help="Think before answering, or not; else the model's own way.", show_default=False
    ),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="CODE", help="Translate from this language (en, pt-BR, ...).", show_default=False),
]
To = Annotated[
    str | None, typer.Option("--to", metavar="CODE", help="Translate into this language.", show_default=False)
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", help="DiffusionGemma: denoising steps at most.", show_default=False),
]
Block = Annotated[
    int | None,
    typer.Option("--block", metavar="N", help="DiffusionGemma: tokens written together.", show_default=False),
]
KvBits = Annotated[
    int | None,
    typer.Option(
        "--kv-bits", metavar="8|4", show_default=False,
        help="Keep keys and values of layers without a window in so many bits; as computed where not given.",
    ),
]  # fmt: skip
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        show_default=False,
        help="gptq, awq or dwq: choose codes by what a text makes each layer read; slow.",
    ),
]
CalibrationText = Annotated[
    Path | None,
    typer.Option(
        "--text", metavar="FILE", help="What --method reads; else texts of the project's own.", show_default=False
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Load and read what memory may not be enough for.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def one_model(argument: str | None, option: str | None) -> str | None:
    """The model that was named, in whichever way.

    Raises:
        InputError: two different ones were named.
    """
    if argument is not None and option is not None and argument != option:
        raise InputError(f"Two models are named, {argument!r} and {option!r}.", "Name one of them.")
    name = argument if argument is not None else option
    if name is not None and not name.strip():
        raise InputError("The model's name is empty.", "Leave it out to take the model gemma finds, or name a folder.")
    return name


def spoken(tools: Path | None, think: bool | None, source: str | None, target: str | None) -> dict[str, Any]:
    """What was said about tools, thoughts and languages, as a session takes it.

    Raises:
        InputError: one language of two is named, or the file of tools cannot be read.
    """
    given: dict[str, Any] = {} if think is None else {"think": think}
    if (source is None) != (target is None):
        raise InputError("A translation needs two languages, and one is named.", "--from en --to de")
    if source is not None:
        given["languages"] = (source, target)
    if tools is not None:
        from gemma_mlx.text.tools import read_tools

        given["tools"] = read_tools(tools)
    return given


def stated(**values: Any) -> dict[str, Any]:
    """The options that were given; the checkpoint decides about the others."""
    given = {name: value for name, value in values.items() if value is not None}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
        if not given["stop"]:
            del given["stop"]
    return given
