"""A repository on a hub, without its weights: its configs, and the headers of its files, a few kilobytes each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from gemma_mlx.errors import UnsupportedModelError, WeightsError
from gemma_mlx.weights.cached import complete
from gemma_mlx.weights.header import write_header
from gemma_mlx.weights.hub import checked
from gemma_mlx.weights.pull import CHECK_NETWORK, listed, sentences

# What says of which kind a model is, and what its weights are in; patterns of fnmatch, from the top folder.
_TOLD: Final = ("config.json", "modules.json", "*_Pooling/config.json", "*_Dense/config.json")
_WEIGHTS: Final = ("model*.safetensors", "*_Dense/model.safetensors")


@contextmanager
def headers(name: str) -> Iterator[Path]:
    """Within it, a folder that `inspect` reads like the repository's own: its configs, and files without weights.

    The files are as long as the real ones, and hollow behind their headers, so that they take no room on the disk. A
    repository that is on this machine is taken as it lies.

    Raises:
        ModelNotFoundError: there is no such repository, or it cannot be asked.
        UnsupportedModelError: it is not in the Hugging Face layout.
        WeightsError: a file has no header.
    """
    from huggingface_hub import HfApi, constants, errors, hf_hub_download

    if (folder := complete(checked(name))) is not None:
        yield folder
        return
    absent = f"{name} is not on this machine"
    files = [file.name for file in listed(name, absent)[1]]
    if "config.json" not in files:
        raise UnsupportedModelError(
            f"{absent}, and what a GGUF file holds is seen when it is here.", f"gemma pull {name}; then ask again"
        )
    with tempfile.TemporaryDirectory(prefix="gemma-") as hollow:
        with sentences(name, f"{absent}, and {constants.ENDPOINT} stopped answering", CHECK_NETWORK):
            for file in _like(files, _TOLD):
                hf_hub_download(name, file, local_dir=hollow)
            for file in _like(files, _WEIGHTS):
                try:
                    header = HfApi().parse_safetensors_file_metadata(name, file)
                except errors.SafetensorsParsingError as error:
                    raise WeightsError(
                        f"{file} of {name} is no safetensors file: its header cannot be read.",
                        "Name another repository of the same model.",
                    ) from error
                write_header(Path(hollow, file), {key: vars(tensor) for key, tensor in header.tensors.items()})
        yield Path(hollow)


def _like(files: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    return [file for file in files if any(fnmatch(file, pattern) for pattern in patterns)]
