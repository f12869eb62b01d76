"""What a model takes of a machine's memory: its weights, its caches, and the passing arrays of one chunk of prompt.

Everything is added up from the specs that the model itself is built from, part by part, so that an answer can say what
the memory is for:

    peak = weights + towers + drafter + caches (full, sliding, source, states, marks) + scores + working space
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from gemma_mlx.cache import kv, sliding
from gemma_mlx.errors import UnsupportedModelError
from gemma_mlx.quantize.passing import drafting, filling, passing
from gemma_mlx.spec import (
    AttentionSpec,
    DecoderSpec,
    DrafterSpec,
    EncoderDecoderSpec,
    EncoderSpec,
    LayerSpec,
    RecurrentLayerSpec,
    StackSpec,
)
from gemma_mlx.weights.quantized import Quantization

# (path of a module, numbers in a row of its matrix) -> how it is packed.
How = Callable[[str, int], Quantization | None]
Spec = DecoderSpec | EncoderSpec

NEURAL_GENERATION: Final = 17  # Apple GPUs with matrix units begin with that of the M5


@dataclass(frozen=True, kw_only=True)
class Use:
    """What is to be done with a model.

    Attributes:
        prompt: tokens read at once, or over several turns, in chunks; where there is an encoder, those it reads.
        answer: tokens written after them.
        chunk: tokens of the prompt in one pass.
        batch: sequences side by side.
        kv_bits: bits of keys and values in layers without a window; None keeps them as computed.
        marks: positions that a conversation can return to, each a copy of the windows.
        cut: whether its chunks may begin and end elsewhere than `chunk` by `chunk` from the first token: behind what a
            cache has of it, and at marks. The last one may then be as long as any.
    """

    prompt: int
    answer: int = 0
    chunk: int = 512
    batch: int = 1
    kv_bits: int | None = None
    marks: int = 2
    cut: bool = True

    @property
    def queries(self) -> int:
        """Positions in the last pass over the prompt."""
        return self.prompt % self.chunk or min(self.chunk, self.prompt)


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How attention is computed, which decides whether its scores are ever in memory as a whole.

    Attributes:
        backend: of MLX.
        generation: of the Apple GPU, 13 for M1 to 17 for M5; other back ends have none.
        mlx: the version of MLX.
        itemsize: bytes of an activation.
    """

    backend: Literal["metal", "cuda", "cpu"]
    generation: int = 13
    mlx: tuple[int, ...] = (0, 32, 4)
    itemsize: int = 2

    def rows_of_scores(self, attention: AttentionSpec, queries: int, keys: int, *, both_ways: bool = False) -> int:
        """Query rows whose scores are in memory at once; 0 where a fused kernel keeps none of them.

        How MLX chooses a kernel was read in its releases 0.31.2 to 0.32.4. Those for wide heads know causal masks.
        """
        rows = queries
        if attention.softcap is not None or self.backend != "metal" or (both_ways and attention.head_dim > 128):
            return rows
        size, neural = attention.head_dim, self.generation >= NEURAL_GENERATION
        cut = attention.window is not None and keys > attention.window  # the mask is then an array
        if queries <= 8:
            rows = 0 if size in (64, 96, 128, 256) else queries
        elif size in (64, 80, 128) or (size in (72, 96) and self.mlx >= (0, 32, 1)):
            rows = 0
        elif size == 256 and neural and self.mlx >= (0, 32, 2):
            rows = 0 if queries >= 1024 else queries
        elif size == 256 and self.mlx >= (0, 32, 3):
            rows = 0 if not cut and queries == keys >= 2048 else queries
        elif size == 512 and neural and self.mlx >= (0, 32, 3):
            fused = not cut and queries >= 1024 and attention.heads * math.ceil(queries / 32) >= 1024
            rows = 0 if fused else queries
        elif size == 512 and self.mlx >= (0, 32, 4):
            rows = min(queries, 256) if not cut and queries >= 1024 else queries
        return rows


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes, part by part, where they are highest.

    Attributes:
        weights: of the language model.
        towers: of what sees and hears.
        drafter: of the model that proposes tokens to this one; it has no keys and values of its own.
        kv_full: keys and values of layers that see everything.
        kv_sliding: of layers with a window.
        source: keys and values of what an encoder read.
        states: of recurrent layers.
        marks: copies of windows, to return to.
        scores: the largest tensor of attention scores.
        working: all that is passing.
    """

    weights: int
    towers: int = 0
    drafter: int = 0
    kv_full: int = 0
    kv_sliding: int = 0
    source: int = 0
    states: int = 0
    marks: int = 0
    scores: int = 0
    working: int = 0

    @property
    def cache(self) -> int:
        """Bytes that stay between two answers, without the weights."""
        return self.kv_full + self.kv_sliding + self.source + self.states + self.marks

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(cast(int, getattr(self, field.name)) for field in fields(self))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A drafter beside the model that it drafts for.

    Attributes:
        spec: of it.
        weights: bytes of its parameters.
    """

    spec: DrafterSpec
    weights: int


def estimate(
    spec: Spec, weights: int, use: Use, kernels: Kernels, *, towers: int = 0, draft: Draft | None = None
) -> Memory:
    """What `use` of a model takes, where it takes most: while the prompt is read, or the answer written.

    An encoder in front of a decoder reads the whole prompt in one pass, and the answer has a cache of its own. A model
    that fills canvases holds one beside the text.

    Args:
        spec: of the decoder, or the encoder.
        weights: bytes of its parameters, see `weight_bytes`.
        use: prompt, answer and chunk.
        kernels: of the machine.
        towers: bytes of parameters beside the decoder's that are held as well.
        draft: what proposes tokens to it.

    Raises:
        UnsupportedModelError: it is a drafter, which does nothing without another model.
    """
    if isinstance(spec, DrafterSpec):
        raise UnsupportedModelError(
            "A drafter works with the keys and values of another model: what it takes is a part of what that one does.",
            "Estimate the other, with draft=Draft(...).",
        )
    if isinstance(spec, EncoderDecoderSpec):
        use = replace(use, kv_bits=None)  # nothing of it is packed
        passes = [_encoded(spec, use, kernels)]
        passes += [_written(spec, use, kernels)] if use.answer else []
    else:
        if reads_both_ways(spec):
            use = replace(use, chunk=max(use.prompt, 1))
        whole = use.prompt - use.prompt % use.chunk
        # Caches grow with the text, but a last chunk may be short, and a buffer be renewed smaller than it was.
        ends = {min(use.chunk, use.prompt), max(whole - use.chunk, 0), whole, use.prompt} - {0}
        passes = [
            _at(spec, replace(use, prompt=end, answer=0), kernels, read_on=end < use.prompt and not use.cut)
            for end in ends
        ]
        if isinstance(spec, DecoderSpec) and spec.canvas is not None:
            passes.append(_filled(spec, spec.canvas.length, use, kernels))
        elif use.answer:
            passes.append(_at(spec, use, kernels))
    if draft is not None:
        passes.append(_drafted(spec, draft.spec, use, kernels))
    most = max(passes, key=lambda memory: memory.peak)
    return replace(most, weights=weights, towers=towers, drafter=draft.weights if draft else 0)


def reads_both_ways(spec: Spec) -> bool:
    """Whether the tokens of a prompt see each other, so that it is read in one pass."""
    return isinstance(spec, EncoderSpec | EncoderDecoderSpec) or spec.prompt_both_ways


def _at(spec: Spec, use: Use, kernels: Kernels, *, read_on: bool = False) -> Memory:
    """In the last pass of `use`; with `read_on` another chunk follows, and nobody asks for the logits of this one."""
    last = replace(use, prompt=use.prompt + use.answer, chunk=1) if use.answer else use
    run = _filling_caches(spec) if read_on else spec
    scores = _scores(run, use, kernels, last.queries, last.prompt - last.queries, both_ways=reads_both_ways(spec))
    working = passing(run, use.batch, last.queries, scores, kernels)
    return Memory(
        weights=0,
        **held(spec, use, kernels.itemsize),
        scores=scores,
        working=working + _renewed(spec, use, kernels.itemsize),
    )


def _filling_caches(spec: Spec) -> Spec:
    """The layers that are computed where only caches are asked for: of the last that has keys and values of its own
    these are made, and neither its attention nor what follows."""
    last = spec.owners[-1]
    return replace(spec, layers=spec.layers[:last]) if last and isinstance(spec.layers[last], LayerSpec) else spec


def _encoded(spec: EncoderDecoderSpec, use: Use, kernels: Kernels) -> Memory:
    """While an encoder reads, and the decoder's layers make keys and values of what it found."""
    reader = spec.encoder
    scores = _scores(reader, use, kernels, use.prompt, 0, both_ways=True)
    working = passing(reader, use.batch, use.prompt, scores, kernels)
    return Memory(weights=0, source=source_bytes(spec, use, kernels.itemsize), scores=scores, working=working)


def _written(spec: EncoderDecoderSpec, use: Use, kernels: Kernels) -> Memory:
    """At the last token of an answer to what an encoder read."""
    own = replace(use, prompt=1, chunk=1)  # the token that an answer begins with
    answer = _at(spec, own, kernels)
    heads = max(layer.attention.heads for layer in _owners(spec))
    seen = use.batch * heads * (use.prompt + use.answer + 1) * kernels.itemsize  # its merged or its two attentions
    return replace(answer, source=source_bytes(spec, use, kernels.itemsize), scores=max(answer.scores, seen))


def source_bytes(spec: EncoderDecoderSpec, use: Use, itemsize: int) -> int:
    """Bytes of the keys and values that the decoder's layers have of a prompt."""
    rows = sum(_row(layer.cross or layer.attention, itemsize) for layer in _owners(spec))
    return use.batch * use.prompt * rows


def _filled(spec: DecoderSpec, length: int, use: Use, kernels: Kernels) -> Memory:
    """While the last canvas is filled: behind the prompt, and the canvases that were read before it."""
    text = use.prompt + max(math.ceil(use.answer / length) - 1, 0) * length
    now = replace(use, prompt=text, answer=0)
    beside = replace(now, prompt=text + length, chunk=length)  # the pass over the canvas
    caches = held(spec, now, kernels.itemsize)
    scores = _scores(spec, use, kernels, length, text, both_ways=True)
    rows = [(layer.attention.window, _row(layer.attention, kernels.itemsize)) for layer in _owners(spec)]
    # Full layers write a canvas behind the text, where the next one takes its place; the others copy their window.
    grown = use.batch * (kv.rows_held(text + length) - kv.rows_held(text))
    copied = max(((min(text, window - 1) + length) * row for window, row in rows if window), default=0)
    return Memory(
        weights=0,
        **caches
        | {
            "kv_full": caches["kv_full"]
            + sum(grown * _packed(row, kernels.itemsize, use.kv_bits) for window, row in rows if not window)
        },
        scores=scores,
        working=filling(spec, use.batch, length, scores, kernels)
        + max(use.batch * copied, _renewed(spec, beside, kernels.itemsize)),
    )


def _drafted(spec: Spec, drafter: DrafterSpec, use: Use, kernels: Kernels) -> Memory:
    """While a drafter proposes tokens at the end of an answer."""
    caches = held(spec, use, kernels.itemsize)
    keys = [min(use.prompt + use.answer, window or use.prompt + use.answer) for window in drafter.windows]
    scores = max(use.batch * each.heads * n for each, n in zip(drafter.attentions, keys, strict=True))
    return Memory(weights=0, **caches, scores=scores * kernels.itemsize, working=drafting(drafter, use.batch, kernels))


def held(spec: Spec, use: Use, itemsize: int) -> dict[str, int]:
    """Bytes of the caches after the last token of `use`, by the names that `Memory` has for them."""
    if isinstance(spec, EncoderSpec):
        return {"kv_full": 0, "kv_sliding": 0, "states": 0, "marks": 0}
    full = use.batch * kv.rows_held(use.prompt + use.answer)
    windows = {window for window in spec.windows if window}
    rows = {window: use.batch * sliding.rows_held(window, use.prompt, use.chunk, use.answer) for window in windows}
    owners = [(layer.attention.window, _row(layer.attention, itemsize)) for layer in _owners(spec)]
    recurrences = [layer.recurrence for layer in spec.layers if isinstance(layer, RecurrentLayerSpec)]
    # The state itself is float32.
    states = use.batch * sum(each.width * ((each.taps - 1) * itemsize + 4) for each in recurrences)
    copied = use.batch * sum(min(use.prompt, window - 1) * row for window, row in owners if window)
    return {
        "kv_full": sum(full * _packed(row, itemsize, use.kv_bits) for window, row in owners if not window),
        "kv_sliding": sum(rows[window] * row for window, row in owners if window),
        "states": states,
        "marks": use.marks * (copied + states),
    }


def _renewed(spec: Spec, use: Use, itemsize: int) -> int:
    """Bytes of the largest buffer of keys and values: when it is full, it and its successor are there together."""
    if isinstance(spec, EncoderSpec):
        return 0
    full, most = kv.rows_held(use.prompt + use.answer), 0
    for layer in _owners(spec):
        attention = layer.attention
        rows = full if attention.window is None else min(full, attention.window + use.chunk)
        row = _row(attention, itemsize)
        most = max(most, rows * (row if attention.window else _packed(row, itemsize, use.kv_bits)))
    return use.batch * most


def _owners(spec: Spec) -> Iterator[LayerSpec]:
    """The layers that have keys and values of their own."""
    for index in spec.owners:
        layer = spec.layers[index]
        if isinstance(layer, LayerSpec):
            yield layer


def _row(attention: AttentionSpec, itemsize: int) -> int:
    """Bytes of one token's keys and values."""
    return 2 * attention.kv_heads * attention.head_dim * itemsize


def _packed(row: int, itemsize: int, bits: int | None) -> int:
    """Bytes of such a row once it is packed, in groups of 64 with a scale and a bias each."""
    return row if bits is None else row // itemsize * bits // 8 + row // itemsize // 64 * 2 * itemsize


def _scores(spec: StackSpec, use: Use, kernels: Kernels, queries: int, before: int, *, both_ways: bool) -> int:
    """The largest tensor of attention scores in a pass of `queries` positions behind `before` others."""
    most = 0
    for attention in spec.distinct_attentions:
        keys = queries + (before if attention.window is None else min(before, attention.window - 1))
        packed = use.kv_bits is not None and attention.window is None  # which no fused kernel reads
        rows = queries if packed else kernels.rows_of_scores(attention, queries, keys, both_ways=both_ways)
        most = max(most, use.batch * attention.heads * rows * keys * kernels.itemsize)
    return most


def weight_bytes(model: nn.Module, how: How | None = None, itemsize: int = 2) -> int:
    """Bytes of a model's parameters, not evaluated, were its matrices stored as `how` says.

    Args:
        model: unquantized.
        how: how each weight is packed; None leaves it as it is.
        itemsize: bytes of a floating parameter that is not packed.
    """
    packed = saved = 0
    if how is not None:
        for path, module in model.named_modules():
            if not hasattr(module, "to_quantized"):
                continue
            weight = cast(mx.array, module.weight)
            if (quantization := how(path, weight.shape[-1])) is not None:
                numbers = weight.size
                saved += numbers
                packed += packed_bytes(numbers, quantization, itemsize)
    parameters = cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))
    plain = sum(
        array.size * itemsize if mx.issubdtype(array.dtype, mx.floating) else array.nbytes for _, array in parameters
    )
    return plain - saved * itemsize + packed


def packed_bytes(numbers: int, how: Quantization, itemsize: int = 2) -> int:
    """Bytes of a packed matrix with its scales, and biases where the mode has them."""
    groups = numbers // how.group_size
    return numbers * how.bits // 8 + groups * (2 * itemsize if how.mode == "affine" else 1)
