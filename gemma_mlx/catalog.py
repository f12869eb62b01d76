"""Every published Gemma: what it is called, where it lies, how large it is, and what it reads.

The rows are in catalog.json, one to a line; models that share their dimensions share a network there. Nothing here asks
a network or the disk: which of these models a version runs is the registry's to say.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from gemma_mlx.errors import ModelNotFoundError

_FILE: Final = Path(__file__).with_name("catalog.json")
# A size alone means the newest generation that has it.
_NEWEST_FIRST: Final = ("gemma-4-", "gemma-3n-", "gemma-3-", "gemma-2-", "gemma-1.1-", "gemma-1-")
_SHOWN: Final = 6


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many numbers a network holds, by part; counted on the reference's classes.

    Attributes:
        embedding: the tables of tokens, each counted once where it is the output head as well.
        text: the layers, norms and maps of the language side.
        per_layer: the tables of per-layer embeddings.
        experts: the sparse part of the feed-forwards.
        dense: linear maps behind an encoder.
        vision: what reads pictures.
        audio: what reads sound.
        projector: between the picture tower and the decoder, where it is counted apart.
        buffers: numbers that the files hold besides; none of the others counts them.
    """

    embedding: int
    text: int
    per_layer: int = 0
    experts: int = 0
    dense: int = 0
    vision: int = 0
    audio: int = 0
    projector: int = 0
    buffers: int = 0

    @property
    def language(self) -> int:
        """What reading and writing text needs."""
        return self.embedding + self.text + self.per_layer + self.experts + self.dense

    @property
    def total(self) -> int:
        """All of it, without buffers."""
        return self.language + self.vision + self.audio + self.projector


@dataclass(frozen=True, kw_only=True)
class Network:
    """Dimensions that one or more models share.

    Attributes:
        name: of the network, after the first of its models.
        parameters: how many, by part.
        active: those that take part in one token, where that is far fewer: without per-layer tables, towers, and
            experts that are not asked.
        config: the keys of config.json that say its dimensions.
    """

    name: str
    parameters: Parameters
    active: int | None = None
    config: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published model.

    Attributes:
        name: the repository's name without its owner.
        repository: "owner/name" on Hugging Face; None where it is not there as one repository.
        short: the shortest name that means this model and no other; None where it has none.
        also: other short names.
        generation: "Gemma 3", "MedGemma", ...; "Derivative" where it is not by Google.
        model_type: config.json's; None where it has none.
        network: its dimensions; None where they are not known.
        context: positions it was trained for.
        modalities: what it reads: "text", "image", "audio", "video".
        variant: "it" follows instructions, "pt" continues text; others as their names have them.
        qat: the quantization it was trained for.
        format: of its weights: "safetensors", "gguf", "compressed-tensors", "gemma"; `registry.FORMATS` has those
            that this program reads.
        stored: numbers in its files, where that is known and more than its parameters.
        license: as its page names it; None where that is not known.
        confidence: "verified" where its id and dimensions were seen in published files or code, else "likely" or
            "unsure".
        note: what a user should know besides.
    """

    name: str
    repository: str | None = None
    short: str | None = None
    also: tuple[str, ...] = ()
    generation: str
    model_type: str | None = None
    network: Network | None = None
    context: int | None = None
    modalities: tuple[str, ...]
    variant: str
    qat: str | None = None
    format: str = "safetensors"
    stored: int | None = None
    license: str | None = None
    confidence: str
    note: str | None = None

    @property
    def label(self) -> str:
        """The shortest name to type."""
        return self.short or self.repository or self.name

    def nbytes(self, bits: float = 16) -> int | None:
        """About the bytes of its weights' files at so many bits for each; None where its dimensions are not known."""
        if self.network is None:
            return None
        return int((self.stored or self.network.parameters.total + self.network.parameters.buffers) * bits / 8)


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A repository that holds a model packed.

    Attributes:
        repository: "owner/name" on Hugging Face.
        row: the model that is packed there.
        form: in which variant, one of FORMS.
        format: of its weights, as in `Row`.
        nbytes: of its files; None where nobody told.
        source: where its id was read.
    """

    repository: str
    row: Row
    form: str
    format: str = "safetensors"
    nbytes: int | None = None
    source: str


# Variant -> how it is spelled behind a name, with dashes between words: here, and in other programs.
FORMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "bf16": ("bf16", "fp16", "f16", "16bit", "16-bit"),
        "8-bit": ("8bit", "8-bit", "q8", "q8-0"),
        "6-bit": ("6bit", "6-bit", "q6", "q6-k"),
        "QAT": ("qat", "qat-4bit", "qat-4-bit", "qat-q4-0"),
        "mixed": ("mixed",),
        "4-bit": ("4bit", "4-bit", "q4", "q4-0", "q4-k-m", "q4-k-s"),
    }
)
TRAINED: Final = "q4_0"  # the QAT that can be packed without loss, and is meant by the variant
_PACKED_QAT: Final = (TRAINED, "w4a16")


@dataclass(frozen=True, kw_only=True)
class Meant:
    """What a name means.

    Attributes:
        row: the model.
        form: the variant of it that was named; None where the choice is left open.
        exact: whether a repository was named, and nothing is to be chosen.
    """

    row: Row
    form: str | None = None
    exact: bool = False


@cache
def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


@cache
def rows() -> tuple[Row, ...]:
    """Every model, sorted by name."""
    read = _read()
    networks = {
        name: Network(
            name=name,
            parameters=Parameters(**values["parameters"]),
            active=values.get("active"),
            config=MappingProxyType(values["config"]),
        )
        for name, values in read["networks"].items()
    }
    return tuple(_row(dict(values), networks) for values in read["models"])


@cache
def packed() -> tuple[Packed, ...]:
    """Every repository that is known to hold a model packed: its owner's first, and GGUF, which lacks towers, last."""
    named_ = {row.name: row for row in rows()}
    own = [
        Packed(repository=row.repository, row=plain, form="QAT", format=row.format, source="the owner of the model")
        for row in rows()
        if row.repository is not None and row.format != "safetensors" and row.qat in _PACKED_QAT
        if (plain := kin(row, None)) is not None
    ]
    others = [Packed(row=named_[values.pop("of")], **values) for values in map(dict, _read()["packed"])]
    return tuple(sorted((*own, *others), key=lambda each: each.format == "gguf"))


def kin(row: Row, qat: str | None) -> Row | None:
    """The model as `row` is, but trained for that quantization, or for none: itself where it is that one."""
    same = (row.network, row.generation, row.variant)
    found = [
        other
        for other in rows()
        if (other.network, other.generation, other.variant) == same
        and other.qat == qat
        and other.format == "safetensors"
        and other.repository is not None
    ]
    stem = row.name.partition("-qat")[0]
    return next((other for other in found if other.name.partition("-qat")[0] == stem), None)


def _row(values: dict[str, Any], networks: Mapping[str, Network]) -> Row:
    network = networks[values.pop("network")] if "network" in values else None
    if network is not None:
        values = {"model_type": network.config["model_type"]} | values
    lists: dict[str, Any] = {key: tuple(values.pop(key)) for key in ("also", "modalities") if key in values}
    return Row(**values, **lists, network=network)


def find(name: str) -> Row:
    """The model that `name` means.

    A repository's id, or its name without the owner, is that repository. Any other spelling is read as family, size and
    variant, with whatever stands between them: `gemma3:4b`, `Gemma 3 4B`, `3:4b-it`, `e4b`. Without a variant it means
    the one that follows instructions; without a generation, the newest of that size.

    Raises:
        ModelNotFoundError: it means no model, or several.
    """
    named = _index()
    key = _key(name)
    row = named.exact.get(name.strip().lower()) or named.keys.get(key) or named.keys.get(key.replace("-it-", "-"))
    if row is not None:
        return row
    shown = repr(name if len(name) <= 60 else name[:57] + "...")
    several = named.within(key)
    if len(several) > 1:
        more = f" and {len(several) - _SHOWN} more" if len(several) > _SHOWN else ""
        raise ModelNotFoundError(
            f"{shown} is {len(several)} models: {', '.join(several[:_SHOWN])}{more}.",
            f"Name one of them, for example {several[0]}",
        )
    near = several or named.near(key)
    raise ModelNotFoundError(
        f"{shown} is no published Gemma.",
        f"Did you mean {' or '.join(near)}?"
        if near
        else "Names look like gemma3:4b or google/gemma-3-4b-it; the path of a folder does, too.",
    )


def meant(name: str) -> Meant:
    """The model that `name` means, and the variant of it where one is named: `12b:8bit`, `gemma3:4b-it-q8_0`, `4b-qat`.

    Raises:
        ModelNotFoundError: as `find` does; or the model has no such variant.
    """
    index, key = _index(), _key(name)
    if (row := index.exact.get(name.strip().lower())) is not None:
        return Meant(row=row, exact=True)
    spelled = sorted(((word, form) for form, words in FORMS.items() for word in words), key=lambda each: -len(each[0]))
    ending = next(((word, form) for word, form in spelled if key.endswith(f"-{word}")), None)
    if key not in index.keys and ending is not None:
        row = find(_before(name, key.removesuffix(f"-{ending[0]}")))
        if ending[1] == "QAT" and kin(row, TRAINED) is None:
            raise ModelNotFoundError(f"{row.label} was never trained for 4 bits (QAT).", f"gemma fit {row.label}")
        return Meant(row=row, form=ending[1])
    if key not in index.keys and (odd := re.search(r"-(\d+)-?bits?\Z", key)) is not None:
        raise ModelNotFoundError(
            f"There is no variant of {odd[1]} bits; there are {', '.join(FORMS)}.",
            f"{_before(name, key[: odd.start()])}:8bit",
        )
    row = find(name)
    plain = kin(row, None) if row.qat == TRAINED and row.format == "safetensors" else None
    return Meant(row=row) if plain is None else Meant(row=plain, form="QAT")


def spelled(row: Row, form: str) -> str:
    """What to type for a variant of a model: gemma3:4b:8bit."""
    return f"{row.label}:{FORMS[form][0]}"


def _before(name: str, key: str) -> str:
    """The beginning of `name` that has this key, as it was typed: gemma4:12b and gemma-4-12b are two models."""
    return next((name[:end] for end in range(len(name), 0, -1) if _key(name[:end]) == key), key).rstrip(" _:@/-")


def named(repository: str) -> Row | None:
    """The model that this repository is."""
    return next((row for row in rows() if row.repository and row.repository.lower() == repository.lower()), None)


def matching(words: Sequence[str] = (), family: str | None = None) -> list[Row]:
    """The models whose names have all of `words`, newest generation first and then by size.

    Args:
        words: parts of names as people type them: "4", "3n", "e4b", "medgemma", "qat".
        family: a generation: "Gemma 4", "medgemma".

    Raises:
        ModelNotFoundError: there is no such family.
    """
    families = {_key(row.generation): row.generation for row in rows()}
    if family is not None and _key(family) not in families:
        near = difflib.get_close_matches(_key(family), families, 3, 0.6)
        raise ModelNotFoundError(
            f"{family!r} is no family of Gemma.",
            f"Did you mean {' or '.join(families[key] for key in near)}?"
            if near
            else f"There are {', '.join(sorted(set(families.values())))}.",
        )
    asked = Counter(word for text in words for word in _key(text).split("-"))
    found = [
        row
        for row in rows()
        if (family is None or _key(row.generation) == _key(family))
        and any(asked <= Counter(_key(text).split("-")) for text in (row.name, *filter(None, (row.short, *row.also))))
    ]
    return sorted(found, key=_newest_and_smallest)


def _key(name: str) -> str:
    """Family, size and variant in lower case, with dashes between them."""
    key = re.sub(r"[\s_:@/-]+", "-", name.strip().lower().removeprefix("google/")).strip("-")
    key = re.sub(r"gemma(?=\d)", "gemma-", key)
    for pattern, replacement in ((r"-latest\Z", ""), (r"-instruct\b", "-it"), (r"-base\Z", "-pt")):
        key = re.sub(pattern, replacement, key)
    return key


@dataclass(frozen=True)
class _Index:
    """Names, lower-cased -> models: as repositories have them, and as people type them."""

    exact: Mapping[str, Row]
    keys: Mapping[str, Row]

    def within(self, key: str) -> list[str]:
        """Names to type of the models that have all of these words; of those, the ones that follow instructions."""
        words = Counter(key.split("-"))
        found = [row for row in rows() if row.short and words <= Counter(_key(row.short).split("-"))]
        chosen = [row for row in found if row.variant == "it" and row.qat is None] or found
        return [row.label for row in sorted(chosen, key=_newest_and_smallest)]

    def near(self, key: str) -> list[str]:
        """Names to type that are spelled almost so."""
        found = difflib.get_close_matches(key[:80], self.keys, 3, 0.7)
        return list(dict.fromkeys(self.keys[other].label for other in found))


def _newest_and_smallest(row: Row) -> tuple[int, int]:
    age = [index for index, start in enumerate(_NEWEST_FIRST) if _key(row.label).startswith(start)]
    return (*age, len(_NEWEST_FIRST))[0], row.network.parameters.total if row.network else 0


@cache
def _index() -> _Index:
    exact = {name.lower(): row for row in rows() for name in (row.name, row.repository) if name}
    keys: dict[str, Row] = {}
    for row in rows():  # what people type comes before what a repository is called: gemma2:2b is not gemma-2-2b
        for short in (row.short, *row.also):
            if short:
                keys[_key(short)] = row
    for row in rows():
        for key in [key for key, other in keys.items() if other is row and row.variant == "it"]:
            keys.setdefault(f"{key}-it", row)
        for name in (row.name, row.repository):
            keys.setdefault(_key(name or row.name), row)
    for start in _NEWEST_FIRST:
        for key, row in [item for item in keys.items() if item[0].startswith(start)]:
            keys.setdefault(key.removeprefix("gemma-"), row)
            keys.setdefault(key.removeprefix(start), row)
    return _Index(exact, keys)
