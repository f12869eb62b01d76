"""Models that were packed on this machine under a name of the catalogue: where they are kept.

Beside the Hugging Face cache and not in it, whose folders are huggingface_hub's to lay out: HF_HOME moves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemma_mlx import catalog
from gemma_mlx.catalog import Row
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import cached


@dataclass(frozen=True, kw_only=True)
class Made:
    """A model that was packed here.

    Attributes:
        name: to type.
        row: of the catalogue: what it was made of.
        form: the variant.
        folder: its files.
    """

    name: str
    row: Row
    form: str
    folder: Path

    @property
    def nbytes(self) -> int:
        """Of its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def root() -> Path:
    """The folder they are in."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "gemma-mlx"


def folder(row: Row, form: str) -> Path:
    """Where a variant of a model is kept, whether it is there or not."""
    return root() / f"{row.name}-{catalog.FORMS[form][0]}"


def everything() -> list[Made]:
    """All that are here, sorted by name of the folder."""
    found = []
    for path in sorted(root().glob("*")) if root().is_dir() else []:
        if path.name.startswith(".") or not (path / "config.json").exists():
            continue
        try:
            meant = catalog.meant(path.name)
        except ModelNotFoundError:  # no folder of ours
            continue
        if meant.form is not None and folder(meant.row, meant.form) == path:
            name = catalog.spelled(meant.row, meant.form)
            found.append(Made(name=name, row=meant.row, form=meant.form, folder=path))
    return found


def find(row: Row, form: str) -> Made | None:
    """A variant of a model, if it was made."""
    return next((made for made in everything() if made.row is row and made.form == form), None)


def remove(made: Made) -> int:
    """Removes it; returns the bytes that it took.

    Raises:
        ModelNotFoundError: it cannot be removed.
    """
    nbytes = made.nbytes
    cached.delete(made.name, made.folder)
    return nbytes
