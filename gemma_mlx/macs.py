"""Every Mac with Apple Silicon: its chip, its memory, and the words people use for it. The data are in macs.json.

What was not said is taken to be the smallest that was sold, fewest GPU cores first and then the least memory, so that a
promise made for it is kept by the larger ones; `Found.assumed` says so. A chip is never guessed.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from gemma_mlx.errors import InputError

GIB: Final = 1 << 30
NEWEST_MACOS: Final = 26

# Metal's `recommendedMaxWorkingSetSize` as a share of the memory: from so many GiB on, macOS 26 gives so much. The
# shares reproduce every value seen on 8 to 256 GB to 1e-6; for 192 and 512 GB none was seen.
_SHARES: Final = ((256, 0.87), (128, 0.84), (64, 0.81), (32, 0.78), (16, 0.74), (0, 2 / 3))


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip as one of its variants is sold.

    Attributes:
        name: "M4", "M4 Max".
        cpu_cores: of both kinds.
        gpu_cores: of the GPU.
        bandwidth_gbs: of the memory, 1e9 bytes per second, as Apple states it.
        tflops: of the GPU's ordinary units in half precision, 1e12 operations per second; None where unknown.
        neural: whether the GPU cores have matrix units that MLX uses.
        architecture: Metal's name, without what follows the letter for the size.
    """

    name: str
    cpu_cores: int
    gpu_cores: int
    bandwidth_gbs: float
    tflops: float | None = None
    neural: bool = False
    architecture: str = ""

    @property
    def generation(self) -> int:
        """4 in "M4 Max"; 0 where the name is not of that kind."""
        number = re.match(r"(?:Apple )?M(\d+)\b", self.name)
        return int(number[1]) if number else 0

    @property
    def gpu_generation(self) -> int:
        """Metal's count of Apple GPUs: 13 for M1 to 17 for M5; 0 where the architecture is not known."""
        return gpu_of(self.architecture)[0]

    @property
    def tier(self) -> str:
        """ "Pro", "Max" or "Ultra"; "" for the smallest of its generation, and for a phone's chip."""
        word = self.name.rpartition(" ")[2]
        return word if self.generation and word in ("Pro", "Max", "Ultra") else ""


@dataclass(frozen=True, kw_only=True)
class Mac:
    """A Mac as it stands on a desk.

    Attributes:
        model: with the size of its screen: "MacBook Pro 14", "Mac mini".
        year: it came out.
        chip: in it.
        memory_gb: in it.
        memory_options: the sizes it was sold with.
        identifier: what macOS calls it, "Mac16,1"; variants share one.
        doubt: what about this row is not certain; None where everything is.
    """

    model: str
    year: int
    chip: Chip
    memory_gb: int
    memory_options: tuple[int, ...]
    identifier: str
    doubt: str | None = None

    def __str__(self) -> str:
        return f"{self.model}, {self.year}, {self.chip.name} with {self.chip.gpu_cores} GPU cores, {self.memory_gb} GB"

    @property
    def memory_bytes(self) -> int:
        """Its memory; makers of memory count in powers of two."""
        return self.memory_gb * GIB

    @property
    def fanless(self) -> bool:
        """Whether it slows down after a minute of work."""
        return self.model.startswith(("MacBook Air", "MacBook Neo"))

    def working_set_bytes(self, macos: int = NEWEST_MACOS) -> int:
        """What a process may keep resident for the GPU; see `working_set_bytes`."""
        return working_set_bytes(self.memory_bytes, macos)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A Mac, and a sentence for everything about it that was assumed."""

    mac: Mac
    assumed: tuple[str, ...] = ()


def gpu_of(architecture: str) -> tuple[int, str]:
    """Metal's name of a GPU -> its generation and the letter for its size, "p" a phone's: "applegpu_g17s" is 17, "s".

    0 and "" where it is no such name.
    """
    found = re.search(r"g(\d+)([a-z]?)", architecture)
    return (int(found[1]), found[2]) if found else (0, "")


def working_set_bytes(memory_bytes: int, macos: int = NEWEST_MACOS) -> int:
    """Metal's recommended working set, unless `iogpu.wired_limit_mb` was changed.

    Args:
        memory_bytes: of the Mac.
        macos: its version's first number. Up to 15 it is 2/3 of the memory up to 32 GiB, and 3/4, or all but 48 GiB,
            beyond; since 26 a share that grows with the memory.
    """
    if macos >= 26:
        return int(memory_bytes * next(share for start, share in _SHARES if memory_bytes >= start * GIB))
    if memory_bytes <= 32 * GIB:
        return memory_bytes * 2 // 3
    return max(memory_bytes * 3 // 4, memory_bytes - 48 * GIB)


@cache
def macs() -> tuple[Mac, ...]:
    """Every Mac with every memory size it was sold with."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("macs.json").read_text(encoding="utf-8"))
    chips = [Chip(**row) for row in table["chips"]]
    return tuple(
        Mac(**row | {"chip": chips[row["chip"]], "memory_gb": size, "memory_options": tuple(row["memory_gb"])})
        for row in table["macs"]
        for size in row["memory_gb"]
    )


def find(words: str) -> Found:
    """The Mac that somebody means: "MacBook Air M4 16", "mbp 14 m3 pro 36gb", "Mac16,1", "M2 Ultra 192".

    Capitals, order and units do not matter; "40 core", "late 2023", "14-inch" and "512 GB SSD" are understood.

    Raises:
        InputError: a word is not understood, no such Mac was sold, or the chip is left open; the hint has names.
    """
    asked = _read(words)
    viable = [(reading, found) for reading in asked.readings() if (found := [m for m in macs() if reading.admits(m)])]
    if not viable:
        raise _never_sold(words, asked)
    reading, found = viable[0]
    if gpus := [mac for mac in found if mac.chip.gpu_cores == reading.cores]:
        found = gpus  # "10 core" is said of the GPU if it can be
    names = list(dict.fromkeys(mac.chip.name for mac in found))
    if len(names) > 1:
        models = {mac.model for mac in found}
        model = f"the {models.pop()}" if len(models) == 1 else "such a Mac"
        raise InputError(
            f"{words.strip()!r} does not say which chip: {model} comes with {_listed(names)}.",
            f"Add one of them, as in '{words.strip()} {names[0]}'.",
        )
    return _smallest(found, reading, asked, open_to_doubt=len(viable) > 1)


def find_chip(name: str, *, memory: int | None = None, gpu_cores: int | None = None) -> Found:
    """A Mac with this chip, "m4-max" or "Apple M4 Max", where it does not matter which model it is.

    Args:
        name: of the chip.
        memory: in GB; the least that was sold where None.
        gpu_cores: the fewest that were sold with so much memory where None.

    Raises:
        InputError: there is no such chip, or none with so much memory or so many cores.
    """
    wanted = " ".join(re.findall(r"[a-z]+\d*|\d+", name.lower().replace("apple", "")))
    names = {chip.lower(): chip for chip in _chip_names()}
    wanted = re.sub(r"(?<=\d)(?=pro|max|ultra)", " ", wanted)
    if wanted not in names:
        raise _no_chip(name)
    asked = _Reading(chip=names[wanted], memory=memory, gpu_cores=gpu_cores)
    found = [mac for mac in macs() if asked.admits(mac)]
    if not found:
        raise _never_sold(f"{names[wanted]} with " + asked.told(), _Asked(reading=asked))
    return _smallest(found, asked)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What was said, one way to read it; None where nothing was."""

    family: str | None = None
    screen: int | None = None
    chip: str | None = None
    tier: str | None = None
    memory: int | None = None
    cores: int | None = None  # of the CPU or the GPU
    cpu_cores: int | None = None
    gpu_cores: int | None = None
    year: int | None = None
    identifier: str | None = None

    def admits(self, mac: Mac) -> bool:
        """Whether this may be the Mac."""
        return all(test(mac, said) for key, test in _TESTS.items() if (said := getattr(self, key)) is not None)

    def told(self) -> str:
        """What was said of memory and cores, in words."""
        parts = [f"{self.memory} GB"] if self.memory is not None else []
        cores = self.gpu_cores if self.gpu_cores is not None else self.cores
        return " and ".join([*parts, *([f"{cores} cores"] if cores is not None else [])])


_TESTS: Final[dict[str, Callable[[Mac, Any], bool]]] = {
    "family": lambda mac, said: mac.model == said or mac.model.startswith(f"{said} "),
    "screen": lambda mac, said: mac.model.endswith(f" {said}"),
    "chip": lambda mac, said: mac.chip.name == said,
    "tier": lambda mac, said: mac.chip.name.endswith(f" {said}"),
    "memory": lambda mac, said: mac.memory_gb == said,
    "cores": lambda mac, said: said in (mac.chip.gpu_cores, mac.chip.cpu_cores),
    "cpu_cores": lambda mac, said: mac.chip.cpu_cores == said,
    "gpu_cores": lambda mac, said: mac.chip.gpu_cores == said,
    "year": lambda mac, said: mac.year == said,
    "identifier": lambda mac, said: mac.identifier.lower() == said,
}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What was said, and the numbers that may be a screen or a memory, with whether they stand before the chip."""

    reading: _Reading
    numbers: Sequence[tuple[int, bool]] = field(default=())

    def readings(self) -> Iterable[_Reading]:
        """Every way to read the numbers, at most one as each; likely ones first: a screen before the chip."""
        if len(self.numbers) > 2:
            return []
        ways: list[tuple[int, dict[str, Any]]] = []
        for kinds in itertools.product(("screen", "memory"), repeat=len(self.numbers)):
            values: dict[str, Any] = {}
            for kind, (number, _) in zip(kinds, self.numbers, strict=True):
                if kind in values or getattr(self.reading, kind) is not None:
                    break
                values[kind] = number
            else:
                odd = sum((kind == "screen") != first for kind, (_, first) in zip(kinds, self.numbers, strict=True))
                ways.append((odd, values))
        ways.sort(key=lambda way: way[0])
        return [replace(self.reading, **values) for _, values in ways]


# Families, longest first: a bare "pro" or "max" behind them belongs to the chip.
_FAMILIES: Final = (
    (r"mac ?book ?pro|mbp", "MacBook Pro"),
    (r"mac ?book ?air|mba", "MacBook Air"),
    (r"mac ?book ?neo", "MacBook Neo"),
    (r"mac ?studio", "Mac Studio"),
    (r"mac ?mini", "Mac mini"),
    (r"i ?mac", "iMac"),
    (r"mac ?pro", "Mac Pro"),
    (r"mac ?book", "MacBook"),
    (r"air", "MacBook Air"),
    (r"neo", "MacBook Neo"),
    (r"studio", "Mac Studio"),
    (r"mini", "Mac mini"),
)
_SAID_BY_NOBODY_ELSE: Final = (
    "a an and apple chip computer early gen generation in laptop late mac memory mid model my of ram retina silicon "
    "the unified with"
).split()


def _read(words: str) -> _Asked:
    """Words -> what they say.

    Raises:
        InputError: a word is not understood.
    """
    said: dict[str, Any] = {}
    text = words.lower()

    def take(pattern: str) -> re.Match[str] | None:
        """Blanks the first match out of the text, so that what is left stays where it was."""
        nonlocal text
        found = re.search(pattern, text)
        if found:
            text = text[: found.start()] + " " * len(found[0]) + text[found.end() :]
        return found

    if identifier := take(r"\b(?:mac|macbookpro|macbookair|macmini|imac)\d+,\d+\b"):
        said["identifier"] = identifier[0]
    text = re.sub(r"[\"″”]|''", " inch ", text)
    text = re.sub(r"[-_/,;:()|+]", " ", text)
    text = re.sub(r"\b(\d+)(?=(?:gb|g|gib|gig|tb|inch|in|c|cpu|gpu|core|cores)\b)", r"\1 ", text)
    text = re.sub(r"(?<=[a-z]{2})(?=(?:8|1[3468]|15|2[47]|32|36|48|64|96|128|192|256|512)\b)", " ", text)
    text = " ".join(re.sub(r"\b(m\d+)(?=pro|max|ultra)", r"\1 ", text).split())
    take(r"\b\d+ (?:tb\b(?: ssd| storage)?|gb (?:ssd|storage|disk))\b")
    while found := take(r"\b(\d+) (?:gb|gib|gigs?|gigabytes?|g)\b"):
        _say(said, "memory", int(found[1]), words)
    while found := take(r"\b(\d+) (?:inch(?:es)?|in)\b"):
        _say(said, "screen", int(found[1]), words)
    while found := take(r"\b(\d+) ?(?:cores? (gpu|cpu)|(gpu|cpu) cores?|(gpu|cpu)|cores?|c)\b"):
        _say(said, f"{kind}_cores" if (kind := found[2] or found[3] or found[4]) else "cores", int(found[1]), words)
    if found := take(r"\b(20[12]\d)\b"):
        said["year"] = int(found[1])
    for pattern, family in _FAMILIES:  # before the chip: "m1 macbook pro" is no M1 Pro
        if take(rf"\b(?:{pattern})(?=\d|\b)"):
            said["family"] = family
            break
    chip = take(r"\b(m\d+|a\d+)(?: +(pro|max|ultra))?\b")
    begins = chip.start() if chip else len(text)
    if chip:
        said["chip"] = " ".join([chip[1].upper(), *([chip[2].capitalize()] if chip[2] else [])])
    if found := take(r"\b(pro|max|ultra)\b"):  # "studio ultra 512", "mbp 14 max m4", "pro 14 m3"
        _loose(said, found[1].capitalize())
    numbers: list[tuple[int, bool]] = []
    for found in re.finditer(r"\S+", text):
        if found[0].isdigit():
            numbers.append((int(found[0]), found.start() < begins))
        elif found[0] not in _SAID_BY_NOBODY_ELSE:
            raise _not_understood(words, found[0])
    if not said and not numbers:
        raise InputError("No Mac was named.", "Name one as in: MacBook Air M4 16")
    return _Asked(reading=_Reading(**said), numbers=tuple(numbers))


def _say(said: dict[str, Any], key: str, value: int, words: str) -> None:
    if said.setdefault(key, value) != value:
        what = {"memory": "sizes of memory", "screen": "sizes of screen"}.get(key, "numbers of cores")
        raise InputError(f"{words.strip()!r} has two {what}: {said[key]} and {value}.", "Say one.")


def _loose(said: dict[str, Any], tier: str) -> None:
    """A "Pro", "Max" or "Ultra" that does not follow the chip."""
    if "chip" in said and " " not in said["chip"] and "family" in said:
        said["chip"] += f" {tier}"
    elif tier == "Pro" and "family" not in said:
        said["family"] = "MacBook Pro"
    elif "chip" not in said:
        said["tier"] = tier
    elif not said["chip"].endswith(tier):
        said["chip"] += f" {tier}"


def _smallest(
    found: Sequence[Mac], reading: _Reading, asked: _Asked | None = None, *, open_to_doubt: bool = False
) -> Found:
    """The least of those that fit, and what was assumed to choose it."""
    mac = min(found, key=lambda mac: (mac.chip.bandwidth_gbs, mac.chip.gpu_cores, mac.chip.cpu_cores, mac.memory_gb))
    assumed = []
    for number, first in asked.numbers if asked and reading.screen != reading.memory else ():
        if open_to_doubt or first != (number == reading.screen):
            is_screen = number == reading.screen and (first or number != reading.memory)
            kinds = ("screen", "memory", "GB") if is_screen else ("memory", "screen", "inch")
            assumed.append(
                f"{number} was read as the {kinds[0]}; if it is the {kinds[1]}, write '{number} {kinds[2]}'."
            )
    cores = sorted({(other.chip.gpu_cores, other.chip.bandwidth_gbs) for other in found})
    if len({number for number, _ in cores}) > 1:
        others = ", ".join(f"{number} at {speed:g} GB/s" for number, speed in cores[1:])
        here = f"{mac.chip.gpu_cores} GPU cores at {mac.chip.bandwidth_gbs:g} GB/s"
        assumed.append(f"Taken to have {here}; also sold with {others}.")
    sizes = sorted({other.memory_gb for other in found})
    if len(sizes) > 1:
        others = _listed(map(str, sizes[1:]))
        assumed.append(f"Taken to have {mac.memory_gb} GB of memory; also sold with {others} GB.")
    models = list(dict.fromkeys(other.model for other in found if other.model != mac.model))
    if models and reading.family is not None:
        assumed.append(f"Taken to be the {mac.model}; there is the {_listed(models)} too.")
    return Found(mac=mac, assumed=tuple(assumed))


# What a user may have got wrong, likeliest first -> what to show of the Macs there are without it.
_PARTS: Final[dict[str, Callable[[Mac], str]]] = {
    "memory": lambda mac: f"{mac.memory_gb} GB",
    "gpu_cores": lambda mac: f"{mac.chip.gpu_cores} GPU cores",
    "cpu_cores": lambda mac: f"{mac.chip.cpu_cores} CPU cores",
    "cores": lambda mac: f"{mac.chip.gpu_cores} GPU cores",
    "screen": lambda mac: mac.model,
    "year": lambda mac: str(mac.year),
    "chip": lambda mac: mac.chip.name,
    "tier": lambda mac: mac.chip.name,
    "family": lambda mac: mac.model,
}
_MOST_SHOWN: Final = 8


def _never_sold(words: str, asked: _Asked) -> InputError:
    """No Mac is like that: names what there is without the part that is wrong, where leaving one out helps."""
    message = f"No Mac is {words.strip()!r}."
    for key, shown in _PARTS.items():
        for reading in asked.readings():
            if getattr(reading, key) is None:
                continue
            there = [mac for mac in macs() if replace(reading, **{key: None}).admits(mac)]
            options = sorted({shown(mac) for mac in there}, key=lambda text: (len(text), text))
            if 0 < len(options) <= _MOST_SHOWN:
                return InputError(message, f"There is one with {_listed(options, 'or')}.")
    chip = asked.reading.chip
    if chip is not None and chip not in _chip_names():
        return _no_chip(chip)
    return InputError(message, f"Did you mean {_listed(_nearest(words), 'or')}?")


def _no_chip(name: str) -> InputError:
    near = difflib.get_close_matches(name.upper(), _chip_names(), 3, 0.0)
    return InputError(f"No Mac has a chip {name!r}.", f"Did you mean {_listed(near, 'or')}?")


def _chip_names() -> list[str]:
    return list(dict.fromkeys(mac.chip.name for mac in macs()))


def _not_understood(words: str, word: str) -> InputError:
    return InputError(
        f"{word!r} in {words.strip()!r} is no part of a Mac's name.", f"Did you mean {_listed(_nearest(words), 'or')}?"
    )


def _nearest(words: str) -> list[str]:
    """Names that look like it."""
    names = list(dict.fromkeys(f"{mac.model} {mac.chip.name}" for mac in macs()))
    folded = {name.lower(): name for name in names}
    return [folded[name] for name in difflib.get_close_matches(words.lower(), folded, 3, 0.0)]


def _listed(names: Iterable[str], last: str = "and") -> str:
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end
