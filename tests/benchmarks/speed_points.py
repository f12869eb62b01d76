"""Published speeds, as points to fit to.

They are in speed/points.csv, each with its source; nothing was measured by this project. speed/models.json has what the
specs of a Gemma do not tell: how many kernels mlx-lm launches for a token, and other families' sizes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from gemma_mlx import catalog, registry
from gemma_mlx.macs import Chip
from gemma_mlx.quantize.costs import Prompt, Reach, Step
from gemma_mlx.quantize.speed import Bound, Coefficients, prompt_terms, step_terms
from gemma_mlx.quantize.traffic import Traffic, traffic
from gemma_mlx.spec import AttentionSpec, Rope

DATA: Final = Path(__file__).with_name("speed")
MLX_LM_CHUNK: Final = 2048  # its default, and that of the servers built on it
WIDTH: Final = {"A": 0.07, "B": 0.10}  # of a point, as a logarithm: benchmarks, and averages over whole requests

Kind = Literal["decode", "prefill"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One published speed: what was run, on what, and how long a token or a prompt took."""

    kind: Kind
    chip: Chip
    model: str
    bits: str
    tokens: int
    load: Step | Prompt
    seconds: float
    width: float
    table: int

    def terms(self, fitted: Coefficients) -> tuple[float, Bound]:
        """Seconds as predicted, and what takes most of them."""
        if isinstance(self.load, Step):
            terms = step_terms(self.load, self.chip, fitted)
        else:
            terms = prompt_terms(self.load, self.chip, fitted)
        return terms.seconds, terms.bound


@cache
def models() -> dict[str, dict[str, Any]]:
    """speed/models.json, with the traffic of every model."""
    found: dict[str, dict[str, Any]] = json.loads((DATA / "models.json").read_text(encoding="utf-8"))
    for model in found.values():
        if config := model.get("config"):
            network = catalog.find(config).network
            assert network is not None
            match = registry.match(network.config)
            counted = traffic(match.spec, match.architecture.build(match.spec))
            model["traffic"] = replace(counted, launches=model["launches"])
        else:
            model["traffic"] = _other(model)
    return found


def _other(model: dict[str, Any]) -> Traffic:
    """Another family's: sizes as far as a point needs them."""
    attention = AttentionSpec(
        heads=model.get("heads", 0), kv_heads=0, head_dim=model.get("head_dim", 0), scale=1.0, rope=Rope(theta=1e4)
    )
    layers = model.get("layers", 0)
    reaches = (Reach(attention=attention, layers=layers, prefilled=layers),) if layers else ()
    return Traffic(
        weight_bytes=0.0, read_bytes=0.0, chunk_bytes=0.0, once_bytes=0.0, packable=0, packable_read=0,
        packable_chunk=0, packable_once=0, plain=0, prefilled=model.get("prefilled", 0),
        routed=model.get("routed", 0), routed_bytes=0.0, width=model.get("width", 0), launches=model["launches"],
        reaches=reaches, readers=reaches, state_bytes=0,
    )  # fmt: skip


def bits_per_weight(row: Mapping[str, str]) -> float:
    """Scales included: a 16-bit scale and bias for each group, or an 8-bit scale."""
    bits, group = float(row["bits"]), float(row["group"] or 64)
    if bits == 16:
        return bits
    return bits + (32 if row["mode"] == "affine" else 8) / group


@cache
def points() -> tuple[Point, ...]:
    """Every point, decode first."""
    with (DATA / "points.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(point for make in (_decode, _prefill) for row in rows if (point := make(row)) is not None)


def _chip(row: Mapping[str, str]) -> Chip:
    return Chip(
        name=row["chip"], cpu_cores=0, gpu_cores=int(row["gpu_cores"]), bandwidth_gbs=float(row["bandwidth_gbs"]),
        neural=row["chip"].startswith("M5"),
    )  # fmt: skip


def _decode(row: Mapping[str, str]) -> Point:
    model, context = models()[row["model"]], int(row["context"])
    counted: Traffic = model["traffic"].at(bits_per_weight(row))
    if "config" not in model:
        counted = replace(counted, read_bytes=1e9 * float(row["weight_gb_read"]))
    step = counted.step(context, fused=row["fused"] == "yes")
    if "config" not in model:
        step = replace(step, kv_bytes=1e9 * float(row["kv_gb_read"]), late_kv_bytes=(0.0, 0.0), unfused_kv_bytes=0.0)
    return Point(
        kind="decode", chip=_chip(row), model=row["model"], bits=row["bits"], tokens=context, load=step,
        seconds=1 / float(row["decode_tps"]), width=WIDTH[row["kind"]], table=int(row["table"]),
    )  # fmt: skip


def _prefill(row: Mapping[str, str]) -> Point | None:
    if not row["prefill_tps"] or not row["prompt_len"]:
        return None
    model, tokens = models()[row["model"]], int(row["prompt_len"])
    counted: Traffic = model["traffic"].at(bits_per_weight(row))
    if row["whole"] == "yes":  # an engine that runs every layer and the head for every position
        everywhere = tuple(replace(reach, prefilled=reach.layers) for reach in counted.reaches)
        read = counted.chunk_bytes + counted.once_bytes
        counted = replace(counted, prefilled=counted.packable_read, readers=everywhere, chunk_bytes=read, once_bytes=0)
    if "config" not in model:
        read = 1e9 * float(row["weight_gb_read"])
        counted = replace(counted, chunk_bytes=read, weight_bytes=read)
    return Point(
        kind="prefill", chip=_chip(row), model=row["model"], bits=row["bits"], tokens=tokens,
        load=counted.prompt(tokens, MLX_LM_CHUNK), seconds=tokens / float(row["prefill_tps"]), width=WIDTH[row["kind"]],
        table=int(row["table"]),
    )  # fmt: skip
