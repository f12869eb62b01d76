"""What a model takes of a machine's memory: its weights, its caches, and the passing arrays of one chunk of prompt.

Everything is added up from the specs that the model itself is built from, part by part, so that an answer can say what
the memory is for:

    peak = weights + towers + caches (full, sliding, states, marks) + scores + working space
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
from gemma_mlx.spec import (
    AttentionSpec,
    DecoderSpec,
    EncoderDecoderSpec,
    EncoderSpec,
    LayerSpec,
    RecurrentLayerSpec,
)
from gemma_mlx.weights.quantized import Quantization

How = Callable[[str, nn.Module], Quantization | None]
Spec = DecoderSpec | EncoderSpec

# What an evaluation on the CPU back end holds beside what it keeps, fitted to tests/benchmarks/peaks.py so that no
# measurement lies above: multiples of the largest tensor of scores, of a feed-forward's hidden activations, and of the
# widest row of a position. The evaluator allocates several operations ahead of the one that runs.
CPU_SCORES: Final = 1.25
CPU_HIDDEN: Final = 5.0
CPU_WIDTH: Final = 4.0
CPU_FLOOR: Final = 3 << 20

# On Metal it hardly depends on the model (ten command buffers are in flight, each closed at about 40 MB): an upper
# bound for mlx-lm's published peaks on M3 Pro to M5 Max.
NEURAL_GENERATION: Final = 17  # Apple GPUs with matrix units begin with that of the M5
METAL_FLOOR: Final = 0.25e9
METAL_CHUNK: Final = 0.85e9


@dataclass(frozen=True, kw_only=True)
class Use:
    """What is to be done with a model.

    Attributes:
        prompt: tokens read at once, or over several turns, in chunks.
        answer: tokens written after them.
        chunk: tokens of the prompt in one pass.
        batch: sequences side by side.
        kv_bits: bits of keys and values in layers without a window; None keeps them as computed.
        marks: positions that a conversation can return to, each a copy of the windows.
    """

    prompt: int
    answer: int = 0
    chunk: int = 512
    batch: int = 1
    kv_bits: int | None = None
    marks: int = 2

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
        kv_full: keys and values of layers that see everything.
        kv_sliding: of layers with a window.
        states: of recurrent layers.
        marks: copies of windows, to return to.
        scores: the largest tensor of attention scores.
        working: all that is passing.
    """

    weights: int
    towers: int = 0
    kv_full: int
    kv_sliding: int
    states: int
    marks: int
    scores: int
    working: int

    @property
    def cache(self) -> int:
        """Bytes that stay between two answers, without the weights."""
        return self.kv_full + self.kv_sliding + self.states + self.marks

    @property
    def peak(self) -> int:
        """All of it."""
        return sum(cast(int, getattr(self, field.name)) for field in fields(self))


def estimate(spec: Spec, weights: int, use: Use, kernels: Kernels, *, towers: int = 0) -> Memory:
    """What `use` of a decoder takes, where it takes most: at the end of the prompt, or of the answer.

    Args:
        spec: of the decoder.
        weights: bytes of its parameters, see `weight_bytes`.
        use: prompt, answer and chunk.
        kernels: of the machine.
        towers: bytes of parameters beside the decoder's that are held as well.

    Raises:
        UnsupportedModelError: an encoder reads for it.
    """
    if isinstance(spec, EncoderDecoderSpec):
        raise UnsupportedModelError(
            "The memory of an encoder-decoder is not estimated by this version.", "Measure it: gemma bench NAME"
        )
    if reads_both_ways(spec):
        use = replace(use, chunk=max(use.prompt, 1))
    whole = use.prompt - use.prompt % use.chunk
    # Caches grow with the text, but a last chunk may be short, and a buffer be renewed smaller than it was.
    ends = {min(use.chunk, use.prompt), max(whole - use.chunk, 0), whole, use.prompt} - {0}
    moments = [replace(use, prompt=end, answer=0) for end in ends] + ([use] if use.answer else [])
    passes = [_at(spec, moment, kernels, weights, towers) for moment in moments]
    return max(passes, key=lambda memory: memory.peak)


def reads_both_ways(spec: Spec) -> bool:
    """Whether the tokens of a prompt see each other, so that it is read in one pass."""
    return isinstance(spec, EncoderSpec) or spec.prompt_both_ways


def _at(spec: Spec, use: Use, kernels: Kernels, weights: int, towers: int) -> Memory:
    """In the last pass of `use`."""
    last = replace(use, prompt=use.prompt + use.answer, chunk=1) if use.answer else use
    scores = _scores(spec, last, kernels)
    return Memory(
        weights=weights,
        towers=towers,
        **held(spec, use, kernels.itemsize),
        scores=scores,
        working=_working(spec, last, kernels, scores) + _renewed(spec, use, kernels.itemsize),
    )


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


def _scores(spec: Spec, use: Use, kernels: Kernels) -> int:
    """The largest tensor of attention scores in the last pass over the prompt."""
    most = 0
    before = use.prompt - use.queries
    for attention in set(spec.attentions):
        keys = use.queries + (before if attention.window is None else min(before, attention.window - 1))
        packed = use.kv_bits is not None and attention.window is None  # which no fused kernel reads
        rows = use.queries
        if not packed:
            rows = kernels.rows_of_scores(attention, use.queries, keys, both_ways=reads_both_ways(spec))
        most = max(most, use.batch * attention.heads * rows * keys * kernels.itemsize)
    return most


def _working(spec: Spec, use: Use, kernels: Kernels, scores: int) -> int:
    """What passes while one chunk is computed, without the scores."""
    positions = use.batch * use.queries
    if kernels.backend == "metal":
        return int(METAL_FLOOR + METAL_CHUNK * min(1.0, positions / 1024) ** 0.6)
    streams = spec.altup.streams if isinstance(spec, DecoderSpec) and spec.altup else 1
    small = len(spec.layers) * spec.per_layer.dim if spec.per_layer else 0
    hidden = max(_hidden(layer) for layer in spec.layers)
    widest = max([streams * spec.dim, *(attention.heads * attention.head_dim for attention in spec.attentions)])
    row = kernels.itemsize * (CPU_HIDDEN * hidden + CPU_WIDTH * widest + 2 * small)
    logits = 4 * use.batch * spec.vocab * 4  # after the layers, when their arrays are gone
    return CPU_FLOOR + max(int((CPU_SCORES - 1) * scores + positions * row), logits)


def _hidden(layer: LayerSpec | RecurrentLayerSpec) -> int:
    """Width of what stands between the two halves of the feed-forward."""
    experts = layer.experts if isinstance(layer, LayerSpec) else None
    return layer.mlp_dim + (experts.top_k * experts.mlp_dim if experts else 0)


def weight_bytes(model: nn.Module, how: How | None = None, itemsize: int = 2) -> int:
    """Bytes of a model's parameters, not evaluated, were its matrices stored as `how` says.

    Args:
        model: unquantized.
        how: (path, module) -> how its weight is packed; None leaves it as it is.
        itemsize: bytes of a floating parameter that is not packed.
    """
    packed = saved = 0
    if how is not None:
        for path, module in model.named_modules():
            quantization = how(path, module) if hasattr(module, "to_quantized") else None
            if quantization is not None:
                numbers = cast(mx.array, module.weight).size
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
