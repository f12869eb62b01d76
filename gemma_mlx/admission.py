"""What is asked before memory is taken: may these weights be read, and how is this prompt to be read.

Metal ends a process that runs out of memory, and nothing can catch that. So whoever opens a model may hand `load` an
`Admission`, which is asked before any weight is read, before every prompt and before every batch of texts. The one
that `gemma` uses is in `gemma_mlx.quantize.admission` and estimates peaks; the library knows only that there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.generate.asked import Asked
from gemma_mlx.spec import DecoderSpec, EncoderDecoderSpec, StackSpec


@dataclass(frozen=True)
class Subject:
    """The model that is to be loaded, or that is to read.

    Attributes:
        name: what it was asked for as.
        model_type: config.json's.
        spec: every number of the network.
        weights: bytes of its parameters in memory.
        itemsize: bytes of an activation.
    """

    name: str
    model_type: str
    spec: StackSpec
    weights: int
    itemsize: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A prompt that is to be read and answered.

    Attributes:
        tokens: of the prompt, whether they are in the cache already or not; of an encoder's, where there is one.
        answer: tokens to write at most; None where only the context ends the answer.
        chunk: tokens of the prompt in one pass.
        whole: whether the prompt must be read in one pass.
        kv_bits: bits of keys and values in layers without a window; None where they are as computed.
        held: bytes of its cache now.
        cut: whether chunks may begin and end elsewhere than `chunk` by `chunk` from the first token.
    """

    tokens: int
    answer: int | None
    chunk: int
    whole: bool
    kv_bits: int | None
    held: int
    cut: bool = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to read it, from the first chunk to the last token of the answer.

    Attributes:
        chunk: tokens of the prompt in one pass.
        kv_bits: bits of keys and values in layers without a window, from now on.
        answer: tokens to write at most; None where only the context ends the answer.
        marks: bytes that copies of windows may take, to return to earlier turns; None leaves them as they are.
        least_marks: copies that stay whatever they take.
    """

    chunk: int
    kv_bits: int | None
    answer: int | None
    marks: int | None = None
    least_marks: int = 2


class Admission(Protocol):
    """Decides."""

    def load(self, subject: Subject) -> None:
        """May its weights be read?

        Raises:
            MemoryLimitError: they do not fit.
        """
        ...

    def read(self, subject: Subject, reading: Reading) -> Plan:
        """How may this be read?

        Raises:
            MemoryLimitError: in no way.
        """
        ...

    def encode(self, subject: Subject, rows: int, tokens: int) -> int:
        """How many of so many texts may be made vectors of at once, each so many tokens long?

        Raises:
            MemoryLimitError: not even one.
        """
        ...


def admitted(
    admission: Admission,
    subject: Subject,
    spec: DecoderSpec,
    cache: PromptCache,
    tokens: int,
    options: Asked,
    *,
    cut: bool = True,
) -> Asked:
    """`options` as there is memory for them, and `cache` packed where it must be.

    Args:
        admission: is asked, once.
        subject: the model.
        spec: of its decoder.
        cache: that will read the prompt.
        tokens: of the prompt.
        options: how it was to be answered.
        cut: whether it is read to positions that are marked, and not only chunk by chunk.

    Raises:
        MemoryLimitError: the prompt does not fit.
    """
    room = spec.room(tokens)
    wanted = options.max_tokens or spec.context
    reading = Reading(
        tokens=tokens,
        answer=wanted if wanted < room else None,
        chunk=options.chunk,
        whole=spec.prompt_both_ways or isinstance(spec, EncoderDecoderSpec),
        kv_bits=cache.cache.kv_bits,
        held=cache.nbytes,
        cut=cut or cache.nbytes > 0,
    )
    plan = admission.read(subject, reading)
    if plan.kv_bits is not None:
        cache.cache.pack(plan.kv_bits)
    if plan.marks is not None:
        cache.limit_marks(plan.marks, plan.least_marks)
    return replace(options, chunk=plan.chunk, max_tokens=plan.answer or options.max_tokens)
