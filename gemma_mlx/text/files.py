"""Reading a checkpoint's small text files, with a sentence for each way they can be broken.

Where a GGUF file stands for the checkpoint, they are made of what it holds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemma_mlx.errors import CheckpointError, TemplateError
from gemma_mlx.gguf.documents import document, names

_LFS_POINTER = b"version https://git-lfs.github.com/"
_FETCH_AGAIN = "Fetch the file again."


def exists(path: Path) -> bool:
    """Whether a checkpoint has the file `path`."""
    return path.exists() or path.name in names(path.parent)


def read_bytes(path: Path, limit_bytes: int, error: type[CheckpointError | TemplateError]) -> bytes:
    """The content of `path`.

    Raises:
        error: the file cannot be read, is empty, is larger than `limit_bytes`, or is a Git LFS pointer.
    """
    if (made := document(path.parent, path.name)) is not None:
        return made
    try:
        size = path.stat().st_size
        if size > limit_bytes:
            raise error(
                f"{path} is {size:,} bytes long, and no more than {limit_bytes:,} were expected.",
                "This is something else under its name. " + _FETCH_AGAIN,
            )
        data = path.read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    if not data or data.isspace():
        raise error(f"{path} is empty.", _FETCH_AGAIN)
    if data.startswith(_LFS_POINTER):
        raise error(f"{path} is a Git LFS pointer, not the file itself.", f"git -C '{path.parent}' lfs pull")
    return data


def read_text(path: Path, limit_bytes: int, error: type[CheckpointError | TemplateError]) -> str:
    """The content of a UTF-8 file.

    Raises:
        error: as `read_bytes`, or the bytes are not UTF-8.
    """
    try:
        return read_bytes(path, limit_bytes, error).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        wrong = problem.object[problem.start]
        raise error(f"{path} is not UTF-8: byte {problem.start:,} is {wrong:#04x}.", _FETCH_AGAIN) from problem


def read_json_object(path: Path, limit_bytes: int, error: type[CheckpointError | TemplateError]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        error: as `read_text`, or the text is not JSON, or not an object.
    """
    text = read_text(path, limit_bytes, error)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        what = "it is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise error(f"{path} is not JSON: {what}.", _FETCH_AGAIN) from problem
    if not isinstance(value, dict):
        raise error(f"{path} holds a JSON {type(value).__name__}, and an object was expected.")
    return value
