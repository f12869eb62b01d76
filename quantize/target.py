"""A size to aim at -> a plan: of so many bytes, so many bits per weight, or as large as a Mac holds it comfortably.

The plan is that of the recipe `gemma` with every matrix of the decoder packed as `budget` chose, by the error that each
packing of it makes, on a sample of its weights, times what such an error costs the model (`sensitivity`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gemma_mlx.errors import InputError
from gemma_mlx.quantize import sensitivity
from gemma_mlx.quantize.budget import Option, allocate, least
from gemma_mlx.quantize.fit import VERDICTS, Verdict, bounds, judged
from gemma_mlx.quantize.formats import Rule
from gemma_mlx.quantize.head import TABLE as HEAD_TABLE
from gemma_mlx.quantize.head import wants_head
from gemma_mlx.quantize.machine import Machine, here, named, sized, sizes
from gemma_mlx.quantize.memory import Memory, Use, estimate
from gemma_mlx.quantize.pack import pack, relative_error
from gemma_mlx.quantize.plan import Decision, Plan, plan
from gemma_mlx.quantize.recipe import DEFAULT, parse_keep
from gemma_mlx.quantize.sensitivity import Sensitivity
from gemma_mlx.spec import DrafterSpec
from gemma_mlx.weights.disk_table import TABLE
from gemma_mlx.weights.load import BORROWED
from gemma_mlx.weights.quantized import AFFINE_BITS, AFFINE_GROUPS, Quantization
from gemma_mlx.weights.read import sample

CONTEXT: Final = 8192  # tokens, where nothing else is said
_LOWEST: Final = 3  # bits, unless the budget forces fewer: below, losses no longer grow with the square of the error
_BLOCKS: Final = 256  # of a matrix, by which its errors are known
_UNITS: Final = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "": 1}

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a plan aims at; of the first three, one.

    Attributes:
        nbytes: of all tensors.
        bits: per weight, of all tensors.
        machine: that holds it comfortably.
        context: tokens that it shall hold there.
        measured: whether the model is run to see what its matrices count; else what is known of such parts decides.
    """

    nbytes: int | None = None
    bits: float | None = None
    machine: Machine | None = None
    context: int = CONTEXT
    measured: bool = True

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.nbytes, self.bits, self.machine)) != 1:
            raise InputError("A size, bits per weight, or a Mac can be aimed at, one of them.", "--target-size 6GB")
        if self.bits is not None and not 0 < self.bits <= 16:
            raise InputError(
                f"{self.bits:g} bits per weight cannot be aimed at; more than 0 and up to 16 can.", "--target-bits 4.6"
            )


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """A plan, and how it came about.

    Attributes:
        plan: what becomes of every tensor.
        most_bytes: what was to be spent.
        sensitivity: by which it was spent.
        losses: path of each module that could be chosen -> what is predicted to be lost by how it is packed, in nats.
    """

    plan: Plan
    most_bytes: int
    sensitivity: Sensitivity
    losses: dict[str, float]

    @property
    def loss(self) -> float:
        """Predicted for the whole model, in nats for each token."""
        return sum(self.losses.values())


def parse_size(text: str) -> int:
    """`6GB`, `800 MB`, `5.5GiB`, or bytes.

    Raises:
        InputError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b)?\s*", text, re.IGNORECASE | re.ASCII)
    unit = (found[2] or "").lower() if found else "?"
    if found is None or unit not in _UNITS:
        raise InputError(f"{text!r} is no size.", "--target-size 6GB, 800MB or 5.5GiB")
    return int(float(found[1]) * _UNITS[unit])


def aim_of(size: str | None, bits: float | None, fit: str | None, *, context: int, measured: bool) -> Aim | None:
    """What words of a user aim at; None where they aim at nothing.

    Args:
        size: `6GB`.
        bits: per weight.
        fit: a Mac, or "here".
        context: see `Aim`.
        measured: see `Aim`.

    Raises:
        InputError: more than one of the first three is said, or one cannot be had.
    """
    if context < 1:
        raise InputError(f"--context is {context}, and must be at least 1.", f"--context {CONTEXT}")
    if size is None and bits is None and fit is None:
        return None
    on = None
    if fit is not None:
        on = here() if fit.strip().lower() in ("here", "") else named(fit, None, None)
    return Aim(
        nbytes=None if size is None else parse_size(size), bits=bits, machine=on, context=context, measured=measured
    )


def check_alone(
    recipe: str, mode: str | None, bits: int | None, group_size: int | None, *, aimed_at: Sequence[object]
) -> None:
    """Refuses what says how matrices are packed, where something is aimed at that decides it.

    Raises:
        InputError: both are said.
    """
    said = {"--mode": mode, "--bits": bits, "--group-size": group_size}
    given = [flag for flag, value in said.items() if value is not None]
    if recipe.strip().lower() != DEFAULT:
        given.insert(0, f"--recipe {recipe}")
    if given and any(one is not None for one in aimed_at):
        raise InputError(
            f"A target decides how each matrix is packed, and so does {given[0]}.",
            "Leave one of them out; --keep says what is decided already.",
        )


def plan_for(
    source: Path, aim: Aim, *, keep: Sequence[str] = (), on_progress: OnProgress | None = None, **asked: Any
) -> Aimed:
    """The plan of a checkpoint that says it best in the size that is aimed at.

    Args:
        source: a checkpoint that is not quantized.
        aim: the size.
        keep: modules about which is decided already, see `parse_keep`.
        on_progress: called with (what, done, in all) while the model is measured.
        asked: what else `plan` takes: `clip`, `method`, `second_head`.

    Raises:
        InputError: there is no way to make it so small, or what is asked for cannot be had.
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    first = plan(source, keep=keep, **asked)
    checkpoint, kept = first.checkpoint, [parse_keep(text) for text in keep]
    found = sensitivity.of(checkpoint, on_progress) if aim.measured else None
    chosen = _open(first, kept, found)
    if found is None:
        found = sensitivity.known([one.module for one in chosen], len(checkpoint.match.spec.layers))
    rest = first.nbytes - sum(one.nbytes for one in chosen)
    most = _most(first, aim)
    clip = bool(asked.get("clip") or asked.get("method"))
    twice = HEAD_TABLE if wants_head(checkpoint, asked.get("second_head")) else None
    every = [
        _options(
            one,
            found.losses[one.module],
            clip=clip,
            names=1 + (one.module == twice),
        )
        for one in chosen
    ]
    safe = [[option for option in options if option.how.bits >= _LOWEST] for options in every]
    matrices = safe if rest + least(safe) <= most else every
    if (smallest_ := rest + least(matrices)) > most:
        bits = math.ceil(smallest_ * 800 / first.weights) / 100
        enough = f"--target-bits {bits}" if aim.bits else f"--target-size {smallest_ / 1e6 + 0.1:.1f}MB"
        raise InputError(
            f"{_size(most)} cannot be reached: the least that this model takes, in 2 bits, is {_size(smallest_)}, "
            f"of which {_size(rest)} are for what is not chosen here.",
            f"{enough}, or a smaller model.",
        )
    taken = allocate(matrices, most - rest)
    spent = _rules([(one.module, option.how) for one, option in zip(chosen, taken, strict=True)])
    made = plan(source, keep=keep, spent=spent, before=first, **asked)
    losses = {one.module: option.loss for one, option in zip(chosen, taken, strict=True)}
    return Aimed(plan=made, most_bytes=most, sensitivity=found, losses=losses)


def _open(first: Plan, kept: Sequence[Rule], found: Sensitivity | None) -> list[Decision]:
    """What a budget decides about: the decoder's own matrices, but for those kept, or on a lattice, or not measured."""
    return [
        one
        for one in first.decisions
        if one.maps
        and one.module in first.checkpoint.quantization
        and one.method != "lattice"
        and not any(re.search(rule.pattern, one.module) for rule in kept)
        and not one.source.shape[-1] % AFFINE_GROUPS[0]
        and (one.module in found.losses if found is not None else one.module != TABLE)
    ]


def _options(one: Decision, cost: float, *, clip: bool, names: int) -> list[Option]:
    """Every affine packing of a matrix that is written under so many names, with the loss that its error on a sample
    makes."""
    columns = one.source.shape[-1]
    groups = [group for group in AFFINE_GROUPS if not columns % group]
    weight = sample(one.source, _BLOCKS, max(groups))
    made = []
    for bits in AFFINE_BITS:
        for group in groups:
            how = Quantization(mode="affine", bits=bits, group_size=group)
            error = relative_error(weight, pack(weight, how, "clip" if clip else "plain"), how)
            nbytes = one.weights * bits // 8 + one.weights // group * 4
            made.append(Option(how=how, nbytes=nbytes * names, loss=cost * error**2))
    return made


def _rules(chosen: Sequence[tuple[str, Quantization]]) -> list[Rule]:
    """A rule for each packing, which names its modules."""
    modules: dict[Quantization, list[str]] = {}
    for module, how in chosen:
        modules.setdefault(how, []).append(re.escape(module))
    return [Rule(f"^({'|'.join(paths)})$", how) for how, paths in modules.items()]


def _most(first: Plan, aim: Aim) -> int:
    """Bytes that may be written."""
    if aim.nbytes is not None:
        return aim.nbytes
    if aim.bits is not None:
        return int(aim.bits * first.weights / 8)
    assert aim.machine is not None, "one of the three is given"
    left = bounds(aim.machine)["comfortable"] - held(first, aim.machine, aim.context, weights=0).peak
    _, towers, disk = _parts(first)
    if left <= 0:
        raise InputError(
            f"{aim.machine.name} has no room for weights beside {aim.context:,} tokens of context.",
            "Name a shorter one: --context 2048",
        )
    return left + sum(one.nbytes for one in (*towers, *disk))


def _parts(made: Plan) -> tuple[list[Decision], list[Decision], list[Decision]]:
    """What the decoder holds in memory, towers, and what stays on the disk: a table, and what nothing reads."""
    own = {(tensor.file, tensor.name) for tensor in made.checkpoint.tensors.values()}
    unread = made.checkpoint.unread
    held_: list[Decision] = []
    towers: list[Decision] = []
    disk: list[Decision] = []
    for one in made.decisions:
        mine = (one.source.file, one.source.name) in own
        part = disk if one.module == TABLE or unread.get(one.source.name) == BORROWED else held_ if mine else towers
        part.append(one)
    return held_, towers, disk


def held(made: Plan, on: Machine, context: int = CONTEXT, *, weights: int | None = None) -> Memory:
    """What a model takes of a machine's memory when it has read so many tokens.

    Args:
        made: the plan that it was quantized after.
        on: the machine.
        context: tokens; of a model that has fewer, those.
        weights: bytes that its own matrices take there; None is what the plan writes.

    Raises:
        UnsupportedModelError: it is a drafter, which does nothing without another model.
    """
    spec = made.checkpoint.match.spec
    mine, towers, _ = _parts(made)
    if weights is None:
        weights = sum(one.nbytes // one.names if one.how else one.weights * on.kernels.itemsize for one in mine)
    use = Use(prompt=min(context, spec.context))
    return estimate(spec, weights, use, on.kernels, towers=sum(one.nbytes for one in towers))


def smallest(made: Plan, context: int = CONTEXT) -> dict[Verdict, int | None] | None:
    """The smallest memory of a Mac, in GB, on which a model of this plan is comfortable, and on which it is tight.

    Returns:
        None for a drafter, which is judged with its target; a verdict that no Mac gives is None.
    """
    if isinstance(made.checkpoint.match.spec, DrafterSpec):
        return None
    found: dict[Verdict, int | None] = {"comfortable": None, "tight": None}
    for size in reversed(sizes()):
        on = sized(size)
        verdict, _ = judged(held(made, on, context).peak, on)
        for wanted in found:
            if VERDICTS.index(verdict) <= VERDICTS.index(wanted):
                found[wanted] = size
    return found


def _size(nbytes: int) -> str:
    if nbytes < 1e5:
        return f"{nbytes:,} bytes"
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"
