"""What a token costs: bytes to read, products to form, kernels to launch. Counted, not measured.

A decode step reads every weight once but those it only looks up, a few experts in place of all, and the keys and values
of every layer, borrowed ones too. Counted from the specs and from the modules of a model that need not be evaluated, so
that the count cannot drift from what runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import mlx.core as mx
import mlx.nn as nn

from gemma_mlx.nn.moe import ExpertLinear, QuantizedExpertLinear
from gemma_mlx.quantize.costs import Kind, Matrix, Prompt, Reach, Step
from gemma_mlx.quantize.launches import LOOKED_UP, each, once
from gemma_mlx.quantize.memory import How, Spec, packed_bytes
from gemma_mlx.quantize.passing import CANVAS_ROWS
from gemma_mlx.spec import (
    DecoderSpec,
    DrafterSpec,
    EncoderDecoderSpec,
    LayerSpec,
    RecurrentLayerSpec,
    StackSpec,
)
from gemma_mlx.weights.disk_table import TABLE

_PACKED: Final = ("weight", "scales", "biases")
_NO_LAUNCH: Final = {"canvas_scalar", "eoi_embedding", "token_ordering"}
_SOURCE: Final = re.compile(r"\.cross_attn\.[kv]_(proj|norm)$")
_MERGED: Final = re.compile(r"\.self_attn\.[kv]_proj$")

CHUNK: Final = 512  # tokens of a prompt that are read at once, as `Options.chunk` has it
WIDEST_FUSED_STEP: Final = 256  # and the same for a decode step
FUSED_FROM, GROUP = 1024, 8  # wider heads: keys from which on a decode step is fused, with so many queries to a key


_IN_A_STEP: Final[tuple[Kind, ...]] = ("head", "borrower", "layer")
_IN_A_CHUNK: Final[tuple[Kind, ...]] = ("layer", "expert")
_ONCE_A_PROMPT: Final[tuple[Kind, ...]] = ("head", "borrower")  # for the last position
_BY_AN_ENCODER: Final[tuple[Kind, ...]] = ("encoder", "source")


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What a model reads, computes and launches. Parameters are numbers, whatever their width; bytes are as stored.

    Attributes:
        weight_bytes: of all weights.
        read_bytes: of the weights that a decode step reads: without tables it looks up, and of the experts those that
            a token goes to.
        chunk_bytes: of those that each chunk of a prompt reads: without the head, tables, and layers that borrow.
        once_bytes: of those that only the last position of a prompt goes through.
        packable: parameters in the matrices that a quantizer packs.
        packable_read: how many of those a decode step reads.
        packable_chunk, packable_once: the same of chunks.
        plain: all other parameters, every one read: norms, scales, biases.
        prefilled: parameters that every position of a prompt is multiplied with.
        routed: parameters in the experts that a token goes to; 0 where there are none.
        routed_bytes: the same.
        width: of the residual stream.
        launches: kernels of one decode step.
        reaches: the layers that attend.
        readers: those that read a prompt: the same, unless there is an encoder.
        source: attention to what an encoder read, in every step.
        state_bytes: what layers with a recurrence keep, read and written in every step.
        matrices: those that a quantizer packs, for `stored`.
        asked: the part of all experts that a token goes to; 0 where there are none.
        looked_into: the part of an ordered head that a draft looks into; 0 where there is none.
        encoded: whether an encoder reads prompts.
    """

    weight_bytes: float
    read_bytes: float
    chunk_bytes: float
    once_bytes: float
    packable: int
    packable_read: int
    packable_chunk: int
    packable_once: int
    plain: int
    prefilled: int
    routed: int
    routed_bytes: float
    width: int
    launches: int
    reaches: tuple[Reach, ...]
    readers: tuple[Reach, ...]
    source: tuple[Reach, ...] = ()
    state_bytes: int
    matrices: tuple[Matrix, ...] = field(default=(), repr=False, compare=False)
    asked: float = 0.0
    looked_into: float = 0.0
    encoded: bool = False

    def at(self, bits: float) -> Traffic:
        """The same model in another format.

        Args:
            bits: per weight of the matrices, their scales included: 16, or 4.5 for 4 bits in groups of 64. What is in
                no matrix stays 16 bits wide.
        """
        plain = 2.0 * self.plain
        return replace(
            self,
            weight_bytes=self.packable * bits / 8 + plain,
            read_bytes=self.packable_read * bits / 8 + plain,
            chunk_bytes=self.packable_chunk * bits / 8 + plain,
            once_bytes=self.packable_once * bits / 8,
            routed_bytes=self.routed * bits / 8,
        )

    def stored(self, how: How, itemsize: int = 2) -> Traffic:
        """The same model with its matrices stored as `how` says, each in its own way.

        Args:
            how: (path, module) -> how its matrix is packed; None leaves it as it is.
            itemsize: bytes of a number that is not packed.
        """
        nbytes: Counter[Kind] = Counter()
        for matrix in self.matrices:
            nbytes[matrix.kind] += _bytes(matrix, how, itemsize)
        plain = self.plain * itemsize
        return replace(
            self,
            weight_bytes=sum(nbytes.values()) + plain,
            read_bytes=_in_a_step(nbytes, self.asked, self.looked_into) + plain,
            chunk_bytes=_sum(nbytes, _BY_AN_ENCODER if self.encoded else _IN_A_CHUNK) + plain,
            once_bytes=0 if self.encoded else _sum(nbytes, _ONCE_A_PROMPT),
            routed_bytes=nbytes["expert"] * self.asked,
        )

    def table_bytes(self, how: How, itemsize: int = 2) -> int:
        """Bytes of the table of per-layer embeddings, stored as `how` says; 0 where there is none."""
        table = (matrix for matrix in self.matrices if matrix.path == TABLE)
        return sum(_bytes(matrix, how, itemsize) for matrix in table)

    def kv_bytes(self, context: int, bits: float = 16.0) -> float:
        """Bytes of keys, values and states that the decode step at this context reads.

        Args:
            context: tokens in the cache, the new one included; where there is an encoder, it has read as many.
            bits: of one number of a key or value; what an encoder read has always 16.
        """
        source = _kv_bytes(self.source, context, 16.0)
        return _kv_bytes(self.reaches, context, bits) + source + 2 * self.state_bytes

    def step(self, context: int, *, kv_bits: float = 16.0, fused: bool = True) -> Step:
        """What one token of an answer takes.

        Args:
            context: tokens in the cache, the new one included.
            kv_bits: of one number of a key or value.
            fused: whether MLX has kernels for heads of 512, which it has since 0.32.3.
        """
        wide = [reach for reach in self.reaches if reach.attention.head_dim > WIDEST_FUSED_STEP]
        some = [reach for reach in wide if fused and reach.attention.heads == GROUP * reach.attention.kv_heads]
        before, now = (_kv_bytes(some, rows, kv_bits) for rows in (min(context, FUSED_FROM - 1), context))
        slow = _kv_bytes(wide, context, kv_bits) - now
        return Step(
            weight_bytes=self.read_bytes - self.routed_bytes,
            routed_bytes=self.routed_bytes,
            kv_bytes=self.kv_bytes(context, kv_bits) - slow - now,
            unfused_kv_bytes=slow,
            late_kv_bytes=(before, now),
            launches=self.launches,
        )

    def prompt(self, tokens: int, chunk: int = CHUNK) -> Prompt:
        """What reading a prompt takes."""
        chunk = tokens if self.encoded else chunk
        pairs = [
            (reach, reach.prefilled * reach.attention.heads * reach.pairs(tokens, chunk)) for reach in self.readers
        ]
        return Prompt(
            weight_bytes=self.chunk_bytes,
            once_bytes=self.once_bytes,
            resident_bytes=self.weight_bytes,
            chunks=-(-tokens // chunk),
            flops=2.0 * self.prefilled * tokens + sum(4 * each.attention.head_dim * count for each, count in pairs),
            scores=sum(count for each, count in pairs if not each.fused),
            width=self.width,
            sparse=self.routed > 0,
        )

    def canvas(self, text: int, length: int) -> Prompt:
        """What one step over a canvas takes, as `prompt` has it.

        The table is read twice for each part of the canvas whose logits are made: by the head, and for the mean of
        embeddings that the next step is told.

        Args:
            text: tokens before it.
            length: positions of it.
        """
        parts = 2 * -(-length // CANVAS_ROWS)
        head = sum(matrix.numbers for matrix in self.matrices if matrix.kind == "head")
        own = sum(matrix.numbers for matrix in self.matrices if matrix.kind == "canvas")
        keys = [(reach, length + min(text, reach.rows(text + 1) - 1)) for reach in self.reaches]
        pairs = [(reach, reach.layers * reach.attention.heads * length * seen) for reach, seen in keys]
        return Prompt(
            weight_bytes=self.chunk_bytes + own * self.once_bytes / head + parts * self.once_bytes,
            chunks=1,
            flops=2.0 * length * (self.prefilled + own + 2 * head)
            + sum(4 * reach.attention.head_dim * count for reach, count in pairs),
            scores=sum(count for reach, count in pairs if not reach.fused),
            width=self.width,
            sparse=self.routed > 0,
        )


def traffic(spec: Spec, model: nn.Module) -> Traffic:
    """Counts what one token costs this model; of a model that fills canvases, what it costs to read one.

    Args:
        spec: what it was built from.
        model: it, quantized or not, evaluated or not. Its bytes are those of its arrays as they are; a model that was
            built and not loaded is float32, and `Traffic.at` tells what it will be.
    """
    packed: Counter[Kind] = Counter()  # parameters in matrices
    nbytes: Counter[Kind] = Counter()
    beside: Counter[Kind] = Counter()  # bytes of what is in no matrix
    matrices: list[Matrix] = []
    plain = many = launches = 0
    for path, module in model.named_modules():
        arrays = {
            name: each for name, each in module.items() if isinstance(each, mx.array) and not name.startswith("_")
        }
        if not arrays:
            continue
        kind = _kind(path, module, spec)
        matrix = hasattr(module, "to_quantized") or "scales" in arrays
        if matrix:
            numbers = _parameters(module, arrays)
            packed[kind] += numbers
            matrices.append(Matrix(path=path, columns=_columns(module, arrays), kind=kind, numbers=numbers))
        rest = {name: array for name, array in arrays.items() if not matrix or name not in _PACKED}
        plain += sum(array.size for array in rest.values())
        beside[kind] += sum(array.nbytes for array in rest.values())
        nbytes[kind] += sum(array.nbytes for name, array in arrays.items() if name not in rest)
        if kind == "layer":  # gates of a recurrence are matrices too, that no quantizer packs
            many += sum(array.size for array in rest.values() if array.ndim > 1)
        if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) and not path.startswith("encoder."):
            launches += (LOOKED_UP if "scales" in arrays else 1) + 1  # and its scale
        if kind not in ("looked up", "canvas", "encoder", "source", "ordered"):
            launches += 1 if matrix else len(arrays.keys() - _NO_LAUNCH)
    share, looked_into = _share(spec), _looked_into(spec)
    routed = round(packed["expert"] * share)
    encoded, owning = isinstance(spec, EncoderDecoderSpec), sum(beside.values())
    # The decoder's own keys and values are made by the same maps as those of what an encoder read, where they merge.
    merged = sum(each.numbers for each in matrices if each.kind == "layer" and _MERGED.search(each.path))
    shared = merged if encoded and any(attention.merged for attention in spec.attentions) else 0
    reading: tuple[Kind, ...] = _BY_AN_ENCODER if encoded else _IN_A_CHUNK
    return Traffic(
        weight_bytes=sum(nbytes.values()) + owning,
        read_bytes=_in_a_step(nbytes, share, looked_into) + owning,
        chunk_bytes=_sum(nbytes, reading) + owning,
        once_bytes=0 if encoded else _sum(nbytes, _ONCE_A_PROMPT),
        packable=sum(packed.values()),
        packable_read=round(_in_a_step(packed, 0.0, looked_into)) + routed,
        packable_chunk=_sum(packed, reading),
        packable_once=0 if encoded else _sum(packed, _ONCE_A_PROMPT),
        plain=plain,
        prefilled=_sum(packed, _BY_AN_ENCODER) + shared if encoded else packed["layer"] + many + routed,
        routed=routed,
        routed_bytes=nbytes["expert"] * share,
        width=spec.dim,
        launches=launches + once(spec) + sum(map(each, spec.layers)),
        **attending(spec),
        state_bytes=sum(_state(layer) for layer in spec.layers),
        matrices=tuple(matrices),
        asked=share,
        looked_into=looked_into,
        encoded=encoded,
    )


def attending(spec: Spec) -> dict[str, tuple[Reach, ...]]:
    """The layers that attend, by the names that `Traffic` has for them."""
    own = _reaches(spec)
    if not isinstance(spec, EncoderDecoderSpec):
        return {"reaches": own, "readers": own, "source": ()}
    return {"reaches": own, "readers": _reaches(spec.encoder), "source": _source(spec)}


def _sum(counts: Mapping[Kind, int], kinds: Iterable[Kind]) -> int:
    return sum(counts.get(kind, 0) for kind in kinds)


def _in_a_step(counts: Mapping[Kind, int], asked: float, looked_into: float) -> float:
    """What a decode step reads of matrices."""
    return _sum(counts, _IN_A_STEP) + counts.get("expert", 0) * asked + counts.get("ordered", 0) * looked_into


def _kind(path: str, module: nn.Module, spec: Spec) -> Kind:
    """What a module's parameters are used for."""
    if path.startswith("encoder."):
        return "looked up" if isinstance(module, nn.Embedding | nn.QuantizedEmbedding) else "encoder"
    if isinstance(module, nn.Embedding | nn.QuantizedEmbedding):
        if isinstance(spec, DrafterSpec):
            return "ordered" if spec.ordered else "head"
        tied = isinstance(spec, DecoderSpec) and spec.tied_head and path.endswith("embed_tokens")
        return "head" if tied else "looked up"
    if path.endswith("lm_head"):
        return "head"
    if isinstance(module, ExpertLinear | QuantizedExpertLinear):
        return "expert"
    if "self_conditioning" in path:  # at work while a canvas fills, and not while text is read
        return "canvas"
    if _SOURCE.search(path):
        return "source"
    layer = re.search(r"(?:^|\.)layers\.(\d+)", path)
    return "borrower" if layer and spec.layers[int(layer[1])].borrows_from is not None else "layer"


def _bytes(matrix: Matrix, how: How, itemsize: int) -> int:
    """What a matrix takes, stored as `how` says."""
    way = how(matrix.path, matrix.columns)
    return matrix.numbers * itemsize if way is None else packed_bytes(matrix.numbers, way, itemsize)


def _kv_bytes(reaches: Iterable[Reach], context: int, bits: float) -> float:
    return sum(reach.layers * reach.rows(context) * reach.row_numbers() for reach in reaches) * bits / 8


def _parameters(module: nn.Module, arrays: dict[str, mx.array]) -> int:
    """Parameters of a matrix, packed or not."""
    weight = arrays["weight"]
    return weight.nbytes * 8 // module.bits if "scales" in arrays else weight.size


def _columns(module: nn.Module, arrays: dict[str, mx.array]) -> int:
    """Numbers in a row of a matrix, packed or not."""
    last = arrays["weight"].shape[-1]
    return last * 32 // module.bits if "scales" in arrays else last


def _looked_into(spec: Spec) -> float:
    """The part of the vocabulary whose rows a draft reads; 0 where the head has no order."""
    ordered = spec.ordered if isinstance(spec, DrafterSpec) else None
    return ordered.top_k / ordered.centroids if ordered else 0.0


def _share(spec: Spec) -> float:
    """The part of all experts that a token goes to; equal in every layer of every Gemma."""
    experts = {layer.experts for layer in spec.layers if isinstance(layer, LayerSpec) and layer.experts}
    return sum(each.top_k for each in experts) / sum(each.count for each in experts) if experts else 0.0


def _source(spec: EncoderDecoderSpec) -> tuple[Reach, ...]:
    """Attention to what an encoder read, all of it."""
    layers = [
        layer.cross or replace(layer.attention, window=None) for layer in spec.layers if isinstance(layer, LayerSpec)
    ]
    return tuple(Reach(attention=each, layers=count, prefilled=0) for each, count in Counter(layers).items())


def _reaches(spec: StackSpec) -> tuple[Reach, ...]:
    layers = [layer for layer in spec.layers if isinstance(layer, LayerSpec)]
    every = Counter(layer.attention for layer in layers)
    owning = Counter(layer.attention for layer in layers if layer.borrows_from is None)
    return tuple(Reach(attention=each, layers=count, prefilled=owning[each]) for each, count in every.items())


def _state(layer: LayerSpec | RecurrentLayerSpec) -> int:
    """Bytes: float32 for the state, 16 bits for the inputs that the convolution still needs."""
    if isinstance(layer, LayerSpec):
        return 0
    return layer.recurrence.width * (4 + 2 * (layer.recurrence.taps - 1))
