"""Whether a model fits a Mac, how far its context reaches there, and how fast it answers.

    comfortable   its peak stays half a gigabyte below what macOS lets a process keep for the GPU
    tight         it stays below it
    needs sysctl  it stays below what macOS can spare, once that limit is raised
    no            it does not

A peak is that of a prompt as long as the context. On Macs of up to 16 GB it must also leave macOS 3 or 4 GiB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from gemma_mlx import catalog
from gemma_mlx.errors import InputError
from gemma_mlx.quantize import formats, machine, sources, subject
from gemma_mlx.quantize.machine import Machine
from gemma_mlx.quantize.memory import Draft, How, Kernels, Memory, Use, estimate, reads_both_ways
from gemma_mlx.quantize.speed import Drafting, Speed, Wait, answering, drafted, prefill
from gemma_mlx.quantize.subject import Subject, age
from gemma_mlx.quantize.traffic import Traffic
from gemma_mlx.spec import DrafterSpec, EncoderDecoderSpec, EncoderSpec
from gemma_mlx.weights.load import PER_LAYER, Placement

Verdict = Literal["comfortable", "tight", "needs sysctl", "no"]
VERDICTS: Final[tuple[Verdict, ...]] = ("comfortable", "tight", "needs sysctl", "no")

MARGIN_BYTES: Final = 500_000_000
STEP: Final = 1024  # largest contexts are multiples of it, or all that the model has
_SMALLEST: Final = 256
_ROUNDED: Final = 0.02  # files are larger than their weights by a tokenizer, headers, and what nobody packs
READING: Final = 10.0  # tokens per second, about twice as quick as people read
_HARDLY: Final = 0.8
_MIB: Final = 1 << 20
_WIRED_STEP: Final = 256  # MiB


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be done with a model.

    Attributes:
        context: tokens of text that it shall hold; a model that has fewer is judged with those. Where an encoder reads
            the prompt, the answer has as many besides.
        prompt: tokens, of those, after which the first token of an answer is waited for.
        chunk: tokens of a prompt that are read at once.
        batch: sequences side by side.
        kv_bits: of keys and values in layers without a window: 8, or 4; None keeps them as computed.
        images: pictures in the context.
        audio: seconds of sound in it.
        text_only: without what reads pictures and sound.
        per_layer: where a table of per-layer embeddings is kept, "disk" or "memory".
    """

    context: int = 8192
    prompt: int = 1000
    chunk: int = 512
    batch: int = 1
    kv_bits: int | None = None
    images: int = 0
    audio: float = 0.0
    text_only: bool = False
    per_layer: Placement = PER_LAYER

    def __post_init__(self) -> None:
        for name, usual in (("context", 8192), ("prompt", 1000), ("chunk", 512), ("batch", 1)):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}, and must be at least 1.", f"--{name} {usual}")
        if self.kv_bits not in (None, 4, 8):
            raise InputError(f"Keys and values cannot have {self.kv_bits} bits; 4 and 8 are possible.", "--kv-bits 8")
        if self.images < 0 or not 0 <= self.audio < math.inf:
            raise InputError("There cannot be fewer than no pictures, nor less than no sound.", "--images 1")
        if self.text_only and (self.images or self.audio):
            raise InputError("Pictures or sound are given, and --text-only.", "Leave out --text-only.")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a model in a format does on a machine.

    Attributes:
        model: its name.
        format: its name.
        bits_per_weight: of it, scales and biases included.
        memory: bytes, part by part, where they are highest.
        limit_bytes: what there is for them.
        verdict: "comfortable", "tight", "needs sysctl" or "no".
        reason: of the verdict, as a sentence.
        command: what raises the limit far enough, until the Mac is started again; None where that is no help.
        context: tokens that were judged, with those of pictures and sound.
        largest_context: the longest one with this verdict; where that is "no", the longest that fits at all. None
            where none does.
        decode: tokens per second of an answer; None for models that write none, and where the chip is not known.
        prefill: the same while a prompt is read.
        first_token: seconds from a prompt to the first token.
        fetch: the model to fetch for this format, as it is typed.
        repository: that holds this format, or that it is made of; None for a checkpoint.
        ready: whether that repository holds it; else it is packed on this machine.
        drafting: what drafts cost, where there is a drafter and the chip is known.
    """

    model: str
    format: str
    bits_per_weight: float
    memory: Memory
    limit_bytes: int
    verdict: Verdict
    reason: str
    command: str | None
    context: int
    largest_context: int | None
    decode: Speed | None
    prefill: Speed | None
    first_token: Wait | None
    fetch: str
    repository: str | None = None
    ready: bool = True
    drafting: Drafting | None = None

    @property
    def margin_bytes(self) -> int:
        """What stays free below the limit; below 0 where it is passed."""
        return self.limit_bytes - self.memory.peak

    @property
    def quick(self) -> bool:
        """Whether it writes at least twice as fast as people read, as far as is known."""
        return self.decode is None or self.decode.tokens_per_second >= READING


class Judge:
    """Judges one model; what does not depend on the format or the size of memory is computed once."""

    def __init__(self, model: Subject, asked: Asked, format_name: str | None = None) -> None:
        """Judges a model in one format, or in every one."""
        self.subject = model
        self.asked = asked
        self.formats = model.formats if format_name is None else _only(model, format_name)
        towers = model.towers
        for wanted, have, what in ((asked.images, towers.vision, "pictures"), (asked.audio, towers.audio, "sound")):
            if wanted and not have:
                raise InputError(f"{model.name} reads no {what}.", f"gemma fit {model.name}")
        self.soft_tokens = towers.tokens(asked.images, asked.audio)
        self.most = model.spec.context
        if self.soft_tokens >= self.most:
            raise InputError(
                f"Pictures and sound are {self.soft_tokens:,} tokens, and {model.name} has {self.most:,}.",
                "Give it fewer, or shorter ones.",
            )
        self.context = min(asked.context + self.soft_tokens, self.most)
        self._towers = 0 if asked.text_only else towers.nbytes
        self._passing: dict[tuple[int, Kernels], Memory] = {}
        self._stored: dict[tuple[str, int], Traffic] = {}

    def memory(self, weights: int, context: int, kernels: Kernels, drafter: int = 0) -> Memory:
        """What the model takes, where it takes most; `drafter` is the bytes of the one beside it."""
        key = (context, kernels)
        if key not in self._passing:
            asked, spec, beside = self.asked, self.subject.spec, self.subject.drafter
            answer = context if isinstance(spec, EncoderDecoderSpec) else 0
            use = Use(prompt=context, answer=answer, chunk=asked.chunk, batch=asked.batch, kv_bits=asked.kv_bits)
            draft = Draft(spec=beside.spec, weights=0) if beside and isinstance(beside.spec, DrafterSpec) else None
            self._passing[key] = estimate(spec, 0, use, kernels, towers=self._towers, draft=draft)
        return replace(self._passing[key], weights=weights, drafter=drafter)

    def largest(self, weights: int, kernels: Kernels, most_bytes: int) -> int | None:
        """The longest context whose peak stays within so many bytes."""

        def fits(context: int) -> bool:
            return self.memory(weights, context, kernels).peak <= most_bytes

        if fits(self.most):
            return self.most
        low, high = 0, -(-self.most // STEP)  # in steps: what fits, and what does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle * STEP) else (low, middle)
        if low:
            return low * STEP
        return _SMALLEST if self.most > _SMALLEST and fits(_SMALLEST) else None

    def answer(self, name: str, how: How, on: Machine, held: int | None = None) -> Answer:
        """How the model does on a machine, packed as `how` says.

        Args:
            name: of the format.
            how: its matrices are packed.
            on: the machine.
            held: bytes of the files that it comes in, where they are known: some hold more than their name says.
        """
        model, asked = self.subject, self.asked
        source = None if model.row is None else sources.of(model.row, name)
        if held is None and source is not None and source.ready:
            held = source.nbytes
        stored = self._traffic(name, how, held=held)
        itemsize = on.kernels.itemsize
        weights = round(self._traffic(name, how, itemsize, held).weight_bytes)
        if asked.per_layer == "disk":
            weights -= model.traffic.table_bytes(how, itemsize)
        beside = None if model.drafter is None else model.drafter.traffic.stored(model.drafter.how or how, itemsize)
        drafter = round(beside.weight_bytes) if beside else 0
        memory = self.memory(weights, self.context, on.kernels, drafter)
        verdict, reason = judged(memory.peak, on)
        bound = bounds(on)
        within = bound[verdict] if verdict != "no" else bound["tight"]
        largest = self.largest(weights + drafter, on.kernels, within)
        if largest is None and verdict == "no":
            largest = self.largest(weights + drafter, on.kernels, bound["needs sysctl"])
        answer = Answer(
            model=model.name,
            format=name,
            bits_per_weight=model.bits(stored),
            memory=memory,
            limit_bytes=on.limit_bytes,
            verdict=verdict,
            reason=reason,
            command=sysctl(memory.peak, on) if verdict == "needs sysctl" else None,
            context=self.context,
            largest_context=largest,
            decode=None,
            prefill=None,
            first_token=None,
            fetch=model.name if source is None or model.row is None else catalog.spelled(model.row, name),
            repository=None if source is None else source.repository,
            ready=source is None or source.ready,
        )
        if on.chip is None:
            return answer
        tokens = min(asked.prompt + self.soft_tokens, self.most)
        chunk = tokens if reads_both_ways(model.spec) else asked.chunk
        reading = prefill(stored, on.chip, tokens, chunk=chunk)
        if isinstance(model.spec, EncoderSpec):
            return replace(answer, prefill=reading)
        packed = None if isinstance(model.spec, EncoderDecoderSpec) else asked.kv_bits
        bits = packed + 0.5 if packed else 16.0
        canvas = model.spec.canvas.length if model.spec.canvas else None
        writing, wait = answering(stored, on.chip, self.context, tokens, canvas=canvas, chunk=chunk, kv_bits=bits)
        answer = replace(answer, decode=writing, prefill=reading, first_token=wait)
        if model.drafter is None:
            return answer
        drafts = model.drafter.traffic.stored(model.drafter.how or how)
        return replace(answer, drafting=drafted(stored, drafts, on.chip, self.context, kv_bits=bits))

    def _traffic(self, name: str, how: How, itemsize: int = 2, held: int | None = None) -> Traffic:
        """What is stored in a format; where its files are known to hold more, with their bits for each weight."""
        key = (name, itemsize)
        if key not in self._stored:
            self._stored[key] = self.subject.traffic.stored(how, itemsize)
        stored, plain = self._stored[key], self.subject.traffic
        more = (held or 0) - self.subject.towers.nbytes
        if name == "bf16" or more <= stored.weight_bytes * (1 + _ROUNDED):
            return stored
        return plain.at(min(8 * (more - 2 * plain.plain) / plain.packable, 16.0))

    def nbytes(self, name: str, held: int | None = None) -> int:
        """About the bytes of the files of a format."""
        return held or round(self._traffic(name, self.subject.formats[name]).weight_bytes) + self.subject.towers.nbytes

    def answers(self, on: Machine) -> tuple[Answer, ...]:
        """One for each format that the model can be had in."""
        return tuple(self.answer(name, how, on) for name, how in self.formats.items())


def _only(model: Subject, name: str) -> dict[str, How]:
    """The one format of that name."""
    wanted = formats.named(name).name
    if wanted not in model.formats:
        why = "is packed already" if model.how is not None else "was not trained for it"
        raise InputError(
            f"{model.name} cannot be had in {wanted}: it {why}.", f"It can be had in {', '.join(model.formats)}."
        )
    return {wanted: model.formats[wanted]}


def bounds(on: Machine) -> dict[Verdict, int]:
    """Verdict -> the highest peak that has it."""
    ceiling = on.ceiling_bytes
    tight = min(on.limit_bytes, ceiling)
    return {
        "comfortable": min(on.limit_bytes - MARGIN_BYTES, ceiling),
        "tight": tight,
        "needs sysctl": max(tight, ceiling),
    }


def judged(peak: int, on: Machine) -> tuple[Verdict, str]:
    """The verdict on a peak of so many bytes, and why."""
    bound = bounds(on)
    needs, limit = f"It needs {peak / 1e9:.2f} GB", f"{on.limit_bytes / 1e9:.2f} GB"
    if peak <= bound["comfortable"]:
        return "comfortable", f"{needs} of {limit}."
    if peak <= bound["tight"]:
        return "tight", f"{needs} of {limit}, which leaves little."
    if peak <= bound["needs sysctl"]:
        return "needs sysctl", f"{needs}, and macOS gives {limit} unless the limit is raised."
    spare = f"{on.ceiling_bytes / 1e9:.2f} GB"
    if on.is_mac:
        return "no", f"{needs}, and a Mac with {on.memory_bytes >> 30} GB can spare {spare} at most."
    return "no", f"{needs}, and there are {spare}."


def sysctl(peak: int, on: Machine) -> str:
    """The line that raises the limit far enough for a peak, until the Mac is started again."""
    wanted = -(-(peak + MARGIN_BYTES) // (_WIRED_STEP * _MIB)) * _WIRED_STEP
    return f"sudo sysctl iogpu.wired_limit_mb={min(wanted, on.ceiling_bytes // _MIB)}"


def best(answers: Sequence[Answer]) -> Answer:
    """The format to take: of the easiest verdict, and of those that are quick, the best; if none is, the quickest.

    The best are those that lose next to nothing (8 bits, 6 bits, QAT). Of these, or else of the others, one that is
    published packed comes before one that is made here, and then the finest. QAT is also taken in place of plain 4 bits
    where it is hardly slower. bf16 is taken of models that are small even so,
    and where a model can be had in nothing else.
    """
    finest = {name: rank for rank, name in enumerate(("bf16", *formats.PREFERENCE))}

    def key(answer: Answer) -> tuple[float, ...]:
        rank = finest.get(answer.format, len(finest))
        if answer.verdict == "no":
            return VERDICTS.index("no"), answer.memory.peak
        if not answer.quick and answer.decode is not None:
            return VERDICTS.index(answer.verdict), True, not answer.ready, -answer.decode.tokens_per_second
        lossy = answer.format not in formats.NEAR_LOSSLESS
        return VERDICTS.index(answer.verdict), False, lossy, not answer.ready, rank

    kept = [
        answer
        for answer in answers
        if answer.format in formats.PREFERENCE
        or (answer.format == "bf16" and answer.memory.weights <= formats.SMALL_BYTES)
    ]
    first = min(kept or answers, key=key)
    if first.format in formats.NEAR_LOSSLESS or first.verdict == "no":
        return first
    return next((each for each in kept if each.format == "QAT" and _nearly_as_quick(each, first)), first)


def _nearly_as_quick(one: Answer, other: Answer) -> bool:
    """Whether one is as easy as the other, and hardly slower."""
    if one.decode is None or other.decode is None:
        return one.verdict == other.verdict
    return one.verdict == other.verdict and one.decode.tokens_per_second >= _HARDLY * other.decode.tokens_per_second


def survey(
    on: Machine, asked: Asked, format_name: str | None = None
) -> tuple[list[tuple[Answer, list[str]]], dict[str, list[str]]]:
    """Every Gemma that fits, best first: comfortable before tight, quick before slow, newest and then largest first.

    Special models (for pictures, for embeddings, made of older Gemmas) stand behind the general ones.

    Returns:
        (the model in the format to take, names of others that take the same), and reason -> models left out.
    """
    judged_, left_out = subject.all_of_catalogue()
    found: list[tuple[tuple[int, bool, int, int], Answer, list[str]]] = []
    for model, others in judged_:
        towers = model.towers
        if (asked.images and not towers.vision) or (asked.audio and not towers.audio):
            continue
        if towers.tokens(asked.images, asked.audio) >= model.spec.context:
            left_out.setdefault("too short for the pictures and the sound", []).append(model.name)
            continue
        if format_name is not None and formats.named(format_name).name not in model.formats:
            left_out.setdefault(f"not to be had in {formats.named(format_name).name}", []).append(model.name)
            continue
        answer = best(Judge(model, asked, format_name).answers(on))
        if answer.verdict == "no":
            left_out.setdefault("too large", []).append(model.name)
            continue
        assert model.row is not None, "it is of the catalogue"
        order = (VERDICTS.index(answer.verdict), not answer.quick, age(model.row), -model.parameters)
        found.append((order, answer, others))
    found.sort(key=lambda each: each[0])
    return [(answer, others) for _, answer, others in found], left_out


def matrix(judge: Judge) -> dict[int, tuple[Answer, ...]]:
    """Memory of a Mac in GB -> how the model does there in every format."""
    return {size: judge.answers(machine.sized(size)) for size in machine.sizes()}


def fit(
    model: str | None = None,
    *,
    mac: str | None = None,
    context: int = 8192,
    prompt: int = 1000,
    chunk: int = 512,
    batch: int = 1,
    kv_bits: int | None = None,
    images: int = 0,
    audio: float = 0.0,
    text_only: bool = False,
    per_layer: Placement = PER_LAYER,
    draft: str | None = None,
) -> tuple[Answer, ...]:
    """Whether a model fits a Mac, in every format; without a model, every Gemma that fits, best first.

    Nothing is fetched but, for a repository that the catalogue does not know, the headers of its files.

    Args:
        model: a name, a folder, or the id of a repository.
        mac: "MacBook Air M4 16"; None is this machine.
        context: tokens of text that it shall hold.
        prompt: tokens after which the first token of an answer is waited for.
        chunk: tokens of a prompt that are read at once.
        batch: sequences side by side.
        kv_bits: of keys and values in layers without a window; None keeps them as computed.
        images: pictures in the context.
        audio: seconds of sound in it.
        text_only: without what reads pictures and sound.
        per_layer: where a table of per-layer embeddings is kept, "disk" or "memory".
        draft: a drafter that shall be there beside the model.

    Raises:
        InputError: there is no such Mac, or an option is out of range.
        ModelNotFoundError: there is no such model.
        UnsupportedModelError: this version does not run it.
    """
    on = machine.named(mac, None, None) or machine.here()
    asked = Asked(
        context=context, prompt=prompt, chunk=chunk, batch=batch, kv_bits=kv_bits, images=images, audio=audio,
        text_only=text_only, per_layer=per_layer,
    )  # fmt: skip
    if model is None:
        if draft is not None:
            raise InputError("A drafter is given, and no model that it drafts for.", f"gemma fit {draft}")
        return tuple(answer for answer, _ in survey(on, asked)[0])
    return Judge(subject.of(model, draft), asked).answers(on)
