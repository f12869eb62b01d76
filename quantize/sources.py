"""Where a model in a format comes from: a repository that holds it ready, or one that it is packed out of here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from gemma_mlx import catalog, registry
from gemma_mlx.catalog import Row

# Bits for each weight that files of a variant may hold: some are called 4-bit, and most of them is in 8.
_MOST_BITS: Final[Mapping[str, float]] = MappingProxyType(
    {"8-bit": 10.0, "6-bit": 8.0, "QAT": 6.5, "mixed": 7.0, "4-bit": 6.0}
)
_BESIDE_BYTES: Final = 200_000_000  # a tokenizer, and in small models a head that is stored twice


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository, and what becomes of it.

    Attributes:
        repository: its id.
        ready: whether it holds the format; else that is made of it on this machine.
        nbytes: about those of its files; None where nobody told.
    """

    repository: str
    ready: bool
    nbytes: int | None


def of(row: Row, form: str) -> Source | None:
    """The source of a model in a format; None where it cannot be had.

    A repository that holds it packed, in a format that this version reads, comes before packing it here: it is smaller
    to fetch. Those of the model's own owner come first.
    """
    return ready(row, form) or raw(row, form)


def ready(row: Row, form: str) -> Source | None:
    """The repository that holds a model in a format; None where none does that this version reads.

    Files that are known to hold many more bits than their name says are no files of that format.
    """
    if not _known(row):
        return None
    if form == "bf16" and row.repository is not None:
        return Source(repository=row.repository, ready=True, nbytes=row.nbytes())
    for packed in catalog.packed():
        if packed.row is row and packed.form == form and registry.reads(packed.format) and not _belied(packed):
            return Source(repository=packed.repository, ready=True, nbytes=packed.nbytes)
    return None


def raw(row: Row, form: str) -> Source | None:
    """The repository out of which a model can be packed into a format: one that was trained for it, for QAT."""
    plain = catalog.kin(row, catalog.TRAINED) if form == "QAT" else row
    if form == "bf16" or not _known(row) or plain is None or plain.repository is None:
        return None
    return Source(repository=plain.repository, ready=False, nbytes=plain.nbytes())


def _known(row: Row) -> bool:
    return row.repository is not None and row.network is not None and registry.reads(row.format)


def _belied(packed: catalog.Packed) -> bool:
    network = packed.row.network
    if packed.nbytes is None or network is None:
        return False
    parts = network.parameters
    most = parts.language * _MOST_BITS[packed.form] / 8 + 2 * (parts.total - parts.language) + _BESIDE_BYTES
    return packed.nbytes > most
