"""What is judged: a model's specs, what its weights take in every format, and the towers beside it.

Known from the catalogue, from a checkpoint's headers on this machine, or from those of a repository on a hub. No weight
is read: the model that would run is built, and not evaluated.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Final, cast

from gemma_mlx import catalog, registry
from gemma_mlx.catalog import Row
from gemma_mlx.errors import GemmaError, InputError, UnsupportedModelError
from gemma_mlx.models import gemma4_assistant
from gemma_mlx.quantize.counts import counted
from gemma_mlx.quantize.formats import BLOCKS_OF_32, FORMATS, Format, Rule
from gemma_mlx.quantize.memory import How, Spec
from gemma_mlx.quantize.traffic import Traffic, traffic
from gemma_mlx.registry import Match
from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderDecoderSpec
from gemma_mlx.weights import compressed, hub, mobile, remote
from gemma_mlx.weights.foreign import READERS
from gemma_mlx.weights.load import Checkpoint, inspect
from gemma_mlx.weights.quantized import AFFINE_GROUPS, Quantization

# Where config.json does not say: 256 or 280 soft tokens a picture, 40 ms of sound a token.
_PICTURE_TOKENS: Final = 280
_MILLISECONDS: Final = 40
_CLIP_SECONDS: Final = 30  # of Gemma 3n, which gives every clip the same number of tokens
_AROUND: Final = 2  # tokens that stand before and behind a picture or a sound

_GENERATIONS: Final = ("Gemma 4", "Gemma 3n", "Gemma 3", "Gemma 2", "Gemma 1.1", "Gemma 1")
# Google's -w4a16-ct: tables, the head and routers stay in bf16.
_W4A16: Final = (Rule(r"embed_tokens|lm_head|router", None), Rule("", BLOCKS_OF_32))
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
        drafter: what proposes tokens to it, where that is asked for.
        how: how the matrices of a checkpoint are packed; None where none of them is.
        checkpoint: from whose headers all this is known.
        notes: what a user should know, a sentence each.
    """

    name: str
    spec: Spec
    traffic: Traffic = field(repr=False)
    towers: Towers = Towers()
    row: Row | None = None
    drafter: Subject | None = None
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


def of(name: str, draft: str | None = None) -> Subject:
    """The model called `name`: a folder, what the catalogue knows, or the id of a repository.

    A drafter is its target, with the drafter beside it.

    Args:
        name: of the model.
        draft: of a drafter for it.

    Raises:
        ModelNotFoundError: there is none, or it cannot be asked.
        UnsupportedModelError: this version does not run it, or the drafter was made for another.
        InputError: `draft` is no drafter.
        GemmaError: whatever else is wrong with its files.
    """
    found = _of(name)
    if isinstance(found.spec, DrafterSpec):
        if draft is not None:
            raise InputError(f"{name} is a drafter itself.", f"gemma fit {name}")
        return with_drafter(_target(found), found)
    if draft is None:
        return found
    drafter = _of(draft)
    if not isinstance(drafter.spec, DrafterSpec):
        raise InputError(f"{draft} is no drafter.", f"A drafter's name ends in -assistant: --draft {name}-assistant")
    return with_drafter(found, drafter)


def _of(name: str) -> Subject:
    if name == hub.DEMO or os.path.exists(os.path.expanduser(name)):
        return of_checkpoint(name, inspect(hub.resolve(name)))
    row = catalog.named(name.strip()) if "/" in name else catalog.meant(name).row
    if row is not None:
        if row.repository is None or row.format not in READERS or packed_as(row) is not None:
            return of_row(row)
        name = row.repository  # only its files say how it is packed
    with remote.headers(name) as folder:
        return of_checkpoint(name, inspect(folder))


def with_drafter(target: Subject, drafter: Subject) -> Subject:
    """A model and what proposes tokens to it.

    Raises:
        UnsupportedModelError: the drafter was made for another model.
    """
    assert isinstance(drafter.spec, DrafterSpec)
    _check_made_for(target.spec, drafter)
    note = (
        f"{drafter.name} is a drafter for {target.name}: it has no keys and values of its own and reads those of "
        f"{target.name}, so that it is judged with it, in the same format."
    )
    return replace(target, drafter=drafter, notes=(*target.notes, note))


def _check_made_for(target: Spec, drafter: Subject) -> None:
    model = gemma4_assistant.build(cast(DrafterSpec, drafter.spec))
    if not isinstance(target, DecoderSpec) or isinstance(target, DrafterSpec | EncoderDecoderSpec):
        raise UnsupportedModelError(f"{drafter.name} drafts for a Gemma 4.", "gemma fit e2b --draft e2b-assistant")
    model.lenders(target)


def _target(drafter: Subject) -> Subject:
    """The model that a drafter was made for, of those that the catalogue has."""
    named = drafter.row.label.removesuffix("-assistant") if drafter.row is not None else None
    for row in catalog.rows():
        if row.short is None or row.network is None or row.generation != "Gemma 4" or row.format != "safetensors":
            continue
        if row.variant != "it" or row.qat is not None or named not in (None, row.short):
            continue
        try:
            target = of_row(row)
            _check_made_for(target.spec, drafter)
        except UnsupportedModelError:
            continue
        return target
    raise UnsupportedModelError(
        f"{drafter.name} is a drafter, and the catalogue has no model that it was made for.",
        f"gemma fit MODEL --draft {drafter.name}",
    )


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
    how = packed_as(row)
    if how is None and row.format != "safetensors":
        name = row.repository or row.name
        raise UnsupportedModelError(
            f"How {row.name} is packed is not known before its files are seen.",
            f"gemma fit {name}" if row.format in READERS else f"gemma pull {name}; then: gemma fit {name}",
        )
    match = _untied(row.network.config) if row.format == mobile.METHOD else _matched(row.network.name)
    parameters = row.network.parameters
    reads = row.modalities
    return Subject(
        name=row.label,
        spec=match.spec,
        traffic=_built(match) if row.format == mobile.METHOD else _counted(row.network.name),
        towers=towers(
            row.network.config,
            2 * (parameters.vision + parameters.projector) if "image" in reads else 0,
            2 * parameters.audio if "audio" in reads else 0,
        ),
        row=row,
        how=how,
        notes=_said(match.spec),
    )


def _untied(config: Mapping[str, Any]) -> Match:
    """The architecture of a model with a head of its own, as Google's for phones have one."""
    return registry.match({**config, "text_config": {**config.get("text_config", {}), "tie_word_embeddings": False}})


def packed_as(row: Row) -> How | None:
    """How the matrices of a model of the catalogue are packed, as far as that is known; None where none of them is."""
    if row.format == compressed.METHOD and row.qat == "w4a16":
        return Format(name=row.qat, told="4 bits in groups of 32, tables and routers as they are", rules=_W4A16)
    if row.format == mobile.METHOD and row.network is not None:
        stated = row.network.config.get("quantization_config")
        return None if stated is None else partial(_on_a_phone, mobile.Bits(stated), stated)
    return None


def _on_a_phone(bits: mobile.Bits, stated: Mapping[str, Any], path: str, columns: int) -> Quantization | None:
    """How Google's format for phones packs a module of the decoder."""
    published = path if path.startswith("lm_head") else path.replace("model.", "model.language_model.", 1)
    if any(name in published for name in (*stated.get("modules_to_not_convert", ()), "per_layer_model_projection")):
        return None
    group = next((size for size in reversed(AFFINE_GROUPS) if not columns % size), None)
    return None if group is None else Quantization(mode="affine", bits=bits.stated(published), group_size=group)


def of_checkpoint(name: str, checkpoint: Checkpoint) -> Subject:
    """A checkpoint whose headers were read.

    Raises:
        CheckpointError: its headers are damaged.
    """
    match = checkpoint.match
    packed = checkpoint.quantization
    tensors = checkpoint.repacked.tensors
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
        traffic=_built(match),
        towers=towers(checkpoint.config, sizes["vision"], sizes["audio"]),
        how=(lambda path, _columns: packed.get(path)) if any(packed.values()) else None,
        checkpoint=checkpoint,
        notes=(
            *(
                (f"Its name says {said[1]} bits; its files hold {real:.2f} bits per weight.",)
                if belied and said
                else ()
            ),
            *_said(match.spec),
        ),
    )


def of_config(name: str, config: Mapping[str, Any]) -> Subject:
    """A model of which only config.json is known.

    Raises:
        ConfigError, UnsupportedModelError: it cannot be judged.
    """
    match = registry.match(config)
    return Subject(name=name, spec=match.spec, traffic=_built(match))


def _said(spec: Spec) -> tuple[str, ...]:
    """What a user should know of how models of this kind are judged."""
    if isinstance(spec, EncoderDecoderSpec):
        return ("Prompt and answer have a context each: it is judged with both of them as long as the context.",)
    if isinstance(spec, DecoderSpec) and spec.canvas is not None:
        return (f"It writes canvases of {spec.canvas.length} tokens: one is judged behind a context that is full.",)
    return ()


def towers(config: Mapping[str, Any], vision: int, audio: int) -> Towers:
    """Towers of so many bytes, and what config.json says of their tokens."""
    if not vision and not audio:
        return Towers()
    config = config.get("encoder") or config  # of a T5Gemma 2, whose encoder sees
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
def _matched(network: str) -> Match:
    """The architecture of a network of the catalogue.

    Raises:
        UnsupportedModelError: this version does not run it.
    """
    return registry.match(_networks()[network].config)


@cache
def _counted(network: str) -> Traffic:
    """What a network of the catalogue reads and computes."""
    match = _matched(network)
    return counted(network, match.spec) or _built(match)


def _built(match: Match) -> Traffic:
    return traffic(match.spec, match.architecture.build(match.spec))


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
    for row in catalog.rows():
        if row.short is None or row.network is None or row.format != "safetensors":
            continue
        try:
            spec = _matched(row.network.name).spec
        except GemmaError:
            left_out.setdefault("not run by this version", []).append(row.label)
            continue
        if isinstance(spec, DrafterSpec):
            left_out.setdefault("drafters, which are judged with their targets: gemma fit NAME", []).append(row.label)
        else:
            found.setdefault(spec, []).append(row)
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
