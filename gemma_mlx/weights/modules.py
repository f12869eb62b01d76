"""What stands behind an encoder in the layout of sentence-transformers: pooling, and linear maps in their folders.

modules.json lists the steps. Each of them is either understood or refused: a step left out would change every vector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gemma_mlx.config import MAX_FILE_BYTES, Config
from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.spec import DenseSpec, EncoderSpec
from gemma_mlx.weights.files import SINGLE
from gemma_mlx.weights.header import TensorInfo, read_header

MODULES: Final = "modules.json"
FIRST_MAP: Final = "dense.0.weight"  # ours, and how MLX programs name the maps they keep beside the other tensors

_LINEAR: Final = "linear."
_FOLDER: Final = re.compile(r"\w[\w.-]{0,100}")
_AGAIN: Final = "Fetch the model again; files that are complete are not fetched twice."
_POOLINGS: Final = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The linear maps behind the mean.

    Attributes:
        folders: where each lies.
        dense: their specs.
    """

    folders: tuple[Path, ...]
    dense: tuple[DenseSpec, ...]


def dense_folders(folder: Path) -> list[Path]:
    """The folders of linear maps that modules.json names, whether or not they are there; none where it is damaged."""
    try:
        steps = _steps(folder)
    except (ConfigError, UnsupportedModelError):
        return []
    return [folder / path for kind, path in steps if kind == "Dense"]


def with_head(
    folder: Path, spec: EncoderSpec, tensors: Mapping[str, TensorInfo]
) -> tuple[EncoderSpec, dict[str, TensorInfo], dict[str, str]]:
    """Looks for the linear maps in the encoder's own files, and then in the folders that modules.json names.

    Args:
        folder: of the checkpoint.
        spec: what config.json says.
        tensors: what the encoder's own files hold, by parameter.

    Returns:
        The spec with the maps that are there, all tensors, and file -> why it is not read.

    Raises:
        ConfigError: modules.json, or the config of a step, cannot be read or does not fit.
        UnsupportedModelError: a step is none that EmbeddingGemma has.
        WeightsError: a map is missing, or its file is damaged.
    """
    head = _read_head(folder)
    found = dict(tensors)
    if FIRST_MAP in tensors:
        if head is not None and head.dense and head.dense != spec.dense:
            raise UnsupportedModelError(
                f"{folder} holds linear maps both beside its other tensors and in folders that {MODULES} names, and "
                "they are not the same ones.",
                "Use the checkpoint this one was made from.",
            )
        again = [] if head is None else [f"{path.name}/{SINGLE}" for path in head.folders if path.exists()]
        return spec, found, dict.fromkeys(again, "the linear maps are beside the other tensors as well")
    if head is None:
        raise WeightsError(
            f"{folder} holds an encoder without the linear maps behind it, and no {MODULES} that says where they are.",
            f"They lie in folders such as 2_Dense. {_AGAIN}",
        )
    for number, path in enumerate(head.folders):
        stored = _read_map(path, head.dense[number])
        found |= {f"dense.{number}.{name.removeprefix(_LINEAR)}": tensor for name, tensor in stored.items()}
    return replace(spec, dense=head.dense), found, {}


def _read_map(path: Path, spec: DenseSpec) -> dict[str, TensorInfo]:
    file = path / SINGLE
    if not file.exists():
        raise WeightsError(f"{MODULES} names {path.name}, and {file} is not there.", _AGAIN)
    stored = read_header(file)
    wanted = {f"{_LINEAR}weight": (spec.outputs, spec.inputs)} | (
        {f"{_LINEAR}bias": (spec.outputs,)} if spec.bias else {}
    )
    if stored.keys() != wanted.keys():
        raise WeightsError(
            f"{file} holds {', '.join(sorted(stored)) or 'nothing'}, and should hold {', '.join(wanted)}.", _AGAIN
        )
    for name, shape in wanted.items():
        if stored[name].shape != shape:
            raise WeightsError(
                f"The tensor {name!r} in {file} is {list(stored[name].shape)}, and config.json beside it says "
                f"{list(shape)}.",
                _AGAIN,
            )
    return stored


def _read_head(folder: Path) -> Head | None:
    if not (folder / MODULES).exists():
        return None
    steps = _steps(folder)
    kinds = [kind for kind, _ in steps]
    maps = [folder / path for kind, path in steps if kind == "Dense"]
    if kinds not in (["Transformer", "Pooling", *["Dense"] * len(maps), *end] for end in ([], ["Normalize"])):
        raise UnsupportedModelError(
            f"{folder / MODULES} lists the steps {', '.join(kinds)[:200]}; gemma knows Transformer, Pooling, "
            "any number of Dense, and Normalize, in this order.",
            "Use sentence-transformers for this checkpoint.",
        )
    _check_pooling(folder / steps[1][1])
    dense = tuple(_read_dense(path) for path in maps)
    for before, after, path in zip(dense, dense[1:], maps[1:], strict=False):
        if before.outputs != after.inputs:
            raise ConfigError(
                f"{path / 'config.json'} takes {after.inputs} numbers, and the map before it gives {before.outputs}.",
                _AGAIN,
            )
    return Head(folders=tuple(maps), dense=dense)


def _steps(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each step; what stands before the kind is where sentence-transformers keeps its class."""
    file = folder / MODULES
    if not file.exists():
        return []
    steps = _read_json(file)
    found = []
    for step in steps if isinstance(steps, list) else [None]:
        kind, path = (step.get("type"), step.get("path")) if isinstance(step, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or not (path == "" or _FOLDER.fullmatch(path)):
            raise ConfigError(
                f"{file} must be a list of steps, each with the 'type' of a class and the 'path' of a folder.",
                "Fetch the file again, or undo the edit.",
            )
        found.append((kind.rpartition(".")[2], path))
    return found


def _check_pooling(path: Path) -> None:
    config = _section(path)
    mean = config.flag("pooling_mode_mean_tokens", False) or config.raw("pooling_mode", None) in ("mean", ["mean"])
    others = [mode for mode in _POOLINGS if config.flag(f"pooling_mode_{mode}", False)]
    if not mean or others or not config.flag("include_prompt", True):
        raise UnsupportedModelError(
            f"{path / 'config.json'} pools in another way than by the mean over all tokens, which gemma knows alone.",
            "Use sentence-transformers for this checkpoint.",
        )
    for key in ("word_embedding_dimension", "embedding_dimension"):
        config.raw(key, None)
    config.finish()


def _read_dense(path: Path) -> DenseSpec:
    config = _section(path)
    spec = DenseSpec(
        inputs=config.integer("in_features", high=1 << 20),
        outputs=config.integer("out_features", high=1 << 20),
        bias=config.flag("bias", True),
    )
    identity = ("torch.nn.modules.linear.Identity", "torch.nn.Identity")
    config.one_of("activation_function", identity)
    for key in ("module_input_name", "module_output_name"):
        config.one_of(key, ("sentence_embedding", None), None)
    config.finish()
    return spec


def _section(path: Path) -> Config:
    file = path / "config.json"
    values = _read_json(file)
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a JSON {type(values).__name__}, not an object.", _AGAIN)
    return Config(values, f"{path.name}/config.json")


def _read_json(file: Path) -> Any:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{file} is {file.stat().st_size:,} bytes long, too long for what it is.", _AGAIN)
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there, and {MODULES} names its folder.", _AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}.", _AGAIN) from error
