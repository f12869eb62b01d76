"""What becomes of each tensor of a checkpoint, decided before anything is written, and to the byte."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from gemma_mlx import __version__
from gemma_mlx.errors import InputError, UnsupportedModelError
from gemma_mlx.gguf.places import is_gguf
from gemma_mlx.quantize.formats import BITS_4, BLOCKS_OF_32, Format, Rule
from gemma_mlx.quantize.head import with_head
from gemma_mlx.quantize.pack import CALIBRATED, Calibrated, Method, check_sound, is_on_lattice, pack, relative_error
from gemma_mlx.quantize.recipe import DEFAULT, TOWER_MAPS, Recipe, format_of, packing, parse_keep, recipe
from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderDecoderSpec
from gemma_mlx.weights.files import stamps
from gemma_mlx.weights.header import TensorInfo
from gemma_mlx.weights.load import BORROWED, Checkpoint, inspect
from gemma_mlx.weights.names import COMPUTED
from gemma_mlx.weights.quantized import FLOATING, Quantization
from gemma_mlx.weights.read import sample
from gemma_mlx.weights.save import table_entry
from gemma_mlx.weights.write import Output

FLOAT: Final = "BF16"  # of all that is written and not packed
SAMPLED: Final = 2048  # blocks of 32 by which a lattice is known
FIRST_SAMPLED: Final = 128  # by which it is known that there is none

TABLES: Final = ("quantization", "quantization_config")
_STATED: Final = ("dtype", "torch_dtype")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one tensor.

    Attributes:
        module: its path, as --keep and the recipes see it; of a tower, as the file has it.
        path: its module as config.json spells it, the name of the tensor itself where it is not packed.
        source: where it lies.
        outputs: what is written of it.
        how: how it is packed; None where it is not.
        method: how the codes are found; None where it is not packed. "exact" is said of all that stays what it is.
        maps: whether it is a matrix that may be packed.
        errors: relative errors of a sample, on its lattice and as MLX packs it; None where it is on none.
        beside: scales, and biases, of a source that is packed already.
    """

    module: str
    path: str
    source: TensorInfo
    outputs: tuple[Output, ...]
    how: Quantization | None = None
    method: Method | None = None
    maps: bool = False
    errors: tuple[float, float] | None = None
    beside: tuple[TensorInfo, ...] = ()

    @property
    def weights(self) -> int:
        """Numbers in it."""
        held = math.prod(self.source.shape)
        return held * 32 // self.how.bits if self.beside and self.how is not None else held

    @property
    def source_bytes(self) -> int:
        """Bytes of it in the files of the source."""
        return sum(tensor.file_bytes for tensor in (self.source, *self.beside))

    @property
    def names(self) -> int:
        """Under how many names it is written."""
        return sum(output.name.endswith(".scales") for output in self.outputs) or 1

    @property
    def nbytes(self) -> int:
        """Bytes of all that is written of it."""
        return sum(output.nbytes for output in self.outputs)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tensors of the same kind of which the same becomes.

    Attributes:
        what: part of the network.
        layers: indices of the layers they belong to.
        tensors: how many they are.
        weights: numbers in them.
        nbytes: bytes written of them.
        how: they are packed; None where they are not.
        method: how the codes are found.
        errors: the worst of `Decision.errors`.
    """

    what: str
    layers: tuple[int, ...]
    tensors: int
    weights: int
    nbytes: int
    how: Quantization | None
    method: Method | None
    errors: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What becomes of a checkpoint.

    Attributes:
        checkpoint: the source.
        recipe: after which it was decided.
        decisions: in the order in which the tensors lie in the source.
        config: config.json of what is written.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    decisions: tuple[Decision, ...]
    config: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(decision.nbytes for decision in self.decisions)

    @property
    def weights(self) -> int:
        """Numbers in all tensors of the source."""
        return sum(decision.weights for decision in self.decisions)

    @property
    def bits_per_weight(self) -> float:
        """Bits written for each number, scales and biases included."""
        return self.nbytes * 8 / self.weights

    @property
    def calibrated(self) -> Calibrated | None:
        """The method by which a text decides about codes; None where it decides about none."""
        found = {decision.method for decision in self.decisions} & {*CALIBRATED}
        return cast(Calibrated, found.pop()) if found else None

    def groups(self) -> list[Group]:
        """The decisions, those of the same kind together, largest first."""
        found: dict[tuple[Any, ...], list[Decision]] = {}
        for one in self.decisions:
            found.setdefault((_kind(one), one.how, one.method), []).append(one)
        made = [
            Group(
                what=key[0],
                layers=tuple(sorted({layer for one in some if (layer := _layer(one)) is not None})),
                tensors=len(some),
                weights=sum(one.weights for one in some),
                nbytes=sum(one.nbytes for one in some),
                how=key[1],
                method=key[2],
                errors=max((one.errors for one in some if one.errors is not None), default=None),
            )
            for key, some in found.items()
        ]
        return sorted(made, key=lambda group: -group.nbytes)

    def fingerprint(self) -> str:
        """The same only where the same bytes are written."""
        files = {decision.source.file for decision in self.decisions}
        facts = {
            "versions": [__version__, importlib.metadata.version("mlx")],
            "files": stamps(files),
            "config": self.config,
            "decisions": [
                [one.source.name, one.method, *(asdict(output) for output in one.outputs)] for one in self.decisions
            ],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


_TOWER: Final = re.compile(r"(?:^|\.)(vision_tower|audio_tower|multi_modal_projector|vision_embedder|embed_\w+)\.")


def _kind(one: Decision) -> str:
    """The part of the network that a tensor belongs to, the same for all layers."""
    tower = _TOWER.search(one.module)
    if tower and one.module.find("embed_tokens") < 0:
        return tower[1]
    if not one.maps:
        return "norms and the like"
    return re.sub(r"^model\.", "", re.sub(r"\blayers\.\d+\.", "", one.module))


def _layer(one: Decision) -> int | None:
    found = re.search(r"\blayers\.(\d+)\.", one.module)
    return int(found[1]) if found and one.maps and not _TOWER.search(one.module) else None


def plan(
    source: Path,
    *,
    recipe_name: str = DEFAULT,
    mode: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
    keep: Sequence[str] = (),
    clip: bool = False,
    method: str | None = None,
    spent: Sequence[Rule] = (),
    before: Plan | None = None,
    second_head: bool | None = None,
) -> Plan:
    """Decides about every tensor of the checkpoint in `source`. Headers are read, and samples of the weights.

    Args:
        source: a checkpoint that is not quantized; for the recipe "exact", one that is.
        recipe_name: one of RECIPES.
        mode: of what the recipe does not say more about: "affine", "mxfp4", "mxfp8" or "nvfp4".
        bits: of affine codes.
        group_size: of affine codes.
        keep: "PATTERN=8" and the like, see `parse_keep`; they come before the recipe.
        clip: choose the range of each affine group for the least squared error.
        method: "gptq", "awq" or "dwq" calibrate the maps of the decoder's layers, and all else has its ranges chosen.
        spent: rules that come after `keep` and before the recipe: what a budget was spent on.
        before: a plan of the same files, from which it is known what lies on a lattice.
        second_head: write a tied head of a Gemma 3 twice, as mlx-vlm wants it; None does so beside towers.

    Raises:
        UnsupportedModelError: the source is no decoder whose layers could be calibrated.
        InputError: the source is quantized already, or what is asked for cannot be had.
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    chosen = recipe(recipe_name)
    rules = [parse_keep(text) for text in keep]
    named = (mode, bits, group_size) != (None, None, None)
    if chosen.base is None and named:
        raise InputError(
            f"The recipe {chosen.name} packs nothing, and --mode, --bits or --group-size say how to.",
            "Leave them out, or name another recipe: --recipe uniform",
        )
    base = None if chosen.base is None else packing(mode, bits, group_size, chosen.base)
    checkpoint = inspect(source)
    if chosen.packed:
        return _as_it_is(checkpoint, chosen, keep)
    calibrated = None if method is None else _calibrated(method, base, checkpoint)
    if any(checkpoint.quantization.values()) or any(checkpoint.config.get(key) is not None for key in TABLES):
        most = Counter(how for how in checkpoint.quantization.values() if how is not None).most_common(1)
        raise InputError(
            f"{source} is quantized already" + (f" ({most[0][0]})." if most else "."),
            "Quantize the checkpoint it was made from: what was lost once is not found again."
            if checkpoint.repacked.method is None and not is_gguf(checkpoint.folder)
            else "--recipe exact writes it in the layout of MLX, without loss.",
        )
    form = format_of(chosen, base, [*rules, *spent])
    looks = chosen.lattice and base is not None and base.mode == "affine" and base.bits >= BITS_4.bits
    decisions = tuple(
        _decisions(checkpoint, form, base, rules, looks=looks, clip=clip, calibrated=calibrated, before=before)
    )
    _check_rules(rules, keep, decisions)
    decisions = tuple(with_head(checkpoint, decisions, second_head))
    if chosen.name == "qat" and not any(decision.method == "lattice" for decision in decisions):
        raise InputError(
            f"No weights of {source} lie on the lattice of Q4_0, so it was not trained for it.",
            "--recipe gemma; QAT checkpoints are those called qat-q4_0-unquantized.",
        )
    used = {decision.how for decision in decisions if decision.how is not None}
    for how in used:
        check_sound(how)
    return Plan(checkpoint=checkpoint, recipe=chosen, decisions=decisions, config=_config(checkpoint, decisions, base))


def _as_it_is(checkpoint: Checkpoint, chosen: Recipe, keep: Sequence[str]) -> Plan:
    """What becomes of a checkpoint that is packed already."""
    from gemma_mlx.quantize.exact import config_of, decisions_of

    if not any(checkpoint.quantization.values()):
        raise InputError(
            f"The recipe exact keeps how a model is packed, and {checkpoint.folder.name} is not packed.",
            f"--recipe {DEFAULT} packs it.",
        )
    if keep:
        raise InputError("The recipe exact leaves every module as it is, and --keep says how to pack some.")
    decisions = tuple(decisions_of(checkpoint, written(checkpoint)))
    return Plan(checkpoint=checkpoint, recipe=chosen, decisions=decisions, config=config_of(checkpoint, decisions))


def _decisions(
    checkpoint: Checkpoint,
    form: Format,
    base: Quantization | None,
    rules: Sequence[Rule],
    *,
    looks: bool,
    clip: bool,
    calibrated: Calibrated | None,
    before: Plan | None,
) -> Iterator[Decision]:
    names = checkpoint.match.architecture.NAMES
    seen = None if before is None else {one.source.name: one.errors for one in before.decisions}
    for parameter, tensor, kind in sorted(written(checkpoint), key=lambda each: (each[1].file, each[1].start)):
        module, _, last = parameter.rpartition(".")
        is_map = last == "weight" and len(tensor.shape) >= 2 and tensor.dtype in FLOATING
        is_map &= kind == "borrowed" or module in checkpoint.quantization or bool(re.search(TOWER_MAPS, module))
        how, errors = None, None
        if is_map:
            how = _how(form, base, module, tensor.shape[-1], kind)
        ruled = any(re.search(rule.pattern, module) for rule in rules)
        if looks and how is not None and kind == "own" and not ruled and not tensor.shape[-1] % BLOCKS_OF_32.group_size:
            errors = _on_lattice(tensor) if seen is None else seen[tensor.name]
        if errors is not None:
            how = BLOCKS_OF_32
        name = names.published(parameter)
        if how is None:
            output = Output(name=name, dtype=FLOAT if tensor.dtype in FLOATING else tensor.dtype, shape=tensor.shape)
            yield Decision(module=module, path=name, source=tensor, outputs=(output,), maps=is_map)
            continue
        path = name.removesuffix(".weight")
        method: Method = "lattice" if errors else "plain"
        if method == "plain" and how.mode == "affine":
            in_a_layer = kind == "own" and module.startswith("model.layers.")
            method = calibrated if calibrated and in_a_layer else "clip" if clip or calibrated else "plain"
        made = _packed(path, tensor.shape, how)
        yield Decision(
            module=module, path=path, source=tensor, outputs=made, how=how, method=method, maps=True, errors=errors
        )


def _calibrated(method: str, base: Quantization | None, checkpoint: Checkpoint) -> Calibrated:
    """The method, where it can be had."""
    if method not in CALIBRATED:
        raise InputError(f"{method!r} is no method; there are {', '.join(CALIBRATED)}.", "--method gptq")
    if base is None or base.mode != "affine":
        raise InputError(
            f"Calibration chooses affine codes, and this plan has {'none' if base is None else base.mode}.",
            "Leave out --mode, or --method",
        )
    spec = checkpoint.match.spec
    if not isinstance(spec, DecoderSpec) or isinstance(spec, EncoderDecoderSpec | DrafterSpec):
        raise UnsupportedModelError(
            f"Only decoders that read by themselves are calibrated, and a {checkpoint.match.model_type} is none here.",
            "--clip chooses ranges without any text.",
        )
    return method


def _how(form: Format, base: Quantization | None, module: str, columns: int, kind: str) -> Quantization | None:
    """How a matrix is packed: as a rule says, or as the rest of the decoder is."""
    rest = None if base is None or columns % base.group_size else base
    # Layers that borrow keys and values have no modules for them, so config.json can say nothing of them.
    if kind != "borrowed" and any(re.search(rule.pattern, module) for rule in form.rules):
        return form.of(module, columns)
    return None if kind == "tower" else rest


def written(checkpoint: Checkpoint) -> Iterator[tuple[str, TensorInfo, str]]:
    """(parameter, where it lies, what it is) of all that is written: the model's own tensors, those of its towers, and
    keys and values of layers that borrow them, which mlx-lm demands of a Gemma 3n."""
    names = checkpoint.match.architecture.NAMES
    folder = checkpoint.folder.resolve()
    for parameter, tensor in checkpoint.tensors.items():
        if folder in (tensor.file.parent.resolve(), tensor.file.resolve()):  # other folders come along as they are
            yield parameter, tensor, "own"
    for name, tensor in checkpoint.repacked.tensors.items():
        why = checkpoint.unread.get(name)
        if why == BORROWED:
            yield names.parameter(name), tensor, "borrowed"
        elif why is not None and why == names.why_unread(name) != COMPUTED:
            yield name, tensor, "tower"


def _packed(path: str, shape: tuple[int, ...], how: Quantization) -> tuple[Output, ...]:
    *rows, columns = shape
    groups = (*rows, columns // how.group_size)
    scale = FLOAT if how.mode == "affine" else "U8"
    made = [
        Output(name=f"{path}.weight", dtype="U32", shape=(*rows, columns * how.bits // 32)),
        Output(name=f"{path}.scales", dtype=scale, shape=groups),
    ]
    if how.mode == "affine":
        made.append(Output(name=f"{path}.biases", dtype=scale, shape=groups))
    return tuple(made)


def _on_lattice(tensor: TensorInfo) -> tuple[float, float] | None:
    """Relative errors of a sample on its lattice and as MLX packs it; None where it lies on none."""
    if not is_on_lattice(sample(tensor, FIRST_SAMPLED, 32), may_be_off=0.5):  # most tensors of most models
        return None
    blocks = sample(tensor, SAMPLED, 32)
    if not is_on_lattice(blocks):
        return None
    exact, plain = (
        relative_error(blocks, pack(blocks, BLOCKS_OF_32, method), BLOCKS_OF_32) for method in ("lattice", "plain")
    )
    return exact, plain


def _check_rules(rules: Sequence[Rule], texts: Sequence[str], decisions: Sequence[Decision]) -> None:
    for rule, text in zip(rules, texts, strict=True):
        if not any(re.search(rule.pattern, decision.module) for decision in decisions if decision.maps):
            raise InputError(
                f"--keep {text!r} finds no module of this model.",
                f"Modules are called as in {next(one.module for one in decisions if one.maps)!r}.",
            )


def _config(checkpoint: Checkpoint, decisions: Sequence[Decision], base: Quantization | None) -> dict[str, Any]:
    """config.json of what is written, with the table as mlx-lm and mlx-vlm read it."""
    config = {key: value for key, value in checkpoint.config.items() if key not in (*TABLES, "torch_dtype")}
    written: dict[str, Any] = {key: _restated(value) for key, value in config.items()} | {"dtype": "bfloat16"}
    spec = checkpoint.match.spec
    if isinstance(spec, DecoderSpec) and not spec.tied_head:
        written |= {"tie_word_embeddings": False}
    if any(decision.how is not None for decision in decisions):
        # Modules without an entry have the values for all, so these are the base's even where few modules are left.
        written |= dict.fromkeys(TABLES, table_of(checkpoint, decisions, base))
    return dict(sorted(written.items()))


def table_of(checkpoint: Checkpoint, decisions: Sequence[Decision], base: Quantization | None = None) -> dict[str, Any]:
    """The table of config.json for what is packed; without a base, the values for all are those of most."""
    keys = checkpoint.match.architecture.NAMES.table_keys
    hows = {
        output.name.removesuffix(".scales"): decision.how
        for decision in decisions
        for output in decision.outputs
        if decision.how is not None and output.name.endswith(".scales")
    }
    used = Counter(hows.values())
    common = base if base is not None and base in used else used.most_common(1)[0][0]
    entries = {key: table_entry(how) for path, how in hows.items() if how != common for key in keys(path)}
    return table_entry(common) | entries


def _restated(value: Any) -> Any:
    """A part of config.json that says which dtype it is written in."""
    if not isinstance(value, dict):
        return value
    return {key: "bfloat16" if key in _STATED and each is not None else each for key, each in value.items()}
