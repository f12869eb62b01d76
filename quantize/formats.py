"""In which formats a model can be kept: for every matrix, how many bits, in groups of how many.

A format is rules, tried in order: a pattern of module paths and how such a matrix is packed. A matrix whose rows the
group does not divide stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gemma_mlx.errors import InputError
from gemma_mlx.weights.quantized import Quantization

BITS_8: Final = Quantization(mode="affine", bits=8, group_size=64)
BITS_6: Final = Quantization(mode="affine", bits=6, group_size=64)
BITS_4: Final = Quantization(mode="affine", bits=4, group_size=64)
BLOCKS_OF_32: Final = Quantization(mode="affine", bits=4, group_size=32)

# Where 4 bits cost most: tables that are looked up, the head where it is one of its own, what decides between experts.
SENSITIVE: Final = r"(^|\.)(embed_tokens|embed_tokens_per_layer|per_layer_model_projection|lm_head|router\.proj)$"


@dataclass(frozen=True)
class Rule:
    """How the matrices are packed in whose module path the pattern is found, in all if it is empty.

    None leaves them as they are.
    """

    pattern: str
    how: Quantization | None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format by its name, which is what a user types.

    Attributes:
        name: of it.
        told: what it is, in a few words.
        rules: tried in order; a matrix that no pattern finds stays as it is.
        trained: the quantization that a checkpoint must have been trained for; None where any will do.
    """

    name: str
    told: str
    rules: tuple[Rule, ...]
    trained: str | None = None

    def __call__(self, path: str, columns: int) -> Quantization | None:
        """How the matrix of the module at `path` is packed, with so many numbers in a row; None where it is not."""
        return self.of(path, columns)

    def of(self, path: str, columns: int) -> Quantization | None:
        """The same."""
        for rule in self.rules:
            if not rule.pattern or re.search(rule.pattern, path):
                return rule.how if rule.how is not None and not columns % rule.how.group_size else None
        return None


def _every(how: Quantization) -> tuple[Rule, ...]:
    return (Rule("", how),)


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        each.name: each
        for each in (
            Format(name="bf16", told="as published", rules=()),
            Format(name="8-bit", told="affine, groups of 64", rules=_every(BITS_8)),
            Format(name="6-bit", told="affine, groups of 64", rules=_every(BITS_6)),
            Format(name="4-bit", told="affine, groups of 64", rules=_every(BITS_4)),
            Format(
                name="mixed",
                told="8 bits for tables of embeddings and routers, 4 for the rest",
                rules=(Rule(SENSITIVE, BITS_8), *_every(BITS_4)),
            ),
            Format(
                name="QAT",
                told="4 bits in groups of 32, as a checkpoint trained for Q4_0 has them",
                rules=_every(BLOCKS_OF_32),
                trained="q4_0",
            ),
        )
    }
)
# What is taken where several fit, finest first. bf16 is not taken: 8 bits are nearly as exact, and twice as quick.
PREFERENCE: Final = ("8-bit", "6-bit", "QAT", "mixed", "4-bit")
NEAR_LOSSLESS: Final = frozenset(("bf16", "8-bit", "6-bit", "QAT"))
# A model that takes no more than this in bf16 is taken as published: it loses most by packing, and there is no need.
SMALL_BYTES: Final = 1_500_000_000


def named(name: str) -> Format:
    """The format called `name`, in any case: "4-bit", "4bit", "qat".

    Raises:
        InputError: there is none.
    """
    key = name.strip().lower().replace("-", "")
    for known, each in FORMATS.items():
        if known.lower().replace("-", "") == key:
            return each
    raise InputError(f"{name!r} is no format; there are {', '.join(FORMATS)}.", "For example: 4-bit")
