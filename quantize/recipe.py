"""Recipes, as data: which matrices of a model are packed finer than the rest.

A recipe, how the rest is packed, and what the user wants kept make a `Format` for one model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from gemma_mlx.errors import InputError
from gemma_mlx.quantize.formats import BITS_4, BITS_8, SENSITIVE, Format, Rule
from gemma_mlx.weights.quantized import AFFINE_BITS, AFFINE_GROUPS, FIXED, Mode, Quantization

AFFINE_GROUP: Final = 64  # where none is named

# Linear maps of towers, as their files name them; convolutions, tables of positions and norms stay as they are.
TOWER_MAPS: Final = (
    r"(vision_tower|audio_tower|multi_modal_projector|embed_vision|embed_audio)\."
    r"(.*\.)?([qkvo]_proj|out_proj|fc[12]|gate_proj|up_proj|down_proj|embedding_projection)(\.linear)?$"
)
_OUTER: Final = r"\.({layers})\.(.*\.)?(v_proj|down_proj)$"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a user names with --recipe.

    Attributes:
        name: of it.
        told: what it does, in a few words.
        base: how the rest is packed where nothing else is said; None leaves it as it is.
        fine: patterns of module paths that are packed in 8 bits.
        outer: whether values and down projections of the first and the last eighth of the layers are, too.
        lattice: whether weights that lie on a lattice of 4 bits are looked for, and packed on it without loss.
        packed: whether it is for checkpoints that are packed already, and for no others.
    """

    name: str
    told: str
    base: Quantization | None = BITS_4
    fine: tuple[str, ...] = ()
    outer: bool = False
    lattice: bool = False
    packed: bool = False


_FINE: Final = (SENSITIVE, r"^dense\.\d+$", TOWER_MAPS)

RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Recipe(
                name="gemma",
                told="8 bits for tables, head, router and towers, and for values and down in the outer layers",
                fine=_FINE,
                outer=True,
                lattice=True,
            ),
            Recipe(name="uniform", told="the same for all of the decoder"),
            Recipe(
                name="qat",
                told="weights trained for Q4_0 are kept exactly, all others in 8 bits",
                base=BITS_8,
                fine=_FINE,
                lattice=True,
            ),
            Recipe(name="bf16", told="nothing is packed", base=None),
            Recipe(name="exact", told="packed as it is, in the layout of MLX", base=None, packed=True),
        )
    }
)
DEFAULT: Final = "gemma"


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InputError: there is none.
    """
    if (found := RECIPES.get(name.strip().lower())) is None:
        raise InputError(f"{name!r} is no recipe; there are {', '.join(RECIPES)}.", f"--recipe {DEFAULT}")
    return found


def packing(mode: str | None, bits: int | None, group_size: int | None, base: Quantization) -> Quantization:
    """What --mode, --bits and --group-size say; where they say nothing, `base` does.

    Raises:
        InputError: there is no such packing.
    """
    if mode is not None and mode != "affine" and mode not in FIXED:
        raise InputError(f"{mode!r} is no mode; there are affine, {', '.join(FIXED)}.", "--mode affine --bits 4")
    if mode is not None and mode in FIXED:
        fixed = FIXED[cast(Mode, mode)]
        if (bits or fixed[0], group_size or fixed[1]) != fixed:
            raise InputError(
                f"{mode} has {fixed[0]} bits in groups of {fixed[1]}, and nothing else.",
                f"--mode {mode}, without --bits and --group-size",
            )
        return Quantization(mode=cast(Mode, mode), bits=fixed[0], group_size=fixed[1])
    bits = base.bits if bits is None else bits
    group_size = base.group_size if group_size is None else group_size
    for value, allowed, flag in ((bits, AFFINE_BITS, "--bits"), (group_size, AFFINE_GROUPS, "--group-size")):
        if value not in allowed:
            raise InputError(
                f"{flag} is {value}, and must be one of {', '.join(map(str, allowed))}.", f"{flag} {allowed[1]}"
            )
    return Quantization(mode="affine", bits=bits, group_size=group_size)


def parse_keep(text: str) -> Rule:
    """`PATTERN=8`, `=6/32`, `=mxfp4` or `=bf16` -> a rule; the pattern is looked for in the paths of modules.

    Raises:
        InputError: it is none.
    """
    pattern, equals, how = text.rpartition("=")
    hint = "--keep 'v_proj=8', --keep 'layers.0.=bf16', --keep 'experts=4/32', --keep 'mlp=mxfp4'"
    if not equals or not pattern:
        raise InputError(f"{text!r} does not say what is kept and how.", hint)
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is no pattern: {error}.", hint) from error
    how = how.strip().lower()
    if how == "bf16":
        return Rule(pattern, None)
    if how in FIXED:
        return Rule(pattern, packing(how, None, None, BITS_8))
    found = re.fullmatch(r"(\d+)(?:/(\d+))?", how, re.ASCII)
    if found is None:
        raise InputError(f"{text!r} keeps in {how!r}; it can be bf16, {', '.join(FIXED)}, or bits or bits/group.", hint)
    return Rule(pattern, packing("affine", int(found[1]), int(found[2] or AFFINE_GROUP), BITS_8))


def for_layers(chosen: Recipe, base: Quantization | None, layers: int, keep: Sequence[Rule] = ()) -> Format:
    """The format that a recipe is for a model, but for the rest, which has `base`.

    Args:
        chosen: the recipe.
        base: how the rest is packed; None where it is not.
        layers: of the model.
        keep: rules that come before the recipe's.
    """
    fine = base if base is not None and (base.mode, base.bits) == ("affine", BITS_8.bits) else BITS_8
    rules = [*keep, *(Rule(pattern, fine) for pattern in chosen.fine)]
    if chosen.outer:
        edge = -(-layers // 8)
        outer = sorted({*range(edge), *range(layers - edge, layers)})
        rules.append(Rule(_OUTER.format(layers="|".join(map(str, outer))), fine))
    return Format(name=chosen.name, told=chosen.told, rules=tuple(rules))
