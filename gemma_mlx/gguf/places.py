"""GGUF files by their names: which they are, which belong together, and which hold a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SUFFIX: Final = ".gguf"

_PART: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file with the name of one."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def first_part(name: str) -> str:
    """The name of the part that holds the metadata: `name` itself where it is no part."""
    found = _PART.fullmatch(name)
    return f"{found[1]}-00001-of-{found[3]}.gguf" if found else name


def parts_of(path: Path) -> list[Path]:
    """All the files that make up the model of which `path` is one, by their names; whether they are there or not."""
    found = _PART.fullmatch(path.name)
    if found is None or not int(found[3]):
        return [path]
    return [path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf") for number in range(1, int(found[3]) + 1)]


def models(names: Iterable[str]) -> list[str]:
    """Of the names of files those of models: no towers for pictures and sound, of parts the first, sorted."""
    found = {first_part(name) for name in names if name.lower().endswith(SUFFIX) and not is_tower(name)}
    return sorted(found)


def is_tower(name: str) -> bool:
    """Whether a file holds the tower for pictures or sound, by its name: llama.cpp calls those mmproj."""
    return "mmproj" in name.lower()
