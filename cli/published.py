"""What the catalogue says of models, drawn: a line for each of many, or all there is to say of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from gemma_mlx.cli.render.tables import narrowed, pairs, size
from gemma_mlx.errors import GemmaError, ModelNotFoundError

if TYPE_CHECKING:
    from gemma_mlx.catalog import Row

# Bits for each weight: MLX's groups of 64 have a scale and a bias of 16 bits each.
FORMATS: Final = {"16-bit": 16.0, "8-bit": 8.5, "4-bit": 4.5}

# What most people want of a family; where it has none of these, all of it.
_MAIN: Final = frozenset(("it", "mix", "chat", "embedding", "predict", "prefixlm-it"))
# Columns of the list, and which of them to keep as the terminal grows narrower.
_HEADERS: Final = ("published", *FORMATS, "context", "reads", "license", "runs", "here")
_KEPT: Final = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8),
    (0, 1, 2, 3, 4, 5, 7, 8),
    (0, 1, 2, 3, 4, 7, 8),
    (0, 1, 3, 8),
    (0, 1, 3),
    (0,),
)
_LICENSES: Final = {"health-ai-developer-foundations": "HAI-DEF"}


def absent(name: str) -> Row | None:
    """The catalogue's row of a model that is not on this machine; None where it is here, or a name of nothing."""
    from gemma_mlx import catalog
    from gemma_mlx.weights import hub

    try:
        known, folder = hub.look(name)
    except GemmaError:  # published, but not to be read here; or no name at all, and `found` says so
        try:
            return catalog.find(name)
        except GemmaError:
            return None
    row = None if folder is not None else catalog.named(known)
    if folder is None and row is None:
        if (meant := hub.short(name)) is not None and meant.form is not None:
            label, model = catalog.spelled(meant.row, meant.form), meant.row.label
            raise ModelNotFoundError(
                f"{label} is not on this machine.",
                f"gemma pull {label} fetches it; gemma show {model} says what is known of the model.",
            )
        raise ModelNotFoundError(f"{known} is not on this machine, and not in the catalogue.", f"gemma pull {known}")
    return row


def headlines(rows: Sequence[Row]) -> list[Row]:
    """The models of each family that answer, describe or embed, in full precision; all of a family without any.

    Derivatives only where nothing else was asked for.
    """
    main = [row for row in rows if row.variant in _MAIN and row.qat is None and row.format == "safetensors"]
    families = {row.generation for row in main}
    shown = [row for row in rows if row in main or row.generation not in families]
    return [row for row in shown if row.generation != "Derivative"] or shown


def headline(rows: Sequence[Row], here: Collection[str], fit: int | None) -> str:
    """A line for each model, `fit` columns wide."""
    return narrowed(_HEADERS, [_line(row, row.repository in here) for row in rows], fit, _KEPT)


def _line(row: Row, here: bool) -> tuple[str, ...]:
    own = row.qat is not None or row.format != "safetensors"  # in the form it is published in, and no other
    sizes = (None if own else row.nbytes(bits) for bits in FORMATS.values())
    return (
        row.label,
        *("" if nbytes is None else f"{nbytes / 1e9:.1f}" for nbytes in sizes),
        "" if row.context is None else f"{row.context // 1024}k",
        " ".join(sorted(row.modalities, key=["text", "image", "audio", "video"].index)),
        _LICENSES.get(row.license or "", row.license or ""),
        "" if runs(row) else "not yet",
        "yes" if here else "",
    )


def runs(row: Row) -> bool:
    """Whether this version reads its files and has its architecture."""
    from gemma_mlx import registry

    return registry.reads(row.format) and row.model_type in registry.MODULES


def as_object(row: Row, here: bool) -> dict[str, Any]:
    """What `--json` prints; the keys are stable."""
    return {
        "name": row.label,
        "repository": row.repository,
        "family": row.generation,
        "parameters": row.network.parameters.total if row.network else None,
        **{f"bytes_{name.replace('-', '_')}": row.nbytes(bits) for name, bits in FORMATS.items()},
        "context": row.context,
        "reads": list(row.modalities),
        "variant": row.variant,
        "qat": row.qat,
        "license": row.license,
        "runs": runs(row),
        "here": here,
        "note": row.note,
    }


def drawn(row: Row, fit: int | None) -> str:
    """All that is known of a model that is not here."""
    rows = [
        ("model", row.label),
        ("repository", row.repository or "not published as one"),
        ("family", row.generation + (f", {row.model_type}" if row.model_type else "")),
        ("reads", ", ".join(row.modalities)),
        ("context", "" if row.context is None else f"{row.context:,} tokens"),
        ("parameters", "" if row.network is None else _parameters(row)),
        ("size", _sizes(row)),
        ("trained for", row.qat or ""),
        ("license", row.license or ""),
        ("runs", "yes" if runs(row) else "not in this version"),
        ("note", row.note or ""),
        ("here", "no" + (f": gemma pull {row.label}" if row.repository and runs(row) else "")),
    ]
    return pairs(rows, fit)


def _parameters(row: Row) -> str:
    assert row.network is not None
    parts = {name: count for name, count in vars(row.network.parameters).items() if count and name != "buffers"}
    told = ", ".join(f"{name.replace('_', ' ')} {count / 1e6:,.0f} M" for name, count in parts.items())
    active = f"; {row.network.active / 1e6:,.0f} M take part in a token" if row.network.active else ""
    return f"{row.network.parameters.total:,}: {told}{active}"


def _sizes(row: Row) -> str:
    found = {name: row.nbytes(bits) for name, bits in FORMATS.items()}
    return ", ".join(f"{size(nbytes)} at {name}" for name, nbytes in found.items() if nbytes is not None)
