"""How much a model loses by an error in each of its matrices: measured on text, or as is known of such parts.

A matrix is packed in 3 bits, all others stay as they are, and what the model then says is compared with what it said
before. The divergence grows with the square of the error, so one measurement of a matrix predicts all of its packings;
and for small errors the losses of several matrices add up.

All matrices are measured in one pass. The first row of the batch is the model as it is, and every layer adds a row for
each of its matrices, in which that matrix alone was packed:

    rows into layer 0    clean | table
    rows into layer 1    clean | table | 0.q_proj | 0.k_proj | ...
    behind the last      clean | ...        -> divergence of every row from the first

So a layer is read from its file once, used by all rows and forgotten: what is held is a layer, the rows, and the head.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import mlx.nn as nn
import platformdirs
from jaxtyping import Float, Integer
from mlx.utils import tree_map

from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.cache.none import NoCache
from gemma_mlx.errors import TokenizerError
from gemma_mlx.nn.attention import Lent
from gemma_mlx.nn.decoder import Decoder, Lender
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.processor import Processor
from gemma_mlx.quantize.divergence import log_probabilities
from gemma_mlx.quantize.texts import KINDS, passages, windows
from gemma_mlx.spec import DecoderSpec
from gemma_mlx.weights.load import Checkpoint, load
from gemma_mlx.weights.quantized import Quantization, leaves
from gemma_mlx.weights.read import File

PROBE: Final = Quantization(mode="affine", bits=3, group_size=32)  # 32 divides the rows of all that can be packed
TOKENS: Final = 384  # read, where the rows leave room for them
LEAST_TOKENS: Final = 96
ROWS_BYTES: Final = 1_000_000_000  # of all rows together; at the end they are held twice
_AT_ONCE: Final = 4  # rows that go through a layer side by side
_POSITIONS: Final = 128  # whose predictions are held at once
_ROWS: Final = 1 << 14  # of a head, unpacked at once
_LEAST_ERROR: Final = 1e-9  # of a matrix of zeros
_EDITION: Final = 1  # of what is stored
_SAMPLES, _WIDTH = 16, 4096

_EMBEDDING: Final = "model.embed_tokens"
_TABLE: Final = "model.embed_tokens_per_layer"
_HEAD: Final = "lm_head"

# What a relative squared error of 1 would cost, in nats, where nothing was measured: of a part of the layers, in all of
# them together, and of tables. From the model in the box: tests/benchmarks/sensing.py.
KNOWN: Final = (
    (r"\.v_proj$", 1.9),
    (r"\.o_proj$", 2.4),
    (r"\.k_proj$", 0.6),
    (r"\.q_proj$", 0.85),
    (r"\.down_proj$", 1.4),
    (r"(^|\.)(embed_tokens|lm_head)$", 5.0),
    (r"\.embed_tokens_per_layer$", 1.2),
    ("", 1.1),
)
FIRST: Final = 2.0  # times as much in the first eighth of the layers


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What an error of each matrix costs.

    Attributes:
        losses: path of a module -> nats for each token, if the squared error of its weights were as large as they are.
        tokens: on which it was measured; 0 where it is what is known of such parts.
    """

    losses: Mapping[str, float]
    tokens: int = 0


def known(modules: Sequence[str], layers: int) -> Sensitivity:
    """What is known of such parts, without running the model."""
    first = -(-layers // 8)

    def loss(module: str) -> float:
        worth = next(worth for pattern, worth in KNOWN if re.search(pattern, module))
        layer = re.search(r"\blayers\.(\d+)\.", module)
        if layer is None:
            return worth
        return worth * (FIRST if int(layer[1]) < first else 1.0) / (layers + first * (FIRST - 1))

    return Sensitivity(losses={module: loss(module) for module in modules})


def of(
    checkpoint: Checkpoint,
    on_progress: Callable[[str, int, int], None] | None = None,
    folder: Path | None = None,
) -> Sensitivity | None:
    """The measured sensitivity of a checkpoint: measured once, and kept.

    Args:
        checkpoint: not quantized.
        on_progress: called with ("layer 3 of 26", done, in all).
        folder: where measurements are kept; None is the user's folder for what can be had again.

    Returns:
        None where it cannot be measured: of encoders, of models with an encoder, of those that fill canvases, and
        where there is no tokenizer.
    """
    spec = checkpoint.match.spec
    if not isinstance(spec, DecoderSpec) or spec.canvas is not None:
        return None
    kept = (folder or _folder()) / f"{fingerprint(checkpoint)}.json"
    if (found := _kept(kept)) is not None:
        return found
    try:
        tokens = calibration(Processor(checkpoint.folder))
    except TokenizerError:
        return None
    found = measure(checkpoint.folder, tokens, on_progress)
    if found is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")
        partial.write_text(json.dumps({"losses": dict(found.losses), "tokens": found.tokens}), encoding="utf-8")
        partial.replace(kept)
    return found


def calibration(processor: Processor) -> list[int]:
    """A piece of the calibration texts of each kind, one after the other."""
    some = windows(passages("calibrate"), processor, TOKENS // len(KINDS))
    firsts = {window.kind: window.tokens for window in reversed(some)}
    return [token for kind in KINDS for token in firsts.get(kind, ())]


def measure(
    folder: Path, tokens: Sequence[int], on_progress: Callable[[str, int, int], None] | None = None
) -> Sensitivity | None:
    """Measures every matrix of the decoder in `folder`; None where it is none that can be measured.

    Args:
        folder: of a checkpoint that is not quantized.
        tokens: to read; fewer are read where the rows of a large model would take more than ROWS_BYTES.
        on_progress: called with ("layer 3 of 26", done, in all).
    """

    def fresh() -> Any:
        """Nothing of it is in memory: arrays that were read stay with the copy that read them."""
        return load(folder, dtype=mx.float32, per_layer="disk").model

    model = fresh()
    if not isinstance(model, Decoder) or isinstance(model, EncoderDecoder) or model.spec.dim % PROBE.group_size:
        return None
    spec = model.spec
    matrices = [[path for path, _ in _packable(layer)] for layer in model.model.layers]
    rows = 3 + sum(map(len, matrices))
    width = spec.dim * (spec.altup.streams if spec.altup is not None else 1)
    count = min(len(tokens), max(LEAST_TOKENS, ROWS_BYTES // (rows * width * 4)))
    ids = mx.array(list(tokens[:count]))[None]
    pass_ = _Pass()
    embedded = pass_.embedded(model, ids)
    count_layers = len(matrices)

    def layer(index: int) -> nn.Module:
        if on_progress is not None:
            on_progress(f"layer {index + 1} of {count_layers}", index, count_layers + 1)
        return cast(nn.Module, fresh().model.layers[index])

    borrowed = [getattr(each, "borrows_from", None) for each in spec.layers]
    model.model.layers = [_Layer(pass_, index, layer, borrowed[index]) for index in range(count_layers)]
    mx.eval(model.hidden(embedded, DecoderCache.none(spec)))
    hidden = _behind(model, model.embed(ids), pass_)
    if on_progress is not None:
        on_progress("head", count_layers, count_layers + 1)
    divergences = _divergences(model, hidden, pass_)
    if on_progress is not None:
        on_progress("head", count_layers + 1, count_layers + 1)
    return Sensitivity(
        losses={path: divergences[path] / error for path, error in pass_.errors.items()}, tokens=int(count)
    )


class _Pass:
    """All rows on their way through the layers.

    A decoder sees those of the tables only: what goes into its layers and comes out of them has as many rows.

    Attributes:
        names: which matrix is packed in each row.
        errors: how large the relative squared error of it is.
        x: the rows behind the last layer that ran.
        lent: index of a layer -> keys and values of all rows that others borrow.
    """

    def __init__(self) -> None:
        self.names: list[str] = [""]
        self.errors: dict[str, float] = {}
        self.x: mx.array | None = None
        self.lent: dict[int, tuple[mx.array, mx.array]] = {}

    def forked(self, path: str) -> None:
        """A row was added, in which this matrix is packed."""
        self.names.append(path)

    def packed(self, path: str, weight: mx.array) -> mx.array:
        """A matrix, or the rows of one, as the probe leaves it; its relative squared error is noted."""
        made = probed(weight)
        size = mx.maximum(mx.square(weight).sum(), 1e-30)
        self.errors[path] = max(cast(float, (mx.square(made - weight).sum() / size).item()), _LEAST_ERROR)
        return made

    def embedded(self, model: Decoder, ids: Integer[mx.array, "1 L"]) -> Any:
        """What `hidden` takes, with a row for each table."""
        clean = model.embed(ids)
        x, *extra = clean if isinstance(clean, tuple) else (clean,)
        made = [clean]
        if x.shape[-1] % PROBE.group_size == 0:
            self.forked(_EMBEDDING)
            packed = self.packed(_EMBEDDING, x)
            made.append((packed, *extra) if extra else packed)
        if extra and extra[0].shape[-1] % PROBE.group_size == 0:
            self.forked(_TABLE)
            made.append((x, self.packed(_TABLE, extra[0])))
        stacked: Any = tree_map(lambda *each: mx.concatenate(list(each)), made[0], *made[1:])
        return stacked


def probed(weight: Float[mx.array, "*rows columns"]) -> Float[mx.array, "*rows columns"]:
    """Packed and unpacked again."""
    packed = mx.quantize(weight, PROBE.group_size, PROBE.bits)
    return mx.dequantize(*packed, PROBE.group_size, PROBE.bits)


def _packable(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (path, module)
        for path, module in leaves(layer)
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % PROBE.group_size == 0
    ]


class _Layer:
    """Stands where a layer was; takes it from its file when it is called, and adds a row for each of its matrices."""

    def __init__(self, pass_: _Pass, index: int, layer: Callable[[int], nn.Module], lender: int | None) -> None:
        self._pass, self._index, self._layer, self._lender = pass_, index, layer, lender

    def __call__(self, x: mx.array, mask: Any, cache: Any, *extras: mx.array) -> mx.array:
        layer = cast(Callable[..., mx.array], self._layer(self._index))
        all_rows = x if self._pass.x is None else self._pass.x
        out: list[mx.array] = []
        lent: list[Lender] = []

        def run(first: int, stop: int) -> None:
            own = self._cache(cache, first, stop)
            out.append(layer(all_rows[first:stop], mask, own, *(_rows(extra, first, stop) for extra in extras)))
            mx.eval(out[-1])
            if isinstance(own, Lender):
                mx.eval(own.keys, own.values)
                lent.append(own)

        for first in range(0, len(all_rows), _AT_ONCE):
            run(first, min(first + _AT_ONCE, len(all_rows)))
        for name, module in _packable(cast(nn.Module, layer)):
            path, weight = f"model.layers.{self._index}.{name}", module.weight
            module.weight = self._pass.packed(path, weight)
            self._pass.forked(path)
            run(0, 1)
            module.weight = weight
        if isinstance(cache, Lender):
            keys, values = (mx.concatenate([getattr(each, of) for each in lent]) for of in ("keys", "values"))
            mx.eval(keys, values)
            self._pass.lent[self._index] = keys, values
            cache.keys, cache.values = keys[: len(x)], values[: len(x)]
        made = mx.concatenate(out)
        mx.eval(made)
        self._pass.x = made
        return made[: len(x)]

    def _cache(self, cache: Any, first: int, stop: int) -> Any:
        """The layer's cache for some of the rows."""
        if not isinstance(cache, Lent):
            return Lender(NoCache()) if isinstance(cache, Lender) else type(cache)()
        assert self._lender is not None, "it borrows"
        seen = cast(mx.array, cache.keys).shape[2]
        return Lent(cache.offset, *(_rows(each, first, stop)[:, :, -seen:] for each in self._pass.lent[self._lender]))


class _Behind:
    """Stands where a layer was, and gives what came out of the last one."""

    def __init__(self, x: mx.array, lent: tuple[mx.array, mx.array] | None) -> None:
        self._x, self._lent = x, lent

    def __call__(self, _x: mx.array, _mask: Any, cache: Any, *_extras: mx.array) -> mx.array:
        if self._lent is not None:
            cache.keys, cache.values = (each[:1] for each in self._lent)
        return self._x


def _behind(model: Decoder, embedded: Any, pass_: _Pass) -> Float[mx.array, "R L dim"]:
    """All rows behind what follows the layers, one after the other."""
    x, made = pass_.x, []
    assert x is not None, "there are layers"
    for row in range(len(x)):
        model.model.layers = [
            _Behind(x[row : row + 1], pass_.lent.get(index)) for index in range(len(model.spec.layers))
        ]
        made.append(model.hidden(embedded, DecoderCache.none(model.spec)))
        mx.eval(made[-1])
    return mx.concatenate(made)


def _rows(array: mx.array, first: int, stop: int) -> mx.array:
    """Rows of something that has fewer: a row that was added later is there what the first is."""
    return array[mx.array([row if row < len(array) else 0 for row in range(first, stop)])]


def _divergences(model: Decoder, hidden: Float[mx.array, "R L dim"], pass_: _Pass) -> dict[str, float]:
    """Mean Kullback-Leibler divergence of every row's predictions from the first row's.

    The head is an error of its own, and where it is the table of embeddings, one with the error of that.
    """
    tied = model.spec.tied_head
    owner, name, path = (model.model, "embed_tokens", _EMBEDDING) if tied else (model, _HEAD, _HEAD)
    whole: Any = owner[name]
    packed = whole.to_quantized(PROBE.group_size, PROBE.bits)
    pass_.errors[path] = _error(whole.weight, packed)
    head_row = pass_.names.index(_EMBEDDING) if tied else 0
    rows = [(row, each) for row, each in enumerate(pass_.names) if row not in (0, head_row)] + [(head_row, path)]
    found = dict.fromkeys((each for _, each in rows), 0.0)
    L = hidden.shape[1]
    for first in range(0, L, _POSITIONS):
        some = hidden[:, first : first + _POSITIONS]
        clean = log_probabilities(model.logits(some[:1]))
        mx.eval(clean)
        for row, each in rows:
            if each == path:
                setattr(owner, name, packed)
            found[each] += _divergence(clean, log_probabilities(model.logits(some[row : row + 1])))
        setattr(owner, name, whole)
    return {each: total / L for each, total in found.items()}


def _error(weight: Float[mx.array, "rows columns"], packed: Any) -> float:
    """Relative squared error of a packed matrix, a part of its rows after the other."""
    off, size = 0.0, 0.0
    for first in range(0, len(weight), _ROWS):
        some, part = weight[first : first + _ROWS], slice(first, first + _ROWS)
        made = mx.dequantize(
            packed.weight[part], packed.scales[part], packed.biases[part], PROBE.group_size, PROBE.bits
        )
        off += cast(float, mx.square(made - some).sum().item())
        size += cast(float, mx.square(some).sum().item())
    return max(off / max(size, 1e-30), _LEAST_ERROR)


def _divergence(clean: mx.array, other: mx.array) -> float:
    return max(cast(float, (mx.exp(clean) * (clean - other)).sum().item()), 0.0)


def fingerprint(checkpoint: Checkpoint) -> str:
    """The same for every copy of a checkpoint: its config, and samples of its files."""
    digest = hashlib.blake2b(json.dumps(checkpoint.config, sort_keys=True).encode(), digest_size=16)
    digest.update(f"{_EDITION} {TOKENS}".encode())
    for path in sorted({tensor.file for tensor in checkpoint.tensors.values()}):
        file, size = File(path), path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        for sample in _samples(file, size):
            digest.update(sample)
    return digest.hexdigest()


def _samples(file: File, size: int) -> Iterator[bytes]:
    buffer = bytearray(min(_WIDTH, size))
    for index in range(_SAMPLES):
        file.read_into(memoryview(buffer), (size - len(buffer)) * index // (_SAMPLES - 1))
        yield bytes(buffer)


def _folder() -> Path:
    return Path(platformdirs.user_cache_dir("gemma", appauthor=False)) / "sensitivity"


def _kept(file: Path) -> Sensitivity | None:
    """What was measured before; None where it was not, or what is there is damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        losses = {str(path): float(loss) for path, loss in value["losses"].items()}
        return Sensitivity(losses=losses, tokens=int(value["tokens"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
