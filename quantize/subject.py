"""What is judged: a model's specs, what its weights take in every format, and the towers beside it.

Known from the catalogue, from a checkpoint's headers on this machine, or from those of a repository on a hub. No weight
is read: the model that would run is built, and not evaluated.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from gemma_mlx import catalog, registry
from gemma_mlx.catalog import Row
from gemma_mlx.errors import GemmaError, UnsupportedModelError
from gemma_mlx.quantize.formats import FORMATS, Format
from gemma_mlx.quantize.memory import How, Spec
from gemma_mlx.quantize.traffic import Traffic, traffic
from gemma_mlx.registry import Match
from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderDecoderSpec
from gemma_mlx.weights import hub, remote
from gemma_mlx.weights.files import stored_tensors
from gemma_mlx.weights.load import Checkpoint, inspect

# Where config.json does not say: 256 or 280 soft tokens a picture, 40 ms of sound a token.
_PICTURE_TOKENS: Final = 280
_MILLISECONDS: Final = 40
_CLIP_SECONDS: Final = 30  # of Gemma 3n, which gives every clip the same number of tokens
_AROUND: Final = 2  # tokens that stand before and behind a picture or a sound

_GENERATIONS: Final = ("Gemma 4", "Gemma 3n", "Gemma 3", "Gemma 2", "Gemma 1.1", "Gemma 1")
_PRECISE: Final = 1.6  # bits of scales and biases, and of what is finer than the rest, that a name may leave out


@dataclass(frozen=True, kw_only=True)
class Towers:
    """What reads pictures and sound, and how many tokens it makes of them.

    Attributes:
        vision: bytes in 16 bits, with what joins them to the decoder.
        audio: the same.
        picture_tokens: of one picture; 0 where it sees none.
        clip_tokens: of a piece of sound; 0 where they depend on its length.
        token_seconds: of sound in a token.
    """

    vision: int = 0
    audio: int = 0
    picture_tokens: int = 0
    clip_tokens: int = 0
    token_seconds: float = _MILLISECONDS / 1e3

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.vision + self.audio

    def tokens(self, images: int, seconds: float) -> int:
        """Soft tokens of so many pictures, and of sound, with what stands around them."""
        clips = math.ceil(seconds / _CLIP_SECONDS)
        sound = clips * self.clip_tokens or math.ceil(seconds / self.token_seconds)
        return images * (self.picture_tokens + _AROUND) + (sound + _AROUND * clips if seconds else 0)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be judged.

    Attributes:
        name: to type.
        spec: of its decoder, or of its encoder.
        traffic: what its parameters are, unquantized.
        towers: beside it.
        row: of the catalogue, where that is how it is known.
        how: how the matrices of a checkpoint are packed; None where none of them is.
        checkpoint: from whose headers all this is known.
        notes: what a user should know, a sentence each.
    """

    name: str
    spec: Spec
    traffic: Traffic = field(repr=False)
    towers: Towers = Towers()
    row: Row | None = None
    how: How | None = None
    checkpoint: Checkpoint | None = None
    notes: tuple[str, ...] = ()

    @property
    def formats(self) -> dict[str, How]:
        """Name -> how matrices are packed, of every format that it can be had in."""
        if self.how is not None:
            return {f"{self.bits(self.traffic.stored(self.how)):.1f}-bit file": self.how}
        return {name: each for name, each in FORMATS.items() if self.trained_for(each) is not None}

    def trained_for(self, each: Format) -> Row | str | None:
        """What is to be fetched for a format: the row of a checkpoint trained for it, or its name; None if none is."""
        if each.trained is None:
            return self.row or self.name
        if self.row is None or self.row.qat is not None:
            return self.row if self.row is not None and self.row.qat == each.trained else None
        return catalog.kin(self.row, each.trained)

    @property
    def parameters(self) -> int:
        """How many numbers its decoder has, packed or not, without scales and biases."""
        return self.traffic.packable + self.traffic.plain

    def bits(self, stored: Traffic) -> float:
        """Bits per weight in a format, with scales and biases, and with what is not packed."""
        return 8 * stored.weight_bytes / self.parameters


def of(name: str) -> Subject:
    """The model called `name`: a folder, what the catalogue knows, or the id of a repository.

    Raises:
        ModelNotFoundError: there is none, or it cannot be asked.
        UnsupportedModelError: this version does not run it.
        GemmaError: whatever else is wrong with its files.
    """
    if name == hub.DEMO or os.path.exists(os.path.expanduser(name)):
        return of_checkpoint(name, inspect(hub.resolve(name)))
    known = {row.repository.lower(): row for row in catalog.rows() if row.repository}
    if "/" not in name or name.strip().lower() in known:
        return of_row(known.get(name.strip().lower()) or catalog.meant(name).row)
    with remote.headers(name) as folder:
        return of_checkpoint(name, inspect(folder))


def of_row(row: Row) -> Subject:
    """A model of the catalogue.

    Raises:
        UnsupportedModelError: its dimensions are not known, or this version does not run it.
    """
    if row.network is None:
        raise UnsupportedModelError(
            f"The dimensions of {row.name} are not known.", "gemma fit FOLDER, or the id of its repository."
        )
    if not registry.reads(row.format):
        raise UnsupportedModelError(
            f"{row.name} is packed for other programs ({row.format}), and cannot be read here.",
            "Name the model it was made from.",
        )
    match = matched(row.network.config)
    parameters = row.network.parameters
    reads = row.modalities
    return Subject(
        name=row.label,
        spec=match.spec,
        traffic=_counted(row.network.name),
        towers=towers(
            row.network.config,
            2 * (parameters.vision + parameters.projector) if "image" in reads else 0,
            2 * parameters.audio if "audio" in reads else 0,
        ),
        row=row,
    )


def of_checkpoint(name: str, checkpoint: Checkpoint) -> Subject:
    """A checkpoint whose headers were read.

    Raises:
        UnsupportedModelError: there is no estimate for models of its kind.
    """
    match = _judgeable(checkpoint.match)
    packed = checkpoint.quantization
    tensors = stored_tensors(checkpoint.folder).tensors
    sizes = {"audio": 0, "vision": 0}
    for tensor, why in checkpoint.unread.items():
        if "are not read by this version" in why and tensor in tensors:
            sizes["audio" if "audio" in tensor else "vision"] += tensors[tensor].nbytes
    said = re.search(r"(?<![\d.])([2-8])[-_ ]?bits?\b", name.rpartition("/")[2].lower())
    real = checkpoint.bits_per_weight
    belied = said is not None and real > int(said[1]) + _PRECISE
    return Subject(
        name=name,
        spec=match.spec,
        traffic=traffic(match.spec, match.architecture.build(match.spec)),
        towers=towers(checkpoint.config, sizes["vision"], sizes["audio"]),
        how=(lambda path, _module: packed.get(path)) if any(packed.values()) else None,
        checkpoint=checkpoint,
        notes=(f"Its name says {said[1]} bits; its files hold {real:.2f} bits per weight.",) if belied and said else (),
    )


def of_config(name: str, config: Mapping[str, Any]) -> Subject:
    """A model of which only config.json is known.

    Raises:
        ConfigError, UnsupportedModelError: it cannot be judged.
    """
    match = matched(config)
    return Subject(name=name, spec=match.spec, traffic=_built(_Build(match)))


def matched(config: Mapping[str, Any]) -> Match:
    """The architecture of a config.json, if it is one whose memory can be told.

    Raises:
        UnsupportedModelError: this version does not run it, or it is no decoder and no encoder.
    """
    return _judgeable(registry.match(config))


def _judgeable(match: Match) -> Match:
    if (why := why_not(match.spec)) is not None:
        raise UnsupportedModelError(
            f"What a {match.model_type} takes of memory cannot be told: there is {why}.",
            "gemma fit lists what it can judge.",
        )
    return match


def why_not(spec: Spec) -> str | None:
    """Why there is no estimate for models of these specs; None where there is one."""
    if isinstance(spec, EncoderDecoderSpec):
        return "no estimate for models with an encoder and a decoder"
    if isinstance(spec, DrafterSpec):
        return "no estimate for drafters, which read the keys and values of another model"
    if isinstance(spec, DecoderSpec) and spec.canvas is not None:
        return "no estimate for models that fill canvases"
    return None


def towers(config: Mapping[str, Any], vision: int, audio: int) -> Towers:
    """Towers of so many bytes, and what config.json says of their tokens."""
    if not vision and not audio:
        return Towers()
    seen, heard = (config.get(key) or {} for key in ("vision_config", "audio_config"))
    stated = (
        config.get("mm_tokens_per_image"),
        config.get("vision_soft_tokens_per_image"),
        seen.get("num_soft_tokens"),
        None if "pooling_kernel_size" in seen else _patches(seen),
    )
    picture = next((number for number in stated if isinstance(number, int)), _PICTURE_TOKENS)
    milliseconds = config.get("audio_ms_per_token", heard.get("audio_ms_per_token", _MILLISECONDS))
    return Towers(
        vision=vision,
        audio=audio,
        picture_tokens=picture if vision else 0,
        clip_tokens=config.get("audio_soft_tokens_per_image", 0) if audio else 0,
        token_seconds=milliseconds / 1e3,
    )


def _patches(seen: Mapping[str, Any]) -> int | None:
    """Tokens of a tower that makes one of each patch, as PaliGemma's does."""
    size, patch = seen.get("image_size"), seen.get("patch_size")
    return (size // patch) ** 2 if isinstance(size, int) and isinstance(patch, int) and patch else None


@cache
def _counted(network: str) -> Traffic:
    """What a network of the catalogue reads and computes; networks that differ in towers only are built once."""
    match = matched(_networks()[network].config)
    return _built(_Build(match))


class _Build:
    """A match, equal to others whose decoder is the same."""

    def __init__(self, match: Match) -> None:
        self.match = match
        self._key = (match.architecture.build.__module__, match.spec)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Build) and self._key == other._key


@cache
def _built(build: _Build) -> Traffic:
    return traffic(build.match.spec, build.match.architecture.build(build.match.spec))


@cache
def _networks() -> dict[str, catalog.Network]:
    return {row.network.name: row.network for row in catalog.rows() if row.network is not None}


def all_of_catalogue() -> tuple[list[tuple[Subject, list[str]]], dict[str, list[str]]]:
    """Every model of the catalogue that can be judged, once for each decoder, and why others are left out.

    Returns:
        (model, names of others with the same decoder) in the catalogue's order, and reason -> names to type.
    """
    found: dict[Spec, list[Row]] = {}
    left_out: dict[str, list[str]] = {}
    reasons: dict[str, str | None] = {}
    specs: dict[str, Spec] = {}
    for row in catalog.rows():
        if row.short is None or row.network is None or row.format != "safetensors":
            continue
        network = row.network.name
        if network not in reasons:
            try:
                specs[network] = registry.match(row.network.config).spec
                reasons[network] = why_not(specs[network])
            except GemmaError:
                reasons[network] = "not run by this version"
        if (reason := reasons[network]) is None:
            found.setdefault(specs[network], []).append(row)
        else:
            left_out.setdefault(reason, []).append(row.label)
    judged = []
    for rows in found.values():
        first, *others = sorted(rows, key=_plainest)
        judged.append((of_row(first), _distinct(first, others)))
    return judged, left_out


def age(row: Row) -> int:
    """0 for the newest generation of Gemma itself; what was made of one of them is behind all."""
    return _GENERATIONS.index(row.generation) if row.generation in _GENERATIONS else len(_GENERATIONS)


def _plainest(row: Row) -> tuple[int, bool, int, int]:
    """Gemma itself before its kin, what follows instructions before what continues text."""
    variants = ("it", "mix")
    variant = variants.index(row.variant) if row.variant in variants else len(variants)
    return (age(row), row.qat is not None, variant, len(row.label))


def _distinct(first: Row, others: list[Row]) -> list[str]:
    """Names of models of other families with the same decoder."""
    return [row.label for row in others if row.generation != first.generation and row.qat is None]
