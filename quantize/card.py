"""The evidence inside a quantized checkpoint: a section of its model card, README.md, and a key of its config.json.

The card is the source's, with a section of ours between two marks, and with the metadata by which hubs find it. Nothing
of this depends on when it is written: a run that is stopped and told again comes out the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gemma_mlx.config import EVIDENCE
from gemma_mlx.weights.write import CARD

BEGIN, END = "<!-- gemma-mlx: begin -->", "<!-- gemma-mlx: end -->"
TAGS: Final = ("mlx", "gemma-mlx", "quantized")

_FRONT: Final = re.compile(r"\A---\n(.*?\n)?---\n", re.DOTALL)
_SECTION: Final = re.compile(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n?", re.DOTALL)
_TOLD: Final[Mapping[str, str]] = {
    "tokens": "the next token of texts",
    "answers": "the second half of texts whose first half the encoder read",
    "canvas": "canvases of which every second token was noise, in one step",
    "vectors": "texts, as vectors",
}


def write_evidence(
    folder: Path,
    made: str,
    judgement: Mapping[str, Any] | None,
    base_model: str | None = None,
    source: Path | None = None,
) -> None:
    """Adds to the card and to config.json what is known about a checkpoint; what was there of ours is replaced.

    Args:
        folder: of the checkpoint.
        made: a sentence about how it was made.
        judgement: JSON form of a `Judgement`; None where it was not judged.
        base_model: repository of the source, if it has one.
        source: folder whose card is kept; `folder` itself where None.

    Raises:
        OSError: the files cannot be read or written.
    """
    kept = (source or folder) / CARD
    before = kept.read_text(encoding="utf-8", errors="replace") if kept.exists() else ""
    _replace(folder / CARD, card(before, made, judgement, base_model))
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop(EVIDENCE, None)
    if judgement is not None:
        config[EVIDENCE] = {"judgement": dict(judgement)}
    text = json.dumps(dict(sorted(config.items())), indent=2, ensure_ascii=False)
    _replace(folder / "config.json", f"{text}\n")


def evidence(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The judgement in a config.json; None where there is none that this version can read."""
    found = config.get(EVIDENCE)
    judgement = found.get("judgement") if isinstance(found, dict) else None
    known = isinstance(judgement, dict) and isinstance(judgement.get("kinds"), list) and judgement["kinds"]
    return judgement if known else None


def card(before: str, made: str, judgement: Mapping[str, Any] | None, base_model: str | None) -> str:
    """A model card, of another one."""
    front = _FRONT.match(before)
    body = _SECTION.sub("\n", before[front.end() :] if front else before).strip("\n")
    metadata = _metadata(front[1] or "" if front else "", base_model)
    section = "\n\n".join([BEGIN, "## Quantized", made, *([] if judgement is None else _told(judgement)), END])
    return f"---\n{metadata}---\n\n{body}\n\n{section}\n" if body else f"---\n{metadata}---\n\n{section}\n"


def _told(judgement: Mapping[str, Any]) -> list[str]:
    """The judgement as a table and the sentences that explain it."""
    kinds: Sequence[Mapping[str, Any]] = judgement["kinds"]
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    if judgement["measure"] == "vectors":
        head = ("texts", "number", "distance, mean", "distance, largest", "same nearest text")
        rows = [
            (one["kind"], f"{one['count']:,}", f"{one['distance_mean']:.2g}", f"{one['distance_max']:.2g}",
             f"{one['same_nearest']:.1%}")
            for one in kinds
        ]  # fmt: skip
        meaning = "Distance is 1 - cosine between the vectors of both."
    else:
        head = ("texts", "tokens", "KL, mean", "KL, 99.9 %", "same likeliest token", "perplexity before", "after")
        rows = [
            (one["kind"], f"{one['count']:,}", f"{one['kl_mean']:.2g}", f"{one['kl_p999']:.2g}",
             f"{one['same_top']:.1%}", f"{one['perplexity_teacher']:.4g}", f"{one['perplexity_student']:.4g}")
            for one in kinds
        ]  # fmt: skip
        meaning = (
            "KL is the Kullback-Leibler divergence of this model's predictions from the original's, in nats, over the "
            f"original's {judgement['top_k']} likeliest tokens and the rest as one."
        )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
    return [
        f"Compared with {judgement['teacher']} on {_TOLD[judgement['measure']]} ({judgement['texts']}):",
        "\n".join(lines),
        f"{meaning} The figures compare these two models, and are no benchmark. Computed by {judgement['computed']}.",
    ]


def _metadata(lines: str, base_model: str | None) -> str:
    """The lines of YAML before a card, with ours among them; all others stay as they are."""
    blocks = _blocks(lines)
    tags = _items(blocks.pop("tags", ""))
    if base_model is not None:
        blocks["base_model"] = f"base_model: {base_model}\n"
        blocks["base_model_relation"] = "base_model_relation: quantized\n"
    blocks["library_name"] = "library_name: mlx\n"
    blocks["tags"] = "tags:\n" + "".join(f"- {tag}\n" for tag in dict.fromkeys([*tags, *TAGS]))
    return "".join(blocks.values())


def _blocks(lines: str) -> dict[str, str]:
    """Key at the left margin -> its line and those that belong to it."""
    blocks: dict[str, str] = {}
    key = ""
    for line in lines.splitlines():
        found = re.match(r"([A-Za-z_][\w-]*)\s*:", line)
        key = found[1] if found else key
        blocks[key] = blocks.get(key, "") + f"{line}\n"
    return blocks


def _items(block: str) -> list[str]:
    """The entries of a list, one to a line or in brackets."""
    first, _, rest = block.partition("\n")
    value = first.partition(":")[2].strip()
    if value.startswith("["):
        return [item.strip().strip("\"'") for item in value.strip("[]").split(",") if item.strip()]
    listed = [line.strip().removeprefix("-").strip() for line in rest.splitlines() if line.strip().startswith("-")]
    return [item.strip("\"'") for item in ([value] if value else []) + listed if item]


def _replace(path: Path, text: str) -> None:
    """Writes a file that is the old one or the new one, whenever it is looked at."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
