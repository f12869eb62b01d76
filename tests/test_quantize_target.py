"""A size to aim at: how near a plan comes to it, what it leaves alone, and what cannot be reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.macs import GIB
from gemma_mlx.quantize import sensitivity
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.fit import bounds
from gemma_mlx.quantize.formats import BLOCKS_OF_32
from gemma_mlx.quantize.machine import named, sized
from gemma_mlx.quantize.plan import Plan, plan
from gemma_mlx.quantize.sensitivity import Sensitivity
from gemma_mlx.quantize.target import Aim, held, parse_size, plan_for, smallest
from gemma_mlx.spec import DrafterSpec
from gemma_mlx.weights.hub import resolve
from gemma_mlx.weights.load import inspect
from gemma_mlx.weights.quantized import Quantization
from tests.test_quantize_pack import lattice
from tests.test_quantize_plan import with_towers
from tests.tiny import edit_tensors, write_tiny


def _on_lattice(arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    return {name: lattice(*array.shape) for name, array in arrays.items() if "layers.1.mlp" in name}


def _hows(made: Plan) -> dict[str, Quantization | None]:
    return {one.module: one.how for one in made.decisions if one.maps}


@pytest.mark.parametrize("bits", [3.6, 4.5, 6.0])
def test_no_byte_more_and_hardly_one_less(bits: float, tmp_path: Path) -> None:
    made = plan_for(resolve("demo"), Aim(bits=bits, measured=False))
    assert made.most_bytes - 12_000 < made.plan.nbytes <= made.most_bytes == int(bits * made.plan.weights / 8)
    assert set(made.losses) == {one.module for one in made.plan.decisions if one.maps}
    assert inspect(quantize(made.plan, tmp_path / "made").folder).nbytes == made.plan.nbytes


def test_more_bytes_lose_less_and_the_same_question_has_the_same_answer() -> None:
    sizes = (1_500_000, 2_000_000, 2_000_000)
    made = [plan_for(resolve("demo"), Aim(nbytes=size, measured=False)) for size in sizes]
    assert made[1].loss < 0.5 * made[0].loss
    assert made[1].plan.fingerprint() == made[2].plan.fingerprint()


def test_the_measured_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [one.module for one in plan(resolve("demo")).decisions if one.maps]
    losses = {path: 1.0 if ".3." in path else 0.01 for path in paths}
    monkeypatch.setattr(sensitivity, "of", lambda *_: Sensitivity(losses=losses, tokens=9))
    made = plan_for(resolve("demo"), Aim(bits=4.6))
    bits = {path: how.bits for path, how in _hows(made.plan).items() if how is not None}
    third = {path for path in bits if ".3." in path}
    assert min(bits[path] for path in third) >= max(bits[path] for path in bits.keys() - third)
    assert sum(bits[path] for path in third) >= 6 * len(third)
    assert made.sensitivity.tokens == 9


def test_2_bits_only_where_nothing_else_fits() -> None:
    bits = [
        {how.bits for how in _hows(plan_for(resolve("demo"), Aim(bits=bits, measured=False)).plan).values() if how}
        for bits in (3.5, 2.9)
    ]
    assert min(bits[0]) == 3
    assert min(bits[1]) == 2


def test_what_cannot_be_reached() -> None:
    with pytest.raises(InputError, match=r"0.8 MB cannot be reached: the least .* is 1\.\d MB") as caught:
        plan_for(resolve("demo"), Aim(nbytes=800_000, measured=False))
    with pytest.raises(InputError) as few:
        plan_for(resolve("demo"), Aim(bits=1.0, measured=False))
    bits = float(few.value.hint.split()[1].rstrip(","))  # type: ignore[union-attr]
    assert plan_for(resolve("demo"), Aim(bits=bits, measured=False)).plan.bits_per_weight <= bits
    least = parse_size(caught.value.hint.split()[1].rstrip(","))  # type: ignore[union-attr]
    assert plan_for(resolve("demo"), Aim(nbytes=least, measured=False)).plan.nbytes <= least


def test_what_is_decided_already(tmp_path: Path) -> None:
    with_towers(tmp_path)
    edit_tensors(tmp_path, lambda arrays: arrays.update(_on_lattice(arrays)))
    made = plan_for(tmp_path, Aim(bits=7, measured=False), keep=["layers.0.self_attn=bf16", "embed_tokens=8"]).plan
    assert made.bits_per_weight <= 7
    hows = _hows(made)
    assert hows["model.layers.0.self_attn.q_proj"] is None
    assert hows["model.embed_tokens"] == Quantization(mode="affine", bits=8, group_size=64)
    assert hows["model.layers.1.mlp.up_proj"] == BLOCKS_OF_32  # its lattice is exact
    tower = next(one for one in made.decisions if "fc1" in one.module and one.maps)
    assert tower.how == Quantization(mode="affine", bits=8, group_size=64)


@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_text", "recurrent_gemma", "t5gemma", "diffusion_gemma"])
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "source", kind)
    made = plan_for(tmp_path / "source", Aim(bits=7.5))  # without a tokenizer nothing is measured
    assert made.sensitivity.tokens == 0
    assert made.plan.nbytes <= made.most_bytes
    assert inspect(quantize(made.plan, tmp_path / "made").folder).nbytes == made.plan.nbytes


def test_as_much_as_a_mac_holds() -> None:
    air = named("MacBook Air M4 16", None, None)
    assert air is not None
    made = plan_for(resolve("demo"), Aim(machine=air, measured=False))
    assert {how.bits for how in _hows(made.plan).values() if how} == {8}
    assert held(made.plan, air).peak <= bounds(air)["comfortable"]
    nothing = held(made.plan, air, weights=0).peak
    assert made.most_bytes == bounds(air)["comfortable"] - nothing


def test_the_context_leaves_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_mlx.quantize import target

    monkeypatch.setattr(target, "bounds", lambda _: {"comfortable": 1_000_000})
    with pytest.raises(InputError, match="8 GB has no room for weights beside 8,192 tokens"):
        plan_for(resolve("demo"), Aim(machine=sized(8), measured=False))


def test_the_smallest_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_mlx.quantize import target

    made = plan(resolve("demo"))
    assert smallest(made) == {"comfortable": 8, "tight": 8}
    honest, limit = held(made, sized(8)), bounds(sized(16))

    def heavy(peak: int) -> None:
        wanted = replace(honest, weights=honest.weights + peak - honest.peak)
        monkeypatch.setattr(target, "held", lambda *_: wanted)

    heavy(limit["comfortable"])
    assert smallest(made) == {"comfortable": 16, "tight": 16}
    heavy(limit["tight"])
    found = smallest(made)
    assert found is not None
    assert found["tight"] == 16
    assert found["comfortable"] == (16 if limit["comfortable"] == limit["tight"] else 18)
    heavy(2000 * GIB)
    assert smallest(made) == {"comfortable": None, "tight": None}
    write_tiny(tmp_path, "t5gemma")
    told = not isinstance(inspect(tmp_path).match.spec, DrafterSpec)
    assert (smallest(plan(tmp_path)) is not None) == told


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("6GB", 6_000_000_000), (" 800 mb", 800_000_000), ("1.5GiB", 3 * 2**29), ("12345", 12_345), ("2kB", 2000)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "6 G", "-1GB", "6TB", "1e9"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match="is no size"):
        parse_size(text)


def test_one_aim() -> None:
    with pytest.raises(InputError, match="one of them"):
        Aim()
    with pytest.raises(InputError, match="one of them"):
        Aim(nbytes=1, bits=4.0)
    with pytest.raises(InputError, match="20 bits per weight"):
        Aim(bits=20)
