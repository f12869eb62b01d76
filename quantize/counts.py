"""What the networks of the catalogue read and compute, counted once and kept: building forty of them takes a while.

counts.json is written by `python -m tests.benchmarks.networks --write`; a test counts all of them anew and compares.
What the specs say anyway is not in it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from gemma_mlx.quantize.costs import Kind, Matrix
from gemma_mlx.quantize.memory import Spec
from gemma_mlx.quantize.traffic import Traffic, attending

FILE: Final = Path(__file__).with_name("counts.json")
_FIELDS: Final = (
    "weight_bytes", "read_bytes", "chunk_bytes", "once_bytes", "packable", "packable_read", "packable_chunk",
    "packable_once", "plain", "prefilled", "routed", "routed_bytes", "width", "launches", "state_bytes", "asked",
    "looked_into", "encoded",
)  # fmt: skip


def counted(network: str, spec: Spec) -> Traffic | None:
    """What a network of the catalogue takes; None where it was not counted yet.

    Args:
        network: its name.
        spec: of it.
    """
    kept = _kept().get(network)
    if kept is None:
        return None
    matrices = tuple(
        Matrix(path=path, columns=columns, kind=cast(Kind, kind), numbers=numbers)
        for path, columns, kind, numbers in kept["matrices"]
    )
    fields: dict[str, Any] = {name: kept[name] for name in _FIELDS}
    return Traffic(matrices=matrices, **fields | attending(spec))


def as_json(traffic: Traffic) -> dict[str, Any]:
    """What is kept of a count: matrices that no format tells apart, as their paths differ in numbers only, are one."""
    groups: Counter[tuple[str, int, Kind]] = Counter()
    first: dict[tuple[str, int, Kind], str] = {}
    for matrix in traffic.matrices:
        key = (re.sub(r"\d+", "#", matrix.path), matrix.columns, matrix.kind)
        groups[key] += matrix.numbers
        first.setdefault(key, matrix.path)
    matrices = [[first[key], key[1], key[2], numbers] for key, numbers in groups.items()]
    return {name: getattr(traffic, name) for name in _FIELDS} | {"matrices": matrices}


@cache
def _kept() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return kept
