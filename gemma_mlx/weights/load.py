"""A checkpoint's folder -> what is in it (`inspect`), or a model whose tensors are read when first used (`load`).

Both hold the files against the model that config.json describes, built but not evaluated: every parameter must be there
in its shape, and every tensor must be a parameter or be listed with the reason it is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from gemma_mlx import registry
from gemma_mlx.config import read_config
from gemma_mlx.device import compute_dtype
from gemma_mlx.errors import InputError, WeightsError
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.drafter import Drafter
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.nn.grid import GridLinear
from gemma_mlx.registry import Match
from gemma_mlx.spec import DecoderSpec, EncoderDecoderSpec, EncoderSpec, StackSpec
from gemma_mlx.weights.agreement import AGAIN, check_layers, check_tensors
from gemma_mlx.weights.disk_table import TABLE, DiskTable
from gemma_mlx.weights.files import Stored, check_folder, located, stored_tensors
from gemma_mlx.weights.foreign import EXACT_SCALES, grids_of, repacked, steps_of
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.matformer import slice_config, slice_stored
from gemma_mlx.weights.modules import with_head
from gemma_mlx.weights.quantized import FLOATING, Quantization, plan, quantize
from gemma_mlx.weights.read import arrays
from gemma_mlx.weights.repack import Grid, Repacked
from gemma_mlx.weights.slices import Slice

# Where the table of per-layer embeddings is kept: in memory, or in its file, of which each token's row is read.
Placement = Literal["disk", "memory"]
OnProgress = Callable[[str, int, int], None]

PER_LAYER: Final[Placement] = "disk"  # where nothing else is asked for: docs/concepts/per-layer-tables.md says why
COMPUTE_DTYPES: Final = (mx.float32, mx.bfloat16)

BORROWED: Final = "its layer borrows the keys and values of another"  # why a tensor is not read

_EMBEDDING: Final = "model.embed_tokens"
_ENCODER_EMBEDDING: Final = "encoder.embed_tokens"
_HEAD: Final = "lm_head."
_DTYPES: Final[Mapping[str, mx.Dtype]] = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
_DTYPE_NAMES: Final = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
_PORTIONS: Final = 50  # read at once: a fiftieth of the weights, so that the peak stays within a few percent of them


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds, known from its config and headers.

    Attributes:
        folder: where it lies.
        match: its architecture and spec, with the embedding scale rounded as its dtype rounds it.
        config: config.json.
        tensors: parameter name -> where it lies.
        unread: name of a tensor or a file -> why it is left on the disk.
        quantization: path of each module that could be quantized -> how it is, None where it is not.
        repacked: all that the files hold, in MLX's layout, and by which method it was packed.
        grids: path of a linear map -> the grid of its activations, where they were trained to lie on one.
        weights: how many numbers the parameters stand for, packed or not, without scales and biases of quantization.
        piece: the slice of what the folder holds that this is; None where it is all of it.
    """

    folder: Path
    match: Match
    config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    unread: Mapping[str, str]
    quantization: Mapping[str, Quantization | None]
    repacked: Repacked
    grids: Mapping[str, Grid]
    weights: int
    piece: Slice | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors in the files."""
        return sum(tensor.file_bytes for tensor in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits in the files for each weight, scales and biases included."""
        return self.nbytes * 8 / self.weights

    @property
    def table(self) -> Mapping[str, TensorInfo]:
        """The tensors of its table of per-layer embeddings, by the last part of their name; none where it has none."""
        prefix = f"{TABLE}."
        return {name.removeprefix(prefix): self.tensors[name] for name in self.tensors if name.startswith(prefix)}

    def memory_bytes(self, dtype: mx.Dtype | None = None, *, per_layer: Placement = "memory") -> int:
        """Bytes of its parameters in memory, when it computes in `dtype`; `per_layer` says where the table is kept."""
        tensors = self.tensors.values() if per_layer == "memory" else self._without_table()
        return _memory_bytes(tensors, dtype)

    def table_bytes(self, dtype: mx.Dtype | None = None) -> int:
        """Bytes of the table of per-layer embeddings, were it in memory; 0 where there is none."""
        return _memory_bytes(self.table.values(), dtype)

    def _without_table(self) -> list[TensorInfo]:
        return [tensor for name, tensor in self.tensors.items() if not name.startswith(f"{TABLE}.")]


def _memory_bytes(tensors: Iterable[TensorInfo], dtype: mx.Dtype | None) -> int:
    size = (compute_dtype() if dtype is None else dtype).size
    return sum(math.prod(tensor.shape) * size if tensor.dtype in FLOATING else tensor.nbytes for tensor in tensors)


@dataclass(frozen=True)
class Loaded:
    """A model ready to compute, where it comes from, where its table of per-layer embeddings is, if it has one, and
    whether it rounds activations to grids."""

    model: Decoder | Encoder | Drafter
    checkpoint: Checkpoint
    per_layer: Placement | None = None
    grids: bool = False


def inspect(folder: Path, *, piece: Slice | None = None) -> Checkpoint:
    """Reads config.json and the headers in `folder`, and checks them against each other.

    No tensor is read and no memory is taken.

    Args:
        folder: in the Hugging Face layout.
        piece: look at this slice of what it holds.

    Raises:
        GemmaError: whatever is wrong with the checkpoint, as a sentence.
    """
    return _assemble(located(folder), piece)[0]


def load(
    folder: Path,
    *,
    dtype: mx.Dtype | None = None,
    piece: Slice | None = None,
    per_layer: Placement = "memory",
    grids: bool = True,
    on_progress: OnProgress | None = None,
    admit: Callable[[Checkpoint, int, int], None] | None = None,
) -> Loaded:
    """The model in `folder`. Its tensors stay in the files until they are used, or `materialize` reads them.

    Files that are changed or deleted before that make the first use fail: MLX keeps them open and reads late. Tensors
    of which a slice takes a part are the exception: the part is read here, and the rest never.

    Args:
        folder: in the Hugging Face layout.
        dtype: of activations and floating parameters, float32 or bfloat16; None takes what suits the machine.
        piece: load this slice of the model.
        per_layer: where the table of per-layer embeddings is kept, if there is one. On the disk it is no parameter.
        grids: round activations to the grids for which the checkpoint was trained, if it was.
        on_progress: called with (what, bytes done, bytes in all) while parts are read.
        admit: called with (checkpoint, bytes of its parameters in memory, bytes of an activation) before anything but
            headers is read; what it raises ends the loading.

    Raises:
        InputError: `dtype` is another one, `per_layer` is neither place, or there is no such slice. float16 is too
            narrow for Gemma's residual stream.
        GemmaError: whatever is wrong with the checkpoint, as a sentence.
    """
    dtype = compute_dtype() if dtype is None else dtype
    if dtype not in COMPUTE_DTYPES:
        raise InputError(
            f"A Gemma cannot compute in {str(dtype).rpartition('.')[2]}; it computes in float32 or bfloat16.",
            "float16 is too narrow for its activations, which overflow to NaN. Use bfloat16.",
        )
    if per_layer not in get_args(Placement):
        raise InputError(
            f"Per-layer embeddings cannot be kept in {per_layer!r}; they are kept on the 'disk' or in 'memory'."
        )
    checkpoint, model = _assemble(located(folder), piece)
    if admit is not None:
        admit(checkpoint, checkpoint.memory_bytes(dtype, per_layer=per_layer), dtype.size)
    modules, shapes = dict(model.named_modules()), _shapes(model)
    tensors = dict(checkpoint.tensors)
    if checkpoint.table and per_layer == "disk":
        table = DiskTable(checkpoint.table, checkpoint.quantization[TABLE], dtype)
        model.update_modules(tree_unflatten([(TABLE, table)]))
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{TABLE}.")}
    found = arrays(tensors, dtype, on_progress)
    parameters = []
    for parameter, tensor in tensors.items():
        array = found[parameter].reshape(shapes[parameter])
        module = modules[parameter.rpartition(".")[0]]
        if hasattr(module, "from_stored"):
            array = module.from_stored(array)
        parameters.append((parameter, array.astype(dtype) if tensor.dtype in FLOATING else array))
    model.load_weights(parameters)
    model.set_compute_dtype(dtype)
    if grids:
        _round_activations(model, checkpoint.grids, dtype)
    model.eval()
    return Loaded(model, checkpoint, per_layer if checkpoint.table else None, grids and bool(checkpoint.grids))


def _round_activations(model: nn.Module, grids: Mapping[str, Grid], dtype: mx.Dtype) -> None:
    modules = dict(model.named_modules())
    made = [
        (path, GridLinear(cast(nn.QuantizedLinear, modules[path]), *steps_of(grid), dtype))
        for path, grid in grids.items()
    ]
    model.update_modules(tree_unflatten(made))


def materialize(model: nn.Module, on_progress: OnProgress | None = None) -> None:
    """Reads and casts every parameter, the largest group first and a little at a time: what is cast is held twice.

    Args:
        model: what `load` returned.
        on_progress: called with (what, bytes done, bytes in all) before the first group and after each.

    Raises:
        WeightsError: a file changed or went away, or memory ran out.
    """
    groups: dict[str, list[mx.array]] = {}
    for parameter, array in named_parameters(model):
        layer = re.match(r"(?:.*\.)?layers\.(\d+)\.", parameter)
        what = f"layer {int(layer[1]) + 1}" if layer else parameter.split(".")[-2].replace("_", " ")
        groups.setdefault(what, []).append(array)
    sizes = {what: sum(array.nbytes for array in arrays) for what, arrays in groups.items()}
    done, total = 0, sum(sizes.values())
    if on_progress is not None:
        on_progress("weights", 0, total)
    for what in sorted(sizes, key=lambda what: -sizes[what]):
        try:
            for arrays in _portions(groups[what], total // _PORTIONS):
                mx.eval(arrays)
        except RuntimeError as error:
            raise WeightsError(
                f"The weights ({what}) could not be read into memory: {error}.",
                "A file may have been changed or deleted since it was opened, or memory ran out. Try once more.",
            ) from error
        done += sizes[what]
        if on_progress is not None:
            on_progress(what, done, total)


def _portions(arrays: Sequence[mx.array], most: int) -> Iterator[list[mx.array]]:
    """`arrays` in portions of at most `most` bytes, or of one array."""
    portion: list[mx.array] = []
    for array in arrays:
        if portion and sum(other.nbytes for other in portion) + array.nbytes > most:
            yield portion
            portion = []
        portion.append(array)
    yield portion


def stored_slice(folder: Path, piece: Slice | None) -> tuple[dict[str, Any], Stored]:
    """The config.json in `folder`, and where its tensors lie; or those of a slice of it."""
    check_folder(folder)
    config = read_config(folder)
    if piece is None:
        return config, stored_tensors(folder)
    sliced = slice_config(config, piece)
    return sliced, slice_stored(config, stored_tensors(folder), piece)


def _assemble(folder: Path, piece: Slice | None) -> tuple[Checkpoint, Decoder | Encoder | Drafter]:
    """The checkpoint, and its model with parameters of the right shapes, none of them evaluated."""
    config, stored = stored_slice(folder, piece)
    match = registry.match(config)
    names = match.architecture.NAMES
    stored, packed = repacked(config, stored, names)
    tensors = {parameter: stored.tensors[name] for name, parameter in names.translate(stored.tensors).items()}
    for parameter in [parameter for parameter in tensors if names.parts(parameter) is not None]:
        pieces, axis = names.parts(parameter) or ((), 0)
        tensors |= dict(zip(pieces, tensors.pop(parameter).parts(len(pieces), axis), strict=True))
    unread = dict(stored.unread) | {name: why for name in stored.tensors if (why := names.why_unread(name)) is not None}
    spec = match.spec
    if isinstance(spec, EncoderSpec):
        spec, tensors, aside = with_head(folder, spec, tensors)
        unread |= aside
    for parameter, original in [(parameter, names.original(parameter)) for parameter in tensors]:
        if original is not None and original not in tensors:
            tensors[original] = tensors.pop(parameter)
        elif original is not None and _is_copy(tensors[parameter], tensors[original]):
            unread[tensors.pop(parameter).name] = f"a copy of {tensors[original].name}"
    borrowed = _borrowed(spec, tensors)
    unread |= {tensors.pop(parameter).name: BORROWED for parameter in borrowed}
    check_layers(len(spec.layers), tensors)
    if isinstance(spec, DecoderSpec) and spec.tied_head and f"{_HEAD}weight" in tensors:
        head = {parameter: tensor for parameter, tensor in tensors.items() if parameter.startswith(_HEAD)}
        # A head whose activations lie on grids is not the table, were its numbers the same.
        if not packed.grids and all(
            _is_copy(tensor, tensors.get(_embedding_of(parameter))) for parameter, tensor in head.items()
        ):
            tensors = {parameter: tensor for parameter, tensor in tensors.items() if parameter not in head}
            unread |= {tensor.name: "a copy of the embedding table" for tensor in head.values()}
        else:
            # The config says tied, the files hold two tables: transformers and mlx-lm then use both, and so do we.
            spec = replace(spec, tied_head=False)
    if packed.method not in EXACT_SCALES:
        spec = replace(spec, embed_scale=_rounded(spec.embed_scale, _EMBEDDING, tensors, config))
    if isinstance(spec, EncoderDecoderSpec):
        embedding = _EMBEDDING if spec.shared_table else _ENCODER_EMBEDDING
        scale = _rounded(spec.encoder.embed_scale, embedding, tensors, config)
        spec = replace(spec, encoder=replace(spec.encoder, embed_scale=scale))
    model = match.architecture.build(spec)
    shapes, integers = _shapes(model), _integers(model)
    table = packed.table and packed.table.without({parameter.rpartition(".")[0] for parameter in borrowed})
    quantization = plan(model, table, tensors, names)
    quantize(model, quantization)
    check_tensors(match.model_type, _shapes(model), tensors, quantization, integers)
    checkpoint = Checkpoint(
        folder=folder,
        match=replace(match, spec=spec),
        config=config,
        tensors=tensors,
        unread=unread,
        quantization=quantization,
        repacked=packed,
        grids=grids_of(packed, quantization, names),
        weights=sum(map(math.prod, shapes.values())),
        piece=piece,
    )
    return checkpoint, model


def named_parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    """(name, parameter) in the order of the network; a name is where a checkpoint has it."""
    return cast(list[tuple[str, mx.array]], tree_flatten(model.parameters()))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in named_parameters(model)}


def _integers(model: nn.Module) -> frozenset[str]:
    """The parameters that are whole numbers before anything is quantized: ids."""
    return frozenset(name for name, array in named_parameters(model) if mx.issubdtype(array.dtype, mx.integer))


def _borrowed(spec: StackSpec, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Keys' and values' tensors of layers that have none: published files hold them all the same."""
    layers = {str(index) for index, layer in enumerate(spec.layers) if layer.borrows_from is not None}
    own = re.compile(r"model\.layers\.(\d+)\.self_attn\.[kv]_(proj|norm)\.")
    return [name for name in tensors if (found := own.match(name)) is not None and found[1] in layers]


def _embedding_of(head: str) -> str:
    return f"{_EMBEDDING}.{head.removeprefix(_HEAD)}"


def _is_copy(one: TensorInfo, other: TensorInfo | None) -> bool:
    """Whether two tensors hold the same bytes, judged by 64 samples: two trained tables differ everywhere."""
    if other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    one, other = one.base, other.base
    samples, width = 64, 4096
    try:
        with one.file.open("rb") as first, other.file.open("rb") as second:
            for index in range(samples):
                offset = max(one.nbytes - width, 0) * index // (samples - 1)
                count = min(width, one.nbytes - offset)
                first.seek(one.start + offset)
                second.seek(other.start + offset)
                if first.read(count) != second.read(count):
                    return False
    except OSError as error:
        raise WeightsError(f"{one.file} cannot be read: {error.strerror or error}.", AGAIN) from error
    return True


def _rounded(scale: float, embedding: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> float:
    """The embedding scale in the dtype of the embedding table: sqrt(3072) is 55.5 in bfloat16.

    The models were trained so (huggingface/transformers PR 29402). A packed table has the dtype of its scales. Where
    those are 8 bits wide, or in numbers that other programs pack with and no model is trained in, it is the one that
    config.json names.
    """
    scales = tensors.get(f"{embedding}.scales")
    table = scales or tensors.get(f"{embedding}.weight")
    dtype = _DTYPES.get(table.dtype) if table is not None else None
    if dtype is None or dtype == mx.float16 or (scales is not None and dtype == mx.float32):
        text = config.get("text_config")
        sections = (config, text if isinstance(text, dict) else {})
        stated = [section.get(key) for section in sections for key in ("dtype", "torch_dtype")]
        dtype = next(
            (_DTYPE_NAMES[name] for name in stated if isinstance(name, str) and name in _DTYPE_NAMES),
            dtype or mx.bfloat16,
        )
    return cast(float, mx.array(scale, dtype).item())
