"""Which files of a folder hold the weights: one, several under an index, or none that can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gemma_mlx.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from gemma_mlx.gguf.places import SUFFIX, is_gguf, models
from gemma_mlx.gguf.reader import read_gguf
from gemma_mlx.weights.header import TensorInfo, read_header

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
MAX_INDEX_BYTES: Final = 32 << 20

_PART: Final = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")

# Files left on the disk, and why.
SET_ASIDE: Final[tuple[tuple[str, str], ...]] = (
    (r"consolidated.*\.safetensors", "the same weights once more, in the layout of another program"),
    (r"(optimizer|scheduler|random_states|training_args).*\.safetensors", "the state of a training run"),
)

_GET_SAFETENSORS: Final = (
    "Fetch the original repository in safetensors form, for example: gemma chat google/gemma-3-1b-it"
)

# Suffix -> what such a folder is, and what to do. The first that is found is told.
FOREIGN: Final[tuple[tuple[tuple[str, ...], str, str], ...]] = (
    ((".ggml",), "GGML files, which llama.cpp wrote before GGUF", _GET_SAFETENSORS),
    (
        (".bin", ".pt", ".pth", ".ckpt"),
        "PyTorch pickles, which can run any program when they are read",
        "Load it with transformers and save it again as safetensors: model.save_pretrained(FOLDER).",
    ),
    ((".npz",), "NumPy archives, which early MLX examples wrote", _GET_SAFETENSORS),
    ((".h5", ".keras"), "Keras files", _GET_SAFETENSORS),
    ((".msgpack",), "Flax files", _GET_SAFETENSORS),
    ((".task", ".tflite", ".litertlm"), "files for LiteRT, Google's runtime for phones", _GET_SAFETENSORS),
    ((".onnx",), "ONNX files", _GET_SAFETENSORS),
    ((".sbs",), "files of gemma.cpp", _GET_SAFETENSORS),
    (("_metadata", "_checkpoint_metadata"), "an Orbax checkpoint, as Google's JAX code reads it", _GET_SAFETENSORS),
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The tensors of a folder.

    Attributes:
        tensors: by the name the files give them.
        unread: file name -> why it is left on the disk.
    """

    tensors: Mapping[str, TensorInfo]
    unread: Mapping[str, str]


def check_folder(folder: Path) -> None:
    """Sees whether `folder` may hold a checkpoint at all.

    Raises:
        ModelNotFoundError: there is no such folder, or it is empty.
        UnsupportedModelError: it holds weights of another program only.
        WeightsError: it holds no weights.
    """
    if is_gguf(folder):
        read_gguf(folder)
        return
    if folder.is_file():
        where = folder.parent
        raise ModelNotFoundError(
            f"{folder} is a file; a checkpoint is the folder that holds it.", f"gemma chat '{where}'"
        )
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ModelNotFoundError(
            f"The folder {folder} cannot be read: {error.strerror or error}.",
            "Name a folder with config.json and *.safetensors, or a repository such as google/gemma-3-1b-it.",
        ) from error
    if not names:
        raise ModelNotFoundError(f"The folder {folder} is empty.", _GET_SAFETENSORS)
    check_names(f"The folder {folder}", names)


def check_names(where: str, names: Sequence[str]) -> None:
    """Sees whether files of these names may be a checkpoint; `where` begins the sentence if not.

    Raises:
        UnsupportedModelError: they are weights of another program only.
        WeightsError: there are no weights among them.
    """
    if any(name.endswith(".safetensors") for name in names) or models(names):
        return
    if any(name.lower().endswith(SUFFIX) for name in names):
        raise UnsupportedModelError(
            f"{where} holds the tower for pictures or sound of a model (llama.cpp's mmproj), and not the model.",
            "Fetch the other GGUF file of its repository, too.",
        )
    for suffixes, what, hint in FOREIGN:
        found = [name for name in names if name.lower().endswith(suffixes)]
        if found:
            raise UnsupportedModelError(f"{where} holds {what} ({found[0]}), and no safetensors files.", hint)
    raise WeightsError(
        f"{where} holds no *.safetensors file, so there are no weights to read.",
        "Name one that holds them; after a download that stopped, fetch the model again.",
    )


def located(folder: Path) -> Path:
    """Where the checkpoint in `folder` is: the folder itself, or the GGUF file in it, where it holds no safetensors.

    A GGUF file stands for a folder, wherever one is asked for.

    Raises:
        WeightsError: it holds several GGUF files.
    """
    if not folder.is_dir():
        return folder
    names = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if any(name.endswith(".safetensors") for name in names) or not (found := models(names)):
        return folder
    if len(found) > 1:
        raise WeightsError(
            f"{folder} holds {len(found)} GGUF files of models: {_few(found)}.",
            f"Name one: gemma chat '{folder / found[0]}'",
        )
    return folder / found[0]


def stamps(files: Iterable[Path]) -> list[list[str | int]]:
    """[path, bytes, time of the last change] of each file, sorted: the same only for the same files."""
    return sorted([str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files)


def stored_tensors(folder: Path) -> Stored:
    """Every tensor of the checkpoint in `folder`, from the headers alone.

    Raises:
        WeightsError: a file is damaged or missing, or the folder holds more than one checkpoint.
        UnsupportedModelError: a GGUF file holds another model, or numbers that MLX has no like of.
    """
    if is_gguf(folder):
        from gemma_mlx.weights.gguf import stored_in_gguf  # which makes what is defined here

        return stored_in_gguf(folder)
    names = {
        path.name for path in folder.iterdir() if path.name.endswith(".safetensors") and not path.name.startswith(".")
    }
    unread = {name: why for name in sorted(names) for pattern, why in SET_ASIDE if re.fullmatch(pattern, name)}
    names -= unread.keys()
    index = folder / INDEX
    if index.is_symlink() or index.exists():
        return Stored(tensors=_indexed(folder, _read_index(index, names), names), unread=unread)
    return Stored(tensors=_unindexed(folder, names), unread=unread)


def _unindexed(folder: Path, names: set[str]) -> dict[str, TensorInfo]:
    strangers = sorted(name for name in names if not name.startswith("model"))
    if strangers:
        raise _stranger(folder, strangers)
    if not names:
        raise WeightsError(
            f"{folder} holds no {SINGLE} and none of its parts.", "Fetch the model again; the weights are missing."
        )
    parts = {name: match for name in names if (match := _PART.fullmatch(name))}
    if parts and len(parts) < len(names):
        other = min(names - parts.keys())
        raise WeightsError(
            f"{folder} holds both {other} and {min(parts)}, which are two checkpoints.",
            "Keep the files of one of them.",
        )
    totals = {int(match[2]) for match in parts.values()}
    if len(totals) > 1:
        raise WeightsError(
            f"{folder} mixes checkpoints of {' and '.join(map(str, sorted(totals)))} files.",
            "Fetch the model again into an empty folder.",
        )
    numbers = {int(match[1]) for match in parts.values()}
    missing = sorted(set(range(1, min(max(totals), 100_000) + 1)) - numbers) if totals else []
    if missing:
        raise WeightsError(
            f"{folder} holds {len(parts)} of the {max(totals)} files of its weights; number {missing[0]} is missing.",
            "Fetch the model again; files that are complete are not fetched twice.",
        )
    tensors: dict[str, TensorInfo] = {}
    for name in sorted(names):
        for tensor, info in read_header(folder / name).items():
            if tensor in tensors:
                raise WeightsError(
                    f"The tensor {tensor!r} is both in {tensors[tensor].file.name} and in {name}.",
                    "Two checkpoints are mixed in one folder; keep the files of one of them.",
                )
            tensors[tensor] = info
    return tensors


def _indexed(folder: Path, weight_map: Mapping[str, str], names: set[str]) -> dict[str, TensorInfo]:
    wanted = sorted(set(weight_map.values()))
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        hint = "Fetch the model again; files that are complete are not fetched twice."
        if SINGLE in names and SINGLE not in wanted:
            hint = f"If {SINGLE} is the whole model, the index is a leftover: delete {INDEX}."
        raise WeightsError(
            f"{folder / INDEX} names {len(wanted)} files; {len(missing)} of them cannot be found: {_few(missing)}.",
            hint,
        )
    strangers = sorted(names - set(wanted))
    if strangers:
        if strangers[0].startswith("model"):
            raise WeightsError(
                f"{folder} holds {_few(strangers)}, which its index does not name: two checkpoints may be mixed in it.",
                "Keep the files of one of them, or fetch the model again into an empty folder.",
            )
        raise _stranger(folder, strangers)
    tensors: dict[str, TensorInfo] = {}
    for name in wanted:
        found = read_header(folder / name)
        lost = sorted(tensor for tensor, file in weight_map.items() if file == name and tensor not in found)
        if lost:
            raise WeightsError(
                f"{name} lacks {len(lost)} of the tensors that the index says it holds: {_few(lost)}.",
                "Index and files belong to different checkpoints; fetch the model again into an empty folder.",
            )
        extra = sorted(tensor for tensor in found if weight_map.get(tensor) != name)
        if extra:
            raise WeightsError(
                f"{name} holds what the index does not place there: {_few(extra)}.",
                "Index and files belong to different checkpoints; fetch the model again into an empty folder.",
            )
        tensors |= found
    return tensors


def _read_index(path: Path, names: set[str]) -> dict[str, str]:
    again = "Fetch the file again."
    if names == {SINGLE}:
        again = f"If {SINGLE} is the whole model, delete {INDEX}; else fetch the model again."
    try:
        size = path.stat().st_size
        if size > MAX_INDEX_BYTES:
            raise WeightsError(f"{path} is {size:,} bytes long, too long for an index.", again)
        values: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", again) from error
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise WeightsError(f"{path} is not JSON: {what}.", again) from error
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path} has no 'weight_map', which says where each tensor lies.", again)
    for tensor, name in weight_map.items():
        # A name with a folder in it could lead anywhere on this machine.
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.+-]{0,200}\.safetensors", name):
            raise WeightsError(
                f"{path} places {tensor!r} in {str(name)[:80]!r}, which is no name of a safetensors file beside it.",
                again,
            )
    return weight_map


def _stranger(folder: Path, names: list[str]) -> WeightsError:
    if names[0].startswith("adapter"):
        return WeightsError(
            f"{folder} holds an adapter ({names[0]}), which this version does not apply.",
            "Merge it into its model first: mlx_lm.fuse, or merge_and_unload() of peft.",
        )
    return WeightsError(
        f"{folder} holds {_few(names)}, which belongs to no checkpoint in the Hugging Face layout.",
        "The weights must be in model.safetensors or model-00001-of-0000N.safetensors; move other files away.",
    )


def _few(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
