"""Plans of `gemma quantize`, as `--json` prints them, and as they are drawn."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from gemma_mlx.cli.render.judgement import told as judged
from gemma_mlx.cli.render.tables import pairs, size, table

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.quantize.calibrate.run import Calibration
    from gemma_mlx.quantize.plan import Decision, Group, Plan
    from gemma_mlx.quantize.target import Aimed
    from gemma_mlx.weights.quantized import Quantization

_METHODS: Final = {"plain": "", "lattice": ", exact", "clip": ", clipped", "exact": ", as it was"}


def facts(
    name: str, made: Plan, folder: Path | None, aimed: Aimed | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """All of a plan but what becomes of each tensor."""
    return {
        "model": name,
        "recipe": made.recipe.name,
        "folder": None if folder is None else str(folder),
        "tensors": len(made.decisions),
        "weights": made.weights,
        "bytes": made.nbytes,
        "bits_per_weight": made.bits_per_weight,
        "aim": None if aimed is None else _aim(aimed),
        "calibration": None if calibration is None else _calibration(calibration),
        "groups": [_group(group) for group in made.groups()],
    }


def _calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "method": calibration.plan.calibrated,
        "tokens": calibration.tokens,
        "memory_bytes": calibration.memory_bytes,
        "blind": calibration.blind,
    }


def _aim(aimed: Aimed) -> dict[str, Any]:
    tokens = aimed.sensitivity.tokens
    return {
        "bytes": aimed.most_bytes,
        "predicted_loss": aimed.loss,
        "sensitivity": "measured" if tokens else "known",
        "tokens": tokens,
    }


def fitting(made: Plan, context: int) -> dict[str, Any] | None:
    """The smallest Macs on which what is written runs; None where there is no estimate."""
    from gemma_mlx.quantize.target import smallest

    found = smallest(made, context)
    if found is None:
        return None
    context = min(context, made.checkpoint.match.spec.context)
    return {"context": context, "comfortable_gb": found["comfortable"], "tight_gb": found["tight"]}


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


def decided(one: Decision, aimed: Aimed | None) -> dict[str, Any]:
    """What becomes of a tensor; with a target, also how sensitive the model is to it, and what is lost by it."""
    told = {} if aimed is None else {
        "sensitivity": aimed.sensitivity.losses.get(one.module), "predicted_loss": aimed.losses.get(one.module),
    }  # fmt: skip
    return told | {
        "module": one.module,
        "tensors": [output.name for output in one.outputs],
        "weights": one.weights,
        "bytes": one.nbytes,
        "packing": _packing(one.how),
        "method": one.method,
    }


def _packing(how: Quantization | None) -> dict[str, Any] | None:
    return None if how is None else {"mode": how.mode, "bits": how.bits, "group_size": how.group_size}


def drawn(told: dict[str, Any], made: Plan, fit: int | None, *, plan: bool) -> str:
    """A plan as a user sees it: what it is and, before it is written, what becomes of each part."""
    before = made.checkpoint
    rows = [
        ("model", f"{told['model']}, {size(sum(one.source_bytes for one in made.decisions))}"),
        ("folder", told["folder"] or ""),
        ("recipe", _recipe(made, aimed=told["aim"] is not None)),
        ("weights", f"{told['weights']:,} in {len(before.match.spec.layers)} layers"),
        ("size", f"{size(told['bytes'])}, {told['bits_per_weight']:.2f} bits per weight"),
    ]
    if (aim := told["aim"]) is not None:
        how = f"measured on {aim['tokens']} tokens" if aim["tokens"] else "known of such parts, not measured"
        rows.append(("target", f"{size(aim['bytes'])}; predicted loss {aim['predicted_loss']:.4f} nats, {how}"))
    if (fits := told.get("fits")) is not None:
        rows.append(("fits", _fits(fits)))
    exact = [group.errors for group in made.groups() if group.errors is not None]
    if exact:
        lattice, plain = (max(each) for each in zip(*exact, strict=True))
        rows.append(("trained for Q4_0", f"error {lattice:.2%} at most, where plain packing has {plain:.1%}"))
    if (read := told["calibration"]) is not None:
        most = size(read["memory_bytes"])
        rows.append(("calibrated", f"{read['method']}, {read['tokens']:,} tokens, at most {most} in memory"))
    if not plan:
        if told["judgement"] is not None:
            rows.append(("judged", judged(told["judgement"])))
        return pairs(rows, fit)
    lines = [
        (group.what, _layers(group.layers), f"{group.tensors:,}", _told(group), size(group.nbytes))
        for group in made.groups()
    ]
    return f"{pairs(rows, fit)}\n\n{table(('part', 'layers', 'tensors', 'packing', 'bytes'), lines, fit)}"


def _recipe(made: Plan, *, aimed: bool) -> str:
    if aimed:  # which decides about the decoder's matrices, whatever the recipe says of them
        return f"{made.recipe.name}, with the bits that lose least in the size aimed at"
    return f"{made.recipe.name}: {made.recipe.told}"


def _fits(fits: dict[str, Any]) -> str:
    comfortable, tight, context = fits["comfortable_gb"], fits["tight_gb"], f"{fits['context']:,} tokens"
    if tight is None:
        return f"no Mac with {context}"
    if comfortable is None:
        return f"a Mac with {tight} GB just so, with {context}"
    just = "" if tight == comfortable else f", with {tight} GB just so"
    return f"a Mac with {comfortable} GB{just}, with {context}"


def _told(group: Group) -> str:
    if group.how is None:
        return "as it was" if group.method == "exact" else "bf16"
    told = f"{group.how.bits} bits / {group.how.group_size}" if group.how.mode == "affine" else group.how.mode
    return told + _METHODS.get(group.method or "plain", f", {group.method}")


def _layers(layers: tuple[int, ...]) -> str:
    """`0-2, 9`."""
    starts = [index for before, index in pairwise((-2, *layers)) if index != before + 1]
    ends = [index for index, after in pairwise((*layers, -2)) if after != index + 1]
    return ", ".join(f"{one}" if one == other else f"{one}-{other}" for one, other in zip(starts, ends, strict=True))
