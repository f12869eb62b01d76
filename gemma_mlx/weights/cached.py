"""The models in the Hugging Face cache: what is here of each, how large it is, when it was used, and its removal.

The layout is huggingface_hub's: models--OWNER--NAME holds `blobs` (the files, named by their hashes; those that end in
.incomplete are not whole), `snapshots/COMMIT` (links to them) and `refs/main` (the commit to take).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gemma_mlx import catalog, registry
from gemma_mlx.config import read_config
from gemma_mlx.errors import ConfigError, ModelNotFoundError
from gemma_mlx.gguf.places import models, parts_of
from gemma_mlx.weights.files import INDEX, SINGLE
from gemma_mlx.weights.modules import dense_folders

_PREFIX: Final = "models--"
# Reading one of these is use; listing the cache reads configs and headers only.
_READ_BY_USE: Final = ("tokenizer.json", "tokenizer.model")


@dataclass(frozen=True, kw_only=True)
class Cached:
    """What the cache holds of one repository.

    Attributes:
        name: of the repository.
        repository: its folder in the cache.
        folder: its newest files, where all that is needed is there.
        nbytes: on the disk, unfinished files included.
        unfinished: bytes of files whose download stopped.
        used: when it was last loaded, in seconds since 1970, as far as the file system tells.
    """

    name: str
    repository: Path
    folder: Path | None
    nbytes: int
    unfinished: int
    used: float


def root() -> Path:
    """The folder of the cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository(name: str) -> Path:
    """Where the cache keeps the repository `name`, whether it is there or not."""
    return root() / f"{_PREFIX}{name.replace('/', '--')}"


def repositories() -> Iterator[tuple[str, Path]]:
    """(name, folder) of every model repository in the cache, sorted by name."""
    found = sorted(root().glob(f"{_PREFIX}*--*")) if root().is_dir() else []
    for path in found:
        if path.is_dir():
            yield path.name.removeprefix(_PREFIX).replace("--", "/", 1), path


def snapshot(repository: Path) -> Path | None:
    """The files of the branch main, as far as they are here."""
    try:
        commit = (repository / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    folder = repository / "snapshots" / commit
    return folder if re.fullmatch(r"[0-9a-fA-F]{7,64}", commit) and folder.is_dir() else None


def complete(name: str) -> Path | None:
    """The folder of a repository that is here with all its files; None where it is not."""
    folder = snapshot(repository(name))
    return folder if folder is not None and is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether every file that is needed to run is there; unfinished downloads lie elsewhere in the cache."""
    if not (folder / "config.json").exists():
        return _has_gguf(folder)
    if not any((folder / name).exists() for name in _READ_BY_USE) and not _is_drafter(folder):
        return False
    if not all((path / name).exists() for path in dense_folders(folder) for name in ("config.json", SINGLE)):
        return False
    index = folder / INDEX
    if not index.exists():
        return any(path.exists() for path in folder.glob("model*.safetensors"))
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        return all((folder / str(file)).exists() for file in set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return True  # not missing but damaged: the loader says how


def _has_gguf(folder: Path) -> bool:
    """Whether there is a GGUF file of a model, with all its parts."""
    names = models(os.listdir(folder)) if folder.is_dir() else []
    return any(all(part.exists() for part in parts_of(folder / name)) for name in names)


def near(name: str) -> list[str]:
    """Repositories that are here or in the catalogue, and are spelled almost so."""
    known = [*(model for model, _ in repositories()), *(row.repository for row in catalog.rows() if row.repository)]
    whole = {known_name.lower(): known_name for known_name in known}
    bare = {known_name.rpartition("/")[2].lower(): known_name for known_name in known}
    tail = name[-200:].rpartition("/")[2].lower()
    if tail in bare:
        return [bare[tail]]
    found = difflib.get_close_matches(name[:200].lower(), whole, 2, 0.8)
    return [whole[key] for key in found] or [bare[key] for key in difflib.get_close_matches(tail, bare, 2, 0.75)]


def _is_drafter(folder: Path) -> bool:
    try:
        return read_config(folder).get("model_type") in registry.DRAFTERS
    except ConfigError:  # damaged: the loader says how
        return False


def find(name: str) -> Cached | None:
    """What is here of the repository `name`, in whichever case it is written."""
    return next((_look(known, path) for known, path in repositories() if known.lower() == name.lower()), None)


def everything() -> list[Cached]:
    """What is here of every repository, sorted by name."""
    return [_look(name, path) for name, path in repositories()]


def _look(name: str, path: Path) -> Cached:
    sizes = dict(_sizes(path))
    newest = snapshot(path)
    folder = newest if newest is not None and is_complete(newest) else None
    return Cached(
        name=name,
        repository=path,
        folder=folder,
        nbytes=sum(sizes.values()),
        unfinished=sum(size for file, size in sizes.items() if file.endswith(".incomplete")),
        used=_used(folder or path),
    )


def _sizes(path: Path) -> Iterator[tuple[str, int]]:
    """(path, bytes) of every file below; a link counts nothing, unless it leads to another disk's store of blobs."""
    for where, _, names in os.walk(path):
        for name in names:
            file = os.path.join(where, name)
            try:
                if os.path.basename(where) == "blobs" or not os.path.islink(file):
                    yield file, os.stat(file).st_size
            except OSError:  # gone while we looked
                continue


def _used(folder: Path) -> float:
    for name in _READ_BY_USE:
        try:
            return (folder / name).stat().st_atime
        except OSError:
            continue
    return folder.stat().st_mtime


def point(name: str, commit: str) -> None:
    """Makes `commit` the one to take: from now on the repository is found."""
    refs = repository(name) / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    fresh = refs / f".main.{os.getpid()}"
    fresh.write_text(commit, encoding="ascii")
    fresh.replace(refs / "main")


def discard(path: Path) -> None:
    """Removes one file of a snapshot and, in the cache, what it links to."""
    target = Path(os.path.realpath(path))
    path.unlink(missing_ok=True)
    if target.parent.name == "blobs" and target.is_relative_to(os.path.realpath(root())):
        target.unlink(missing_ok=True)


def remove(name: str) -> int:
    """Removes the repository `name` from the cache, unfinished downloads included; returns the bytes that it took.

    Raises:
        ModelNotFoundError: it is not in the cache, or cannot be removed from it.
    """
    from huggingface_hub import scan_cache_dir

    found = find(name)
    if found is None:
        raise ModelNotFoundError(f"{name} is not in the cache {root()}.", "gemma models --here lists what is.")
    if found.repository.is_symlink():
        raise ModelNotFoundError(
            f"{found.repository} is a link to another folder, which is not the cache's to remove.",
            f"rm '{found.repository}' removes the link.",
        )
    cache = scan_cache_dir(root())
    for repo in cache.repos:
        if repo.repo_type == "model" and Path(repo.repo_path).name == found.repository.name:
            # Two repositories may have the same commits, and huggingface_hub asks for nothing but those.
            alone = replace(cache, repos=frozenset((repo,)))
            alone.delete_revisions(*(revision.commit_hash for revision in repo.revisions)).execute()
    if found.repository.exists():  # nothing but unfinished files: huggingface_hub takes it for a damaged one
        delete(found.name, found.repository)
    return found.nbytes


def delete(name: str, folder: Path) -> None:
    """Removes the folder of a model.

    Raises:
        ModelNotFoundError: it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} cannot be removed: {error.strerror or error}.", f"It lies in {folder}."
        ) from error
