"""A machine as a judge of models needs it: memory, what a process may keep of it for the GPU, chip, and kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

from gemma_mlx import device, macos
from gemma_mlx.errors import InputError
from gemma_mlx.macs import GIB, NEWEST_MACOS, Chip, Found, find, find_chip, gpu_of, macs, working_set_bytes
from gemma_mlx.quantize.memory import NEURAL_GENERATION, Kernels

# What macOS needs for itself, in GiB: on small Macs what is known to go well (4 of 16), on others an eighth.
_SMALL: Final = ((8, 3), (16, 4))
_LEAST_GIB: Final = 3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A Mac, this machine, or any Mac with so much memory.

    Attributes:
        name: what to call it.
        memory_bytes: in it.
        limit_bytes: what a process may keep resident for the GPU.
        kernels: of MLX there.
        chip: in it; None where it is not known, and then no speed is.
        live: whether the limit was read from the machine itself.
        wired_limit_mb: `iogpu.wired_limit_mb` as it is set, in MiB; None where nobody asked, 0 where it was never set.
        power: the power mode: "automatic", "low", "high".
        notes: what was assumed, a sentence each.
    """

    name: str
    memory_bytes: int
    limit_bytes: int
    kernels: Kernels
    chip: Chip | None = None
    live: bool = False
    wired_limit_mb: int | None = None
    power: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def is_mac(self) -> bool:
        """Whether it has Metal."""
        return self.kernels.backend == "metal"

    @property
    def ceiling_bytes(self) -> int:
        """What can be had at all: the memory without what macOS needs for itself."""
        return self.memory_bytes - left_for_macos(self.memory_bytes) if self.is_mac else self.limit_bytes


def left_for_macos(memory_bytes: int) -> int:
    """Bytes that must stay for macOS and everything else: less, and the Mac pages or stalls."""
    for size, gib in _SMALL:
        if memory_bytes <= size * GIB:
            return gib * GIB
    return max(_LEAST_GIB * GIB, memory_bytes // 8)


def of(found: Found, macos_version: int = NEWEST_MACOS) -> Machine:
    """A Mac of the table."""
    mac = found.mac
    return Machine(
        name=str(mac),
        memory_bytes=mac.memory_bytes,
        limit_bytes=mac.working_set_bytes(macos_version),
        kernels=Kernels(backend="metal", generation=generation_of(mac.chip.architecture)),
        chip=mac.chip,
        notes=found.assumed,
    )


def sized(memory_gb: int, macos_version: int = NEWEST_MACOS) -> Machine:
    """Any Mac with so much memory. Its GPU has no matrix units, so that it needs no less than one that has them."""
    return Machine(
        name=f"{memory_gb} GB",
        memory_bytes=memory_gb * GIB,
        limit_bytes=working_set_bytes(memory_gb * GIB, macos_version),
        kernels=Kernels(backend="metal", generation=NEURAL_GENERATION - 1),
    )


def sizes() -> tuple[int, ...]:
    """Every size of memory that Macs were sold with, in GB."""
    return tuple(sorted({mac.memory_gb for mac in macs()}))


def here() -> Machine:
    """This machine, as far as it tells.

    Raises:
        InputError: it does not even tell its memory.
    """
    seen, told = device.device(), macos.facts()
    if seen.memory_bytes is None or seen.limit_bytes is None:
        raise InputError("This machine does not say how much memory it has.", "gemma fit --mac 'MacBook Air M4 16'")
    if told is None or seen.backend != "metal":
        return Machine(
            name=f"this machine, no Mac: MLX's {seen.backend} back end",
            memory_bytes=seen.memory_bytes,
            limit_bytes=seen.limit_bytes,
            kernels=kernels_here(),
            live=True,
        )
    found, notes = macos.identified(told)
    chip = found.mac.chip if found else None
    return Machine(
        name=str(found.mac) if found else f"{told.chip or seen.name}, {seen.memory_bytes // GIB} GB",
        memory_bytes=seen.memory_bytes,
        limit_bytes=seen.limit_bytes,
        kernels=kernels_here(chip),
        chip=chip,
        live=True,
        wired_limit_mb=told.wired_limit_mb,
        power=told.power,
        notes=notes,
    )


def named(mac: str | None, chip: str | None, memory: int | None, macos_version: int = NEWEST_MACOS) -> Machine | None:
    """The Mac that options mean; None where none was given.

    Args:
        mac: "MacBook Air M4 16".
        chip: "m4-max".
        memory: GB, beside a chip, or beside a Mac that leaves it open, or alone.

    Raises:
        InputError: they mean no Mac that was sold.
    """
    if mac is not None and chip is not None:
        raise InputError("A Mac and a chip are given, and the Mac has its own.", "Leave out --chip.")
    if mac is not None:
        return of(find(mac if memory is None else f"{mac} {memory} GB"), macos_version)
    if chip is not None:
        return of(find_chip(chip, memory=memory), macos_version)
    if memory is not None:
        if memory not in sizes():
            raise InputError(
                f"No Mac has {memory} GB of memory.", f"There are {', '.join(map(str, sizes()))}: --memory 16"
            )
        return sized(memory, macos_version)
    return None


def kernels_here(chip: Chip | None = None) -> Kernels:
    """How attention is computed on this machine.

    Args:
        chip: of it, asked where MLX does not name its GPU.
    """
    seen = device.device()
    mlx = tuple(int(part) for part in re.findall(r"\d+", version("mlx"))[:3])
    itemsize = device.compute_dtype().size
    if seen.backend != "metal":
        return Kernels(backend=seen.backend, mlx=mlx, itemsize=itemsize)
    architecture = seen.architecture or (chip.architecture if chip else "")
    return Kernels(backend="metal", generation=generation_of(architecture), mlx=mlx, itemsize=itemsize)


def generation_of(architecture: str) -> int:
    """Of a GPU by Metal's name, for MLX's choice of kernels: a phone's GPU of M5's generation has no matrix units."""
    generation, size = gpu_of(architecture)
    if not generation:
        return Kernels.generation
    return min(generation, NEURAL_GENERATION - 1) if size == "p" else generation
