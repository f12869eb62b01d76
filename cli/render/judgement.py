"""How near one model is to another, as tables: `gemma compare`, and a line of `gemma show`."""

from __future__ import annotations

from typing import Any, Final

from gemma_mlx.cli.render.tables import narrowed, pairs

LAYERS_SHOWN: Final = 8
_READ: Final = {
    "tokens": "each token from those before it",
    "answers": "the second half of a text from the first, which the encoder read",
    "canvas": "half of a canvas from its other half and the text before it, in one step",
    "vectors": "a vector of each text",
}


def drawn(judgement: dict[str, Any], fit: int | None) -> str:
    """All of a judgement, `fit` columns wide."""
    rows = [
        ("from", judgement["teacher"]),
        ("to", judgement["student"]),
        ("texts", f"{judgement['texts']}, {judgement['window']:,} tokens at once at most"),
        ("compared", _READ[judgement["measure"]]),
        ("layers", _layers(judgement["layers"])),
        ("computed", judgement["computed"]),
    ]
    vectors = judgement["measure"] == "vectors"
    return f"{pairs(rows, fit)}\n\n{_vectors(judgement, fit) if vectors else _predictions(judgement, fit)}"


def told(judgement: dict[str, Any]) -> str:
    """A judgement in a line."""
    found, teacher = judgement["kinds"][0], judgement["teacher"]
    count = f"{found['count']:,}"
    if judgement["measure"] == "vectors":
        mean, most, nearest = (found[key] for key in ("distance_mean", "distance_max", "same_nearest"))
        return (
            f"vectors {mean:.2g} (1 - cosine) from those of {teacher}, {most:.2g} at most; of {count} texts, the "
            f"nearest other is the same for {nearest:.1%}"
        )
    before, after = found["perplexity_teacher"], found["perplexity_student"]
    return (
        f"KL {found['kl_mean']:.2g} from {teacher}, {found['kl_p999']:.2g} at the 99.9th percentile; the same "
        f"likeliest token in {found['same_top']:.1%} of {count}; "
        f"perplexity {_perplexity(before)} -> {_perplexity(after)}"
    )


def _predictions(judgement: dict[str, Any], fit: int | None) -> str:
    headers = ("texts", "tokens", "KL", "KL 99.9%", "same token", "perplexity", "before")
    rows = [
        (
            one["kind"],
            f"{one['count']:,}",
            f"{one['kl_mean']:.2g}",
            f"{one['kl_p999']:.2g}",
            f"{one['same_top']:.1%}",
            _perplexity(one["perplexity_student"]),
            _perplexity(one["perplexity_teacher"]),
        )
        for one in judgement["kinds"]
    ]
    return narrowed(headers, rows, fit, [range(7), (0, 2, 3, 4), (0, 2, 4)])


def _perplexity(value: float) -> str:
    """`12.34`, and `29,040` rather than `2.904e+04`."""
    return f"{value:,.4g}" if value < 9999.5 else f"{value:,.0f}"


def _vectors(judgement: dict[str, Any], fit: int | None) -> str:
    headers = ("texts", "number", "distance", "at most", "same nearest")
    rows = [
        (
            one["kind"],
            f"{one['count']:,}",
            f"{one['distance_mean']:.2g}",
            f"{one['distance_max']:.2g}",
            f"{one['same_nearest']:.1%}",
        )
        for one in judgement["kinds"]
    ]
    return narrowed(headers, rows, fit, [range(5), (0, 2, 4)])


def _layers(errors: list[float]) -> str:
    """The error behind a few layers, the last among them."""
    if not errors:
        return ""
    count = min(LAYERS_SHOWN, len(errors))
    shown = sorted({round((index + 1) * len(errors) / count) - 1 for index in range(count)})
    return "error " + ", ".join(f"{errors[index]:.2g} after {index}" for index in shown)
