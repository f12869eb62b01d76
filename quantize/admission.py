"""What `gemma` asks before it takes memory: does this model fit, and how must this prompt be read so that it does.

What does not fit as it was asked for is made to fit, in this order: the prompt is read in smaller chunks; keys and
values of layers without a window are kept in 8 bits; no copies of windows are kept; the answer is ended earlier. What
fits in no way is refused, with the next smaller model that would. A plan is made before the first chunk and holds until
the answer ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gemma_mlx import catalog, device, registry
from gemma_mlx.admission import Plan, Reading, Subject
from gemma_mlx.cache import kv
from gemma_mlx.cache.prefix import SNAPSHOT_BYTES
from gemma_mlx.cache.quantized import check_bits
from gemma_mlx.errors import GemmaError, InputError, MemoryLimitError, ModelNotFoundError
from gemma_mlx.quantize.machine import kernels_here
from gemma_mlx.quantize.memory import Kernels, Memory, Use, estimate
from gemma_mlx.quantize.passing import drafting
from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderDecoderSpec, EncoderSpec, StackSpec
from gemma_mlx.weights.load import PER_LAYER, inspect

CHUNKS: Final = (256, 128, 64)  # smaller than what is asked for, tried in this order
BITS: Final = 8  # of keys and values, where memory is short
# Tokens of an answer that memory is kept for where nobody says how long it may be: below, something is made smaller.
ANSWER: Final = 1024
LEAST_ANSWER: Final = 16  # below, a prompt is refused
BITS_PER_WEIGHT: Final = 4.5  # of a model in 4 bits, in groups of 64

Tell = Callable[[str], None]


@dataclass
class Admission:
    """Estimates, and compares with what is there.

    Attributes:
        limit_bytes: what all of the process may take; None where the machine does not say, and everything is let in.
        kernels: of the machine.
        force: lets everything in as it was asked for, and says so.
        tell: called with a sentence where something is not as it was asked for, and once for each way.
        in_use: bytes that MLX holds now.
    """

    limit_bytes: int | None
    kernels: Kernels
    force: bool = False
    tell: Tell = lambda _: None
    in_use: Callable[[], int] = lambda: device.memory().active

    def __post_init__(self) -> None:
        """Nothing was told yet."""
        self._told: set[object] = set()

    @classmethod
    def here(cls, *, force: bool = False, tell: Tell = lambda _: None) -> Admission:
        """For this machine.

        Raises:
            InputError: GEMMA_MEMORY_LIMIT is no size.
        """
        return cls(device.device().limit_bytes, kernels_here(), force=force, tell=tell)

    def load(self, subject: Subject) -> None:
        """Refuses weights beside which not even a short prompt has room.

        Raises:
            MemoryLimitError: with the next smaller model that fits.
        """
        if self.limit_bytes is None:
            return
        limit = max(self.limit_bytes - self.in_use(), 0)
        use = Use(prompt=CHUNKS[-1], answer=LEAST_ANSWER, chunk=CHUNKS[-1], kv_bits=_packable(subject, None))
        # While weights are read, what is cast is there twice, a fiftieth of all at a time.
        needed = max(self._memory(subject, use).peak, subject.weights * 51 // 50)
        if needed <= limit:
            return
        what = f"{subject.name} takes {_size(needed)}, {_size(subject.weights)} of it for weights"
        if self.force:
            self._say(("load", subject.name), f"{what}, and {_size(limit)} are there: loaded all the same (--force).")
            return
        raise MemoryLimitError(f"{what}, and {_size(limit)} are there for it.", self._hint(subject, use, limit))

    def read(self, subject: Subject, reading: Reading) -> Plan:
        """The first way to read a prompt that fits: as it was asked for, or as little smaller as can be.

        Raises:
            MemoryLimitError: not even a short answer fits; with the next smaller model that does.
        """
        asked = Plan(chunk=reading.chunk, kv_bits=reading.kv_bits, answer=reading.answer)
        if self.limit_bytes is None:
            return asked
        # Whatever else MLX holds is not ours: another model, or a conversation beside this one.
        others = self.in_use() - subject.weights - reading.held
        limit = self.limit_bytes - max(others, 0)
        room = _room(subject.spec, reading.tokens)
        answer = max(1, min(room, reading.answer or ANSWER))
        ways = list(_ways(subject, reading, answer))
        if self.force:
            self._forced(subject, ways[0], limit)
            return asked
        use = next((way for way in ways if self._memory(subject, way).peak <= limit), None)
        if use is None:
            use = self._shortened(subject, ways[-1], limit)
        if use is None:
            least = replace(ways[-1], answer=min(LEAST_ANSWER, answer))
            raise self._refusal(subject, least, limit)
        longest = self._longest(subject, use, limit, reading.answer or room)
        self._tell_changes(subject, reading, use, longest, limit)
        # What an answer does not take, copies of windows may.
        memory = self._memory(subject, use)
        return Plan(
            chunk=use.chunk,
            kv_bits=use.kv_bits,
            answer=longest if longest < (reading.answer or room) else reading.answer,
            marks=min(SNAPSHOT_BYTES, memory.marks + limit - memory.peak),
            least_marks=use.marks,
        )

    def encode(self, subject: Subject, rows: int, tokens: int) -> int:
        """As many texts as fit at once, halved until they do.

        Raises:
            MemoryLimitError: not even one fits; with the next smaller model in which it would.
        """
        if self.limit_bytes is None:
            return rows
        limit = self.limit_bytes - max(self.in_use() - subject.weights, 0)
        use = Use(prompt=tokens, batch=rows)
        if self.force:
            self._forced(subject, use, limit)
            return rows
        while self._memory(subject, use).peak > limit and use.batch > 1:
            use = replace(use, batch=use.batch // 2)
        if (needed := self._memory(subject, use).peak) > limit:
            raise MemoryLimitError(
                f"A text of {tokens:,} tokens takes {_size(needed)} with {subject.name}, and {_size(limit)} are there.",
                f"Split it. {self._hint(subject, use, limit)}",
            )
        if use.batch < rows:
            self._say(("encode", use.batch), f"To stay within {_size(limit)}, {use.batch} texts are read at once.")
        return use.batch

    def _memory(self, subject: Subject, use: Use) -> Memory:
        spec, kernels = subject.spec, replace(self.kernels, itemsize=subject.itemsize)
        if isinstance(spec, DrafterSpec):  # by itself, before it has a target
            return Memory(weights=subject.weights, working=drafting(spec, use.batch, kernels))
        assert isinstance(spec, DecoderSpec | EncoderSpec)
        return estimate(spec, subject.weights, use, kernels)

    def _shortened(self, subject: Subject, use: Use, limit: int) -> Use | None:
        """`use` with the longest answer that fits; None where that is shorter than a short one."""
        least = min(LEAST_ANSWER, use.answer)
        if self._memory(subject, replace(use, answer=least)).peak > limit:
            return None
        return replace(use, answer=self._longest(subject, replace(use, answer=least), limit, use.answer))

    def _longest(self, subject: Subject, use: Use, limit: int, most: int) -> int:
        """The most tokens of an answer that fit, between those of `use`, which do, and `most`."""

        def fits(answer: int) -> bool:
            return self._memory(subject, replace(use, answer=answer)).peak <= limit

        if most <= use.answer or fits(most):
            return most
        longest = use.answer
        # Caches grow in steps: of all lengths, those that fill one are asked about.
        before = 1 if isinstance(subject.spec, EncoderDecoderSpec) else use.prompt  # in the cache that an answer fills
        low, high = (before + longest) // kv.STEP + 1, (before + most) // kv.STEP
        while low <= high:
            middle = (low + high) // 2
            answer = middle * kv.STEP - before
            if fits(answer):
                longest, low = answer, middle + 1
            else:
                high = middle - 1
        return longest

    def _forced(self, subject: Subject, use: Use, limit: int) -> None:
        peak = self._memory(subject, use).peak
        if peak > limit:
            self._say(
                ("read", _size(peak)),
                f"This takes {_size(peak)} with {subject.name}, and {_size(limit)} are there: read all the same "
                "(--force).",
            )

    def _tell_changes(self, subject: Subject, reading: Reading, use: Use, longest: int, limit: int) -> None:
        """Says in one line what is not as it was asked for."""
        changes = []
        if use.chunk != reading.chunk:
            changes.append(f"prompts are read {use.chunk} tokens at a time instead of {reading.chunk}")
        if use.kv_bits != reading.kv_bits:
            changes.append(f"keys and values are kept in {use.kv_bits} bits")
        if not use.marks:
            changes.append("an earlier turn is read anew when it is changed")
        capped = longest < (reading.answer or _room(subject.spec, use.prompt))
        if capped and isinstance(subject.spec, EncoderDecoderSpec):
            changes.append(f"the answer ends at {longest:,} tokens")
        elif capped:
            whole = use.prompt + longest
            changes.append(f"prompt and answer end at {whole:,} tokens of a context of {subject.spec.context:,}")
        if changes:
            told = (use.chunk, use.kv_bits, use.marks, capped)
            self._say(told, f"To stay within {_size(limit)}, {_listed(changes)}.")

    def _refusal(self, subject: Subject, use: Use, limit: int) -> MemoryLimitError:
        at_once = isinstance(subject.spec, EncoderDecoderSpec) or use.chunk >= use.prompt
        ways = "read at once" if at_once else f"read {use.chunk} tokens at a time"
        ways += f" with keys and values in {use.kv_bits} bits" if use.kv_bits is not None else ""
        needed = _size(self._memory(subject, use).peak)
        return MemoryLimitError(
            f"These {use.prompt:,} tokens take {needed} with {subject.name}, even {ways}, and {_size(limit)} are there "
            "for it.",
            f"Shorten the prompt, or begin anew (/clear). {self._hint(subject, use, limit)}",
        )

    def _hint(self, subject: Subject, use: Use, limit: int) -> str:
        return f"{self._packed(subject, use, limit)}{self._smaller(subject, use, limit)}--force tries it all the same."

    def _packed(self, subject: Subject, use: Use, limit: int) -> str:
        """A sentence about the same model in 4 bits, where it has more and would fit with them."""
        own = _row(subject)
        numbers = own.network.parameters.language if own is not None and own.network is not None else 0
        weights = int(numbers * BITS_PER_WEIGHT / 8)
        peak = self._memory(replace(subject, weights=weights), use).peak
        much = subject.weights > 1.5 * weights > 0
        return f"In 4 bits this model would take about {_size(peak)}. " if much and peak <= limit else ""

    def _smaller(self, subject: Subject, use: Use, limit: int) -> str:
        """A sentence that names the next smaller model with which the same would fit; empty where there is none."""
        for row in _smaller_models(subject):
            assert row.network is not None  # `_smaller_models` leaves the others out
            weights = row.network.parameters.language * subject.itemsize
            try:
                spec = registry.match(dict(row.network.config)).spec
            except GemmaError:  # a kind of model that this version does not run
                continue
            if isinstance(spec, DrafterSpec) or isinstance(spec, EncoderSpec) != isinstance(subject.spec, EncoderSpec):
                continue  # of no use for the same
            other = replace(subject, spec=spec, weights=weights)
            bits = _packable(other, None) if use.kv_bits is not None else None
            peak = self._memory(other, replace(use, kv_bits=bits)).peak
            if peak <= limit and use.answer <= _room(spec, use.prompt):
                return f"{row.label} would take {_size(peak)} for the same. "
        return ""

    def _say(self, what: object, sentence: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.tell(sentence)


def fits_here(name: str, folder: Path) -> bool:
    """Whether a checkpoint, with a short prompt, finds room on this machine.

    Raises:
        GemmaError: whatever is wrong with it.
    """
    checkpoint, itemsize = inspect(folder), device.compute_dtype().size
    weights = checkpoint.memory_bytes(per_layer=PER_LAYER)
    match = checkpoint.match
    try:
        Admission.here().load(Subject(name, match.model_type, match.spec, weights, itemsize))
    except MemoryLimitError:
        return False
    return True


def _ways(subject: Subject, reading: Reading, answer: int) -> Iterator[Use]:
    """How a prompt can be read, from what was asked for to what takes least."""
    smaller = [] if reading.whole else [chunk for chunk in CHUNKS if chunk < reading.chunk]
    for bits in dict.fromkeys((reading.kv_bits, _packable(subject, reading.kv_bits))):
        for chunk in (reading.chunk, *smaller):
            way = Use(prompt=reading.tokens, answer=answer, chunk=chunk, kv_bits=bits, cut=reading.cut)
            yield way
    yield replace(way, marks=0)


def _room(spec: StackSpec, tokens: int) -> int:
    """How many tokens may follow a prompt, or below 0 by how many it is too long."""
    return spec.room(tokens) if isinstance(spec, DecoderSpec) else spec.context - tokens


def _packable(subject: Subject, bits: int | None) -> int | None:
    """8 where keys and values could be packed and are not, and else what they are."""
    if bits is not None:
        return bits
    try:
        if not isinstance(subject.spec, DecoderSpec):
            return None
        check_bits(subject.spec, BITS)
    except InputError:
        return None
    return BITS


def _row(subject: Subject) -> catalog.Row | None:
    """Of the catalogue; None for what it does not have."""
    for name in (subject.name, Path(subject.name).name):
        try:
            return catalog.find(name)
        except ModelNotFoundError:
            continue
    return None


def _smaller_models(subject: Subject) -> Iterator[catalog.Row]:
    """Models of the same family that hold fewer numbers, the largest first; then others that follow instructions."""
    own = _row(subject)
    rows = [
        row
        for row in catalog.rows()
        if row.network is not None
        and row.network.parameters.language * subject.itemsize < subject.weights
        and row.format == "safetensors"
        and row.qat is None
        and row.variant == (own.variant if own else "it")
    ]
    family = [
        row for row in rows if (row.generation == own.generation if own else row.model_type == subject.model_type)
    ]
    general = [row for row in rows if re.fullmatch(r"Gemma [\d.n]+", row.generation) and row not in family]
    for group in (family, general):
        yield from sorted(group, key=lambda row: -row.network.parameters.language if row.network else 0)


def _listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _size(nbytes: int) -> str:
    """`7.25 GB`, or `640 MB`."""
    return f"{nbytes / 1e9:,.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:,.1f} MB"
