"""Machines: Macs of the table, any Mac of a size, and the one this runs on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemma_mlx import device, macos
from gemma_mlx.errors import InputError
from gemma_mlx.macs import GIB, find, macs
from gemma_mlx.quantize import machine
from gemma_mlx.quantize.machine import generation_of, here, kernels_here, left_for_macos, named, of, sized, sizes

FACTS = macos.Facts(
    identifier="Mac16,5", chip="Apple M4 Max", cpu_cores=16, gpu_cores=40, memory_bytes=64 * GIB, version="26.1",
    wired_limit_mb=0, power="high",
)  # fmt: skip


@pytest.mark.parametrize(("gib", "left"), [(8, 3), (16, 4), (18, 3), (24, 3), (32, 4), (64, 8), (512, 64)])
def test_what_is_left_for_macos(gib: int, left: int) -> None:
    assert left_for_macos(gib * GIB) == left * GIB


def test_ceilings_grow_with_memory() -> None:
    ceilings = [sized(size).ceiling_bytes for size in sizes()]
    assert ceilings == sorted(ceilings)
    assert sizes()[:3] == (8, 16, 18)
    assert sizes()[-1] == 512


def test_every_mac_of_the_table() -> None:
    for mac in macs():
        on = of(find(f"{mac.identifier} {mac.chip.name} {mac.memory_gb} GB"))
        assert on.is_mac
        assert on.limit_bytes == mac.working_set_bytes()
        assert 13 <= on.kernels.generation <= 18


def test_a_phones_chip_has_no_matrix_units() -> None:
    neo, m5 = of(find("MacBook Neo")), of(find("MacBook Pro 14 M5"))
    assert (neo.kernels.generation, m5.kernels.generation) == (16, 17)


def test_limits_by_version() -> None:
    assert of(find("MacBook Air M4 16"), 15).limit_bytes == 16 * GIB * 2 // 3
    assert sized(16, 26).limit_bytes == int(16 * GIB * 0.74)


def test_options() -> None:
    assert named(None, None, None) is None
    assert "M4 Max" in (named(None, "m4-max", 64) or here()).name
    on = named("MacBook Air M4", None, 24)
    assert on is not None
    assert on.memory_bytes == 24 * GIB
    alone = named(None, None, 36)
    assert alone is not None
    assert alone.chip is None


@pytest.mark.parametrize(
    ("mac", "chip", "memory", "message"),
    [
        ("MacBook Air M4", "m4", None, "the Mac has its own"),
        (None, None, 20, "No Mac has 20 GB of memory"),
        (None, "m44", None, "No Mac has a chip 'm44'"),
        ("MacBook Air M4", None, 64, "No Mac is"),
    ],
)
def test_no_such_mac(mac: str | None, chip: str | None, memory: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        named(mac, chip, memory)
    assert caught.value.hint


def _on(monkeypatch: pytest.MonkeyPatch, told: macos.Facts | None, **seen: Any) -> machine.Machine:
    values: dict[str, Any] = {"backend": "metal", "name": "Apple M4 Max", "memory_bytes": 64 * GIB, "limit_bytes": 60}
    monkeypatch.setattr(device, "device", lambda: device.Device(**values | seen))
    monkeypatch.setattr(macos, "facts", lambda: told)
    return here()


def test_this_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    on = _on(monkeypatch, FACTS)
    assert on.name == "MacBook Pro 16, 2024, M4 Max with 40 GPU cores, 64 GB"
    assert on.live
    assert (on.limit_bytes, on.wired_limit_mb, on.power) == (60, 0, "high")
    assert on.chip is not None
    assert on.chip.gpu_cores == 40
    assert on.kernels.generation == 16
    assert on.notes == ()


def test_a_mac_that_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    on = _on(monkeypatch, replace(FACTS, identifier="Mac99,1"))
    assert on.notes == ("This model of Mac is not in the table; its chip is.",)
    on = _on(monkeypatch, replace(FACTS, identifier="Mac99,1", memory_bytes=72 * GIB))
    assert on.chip is not None
    assert on.notes == ("Taken to have 32 GPU cores.",)
    on = _on(monkeypatch, replace(FACTS, chip="Apple M99"))
    assert on.chip is None
    assert on.notes == ("The chip M99 is not in the table, so no speed is predicted.",)
    assert on.name == "Apple M99, 64 GB"


def test_no_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    on = _on(monkeypatch, None, backend="cpu", name="cpu", memory_bytes=32 * GIB, limit_bytes=25 * GIB)
    assert not on.is_mac
    assert on.chip is None
    assert on.ceiling_bytes == on.limit_bytes == 25 * GIB
    assert "no Mac" in on.name


def test_a_machine_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not say how much memory"):
        _on(monkeypatch, None, memory_bytes=None, limit_bytes=None)


@pytest.mark.parametrize(
    ("architecture", "generation"),
    [("applegpu_g13s", 13), ("applegpu_g16g", 16), ("applegpu_g17s", 17), ("applegpu_g17p", 16), (None, 13)],
)
def test_the_kernels_of_a_mac(monkeypatch: pytest.MonkeyPatch, architecture: str | None, generation: int) -> None:
    mac = device.Device(backend="metal", name="a Mac", memory_bytes=1, limit_bytes=1, architecture=architecture)
    monkeypatch.setattr(device, "device", lambda: mac)
    found = kernels_here()
    assert (found.backend, found.generation) == ("metal", generation)
    assert found.mlx >= (0, 30)


def test_the_kernels_of_this_machine_are_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admission and `gemma fit` ask the same function; where MLX names no GPU, the chip's name stands in."""
    assert here().kernels == kernels_here()
    on = _on(monkeypatch, FACTS, architecture="applegpu_g17s")
    assert on.kernels == kernels_here()
    assert on.kernels.generation == 17, "MLX knows better than a table"
    assert on.kernels.itemsize == 4, "the tests compute on the CPU"


def test_every_chip_has_the_matrix_units_that_its_gpu_says() -> None:
    for mac in macs():
        assert mac.chip.neural == (generation_of(mac.chip.architecture) >= 17), mac.chip
