"""From the names in a file to the names of our parameters, as data.

A checkpoint's tensor names stay the modules' names; where dialects differ, a table says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gemma_mlx.errors import WeightsError


@dataclass(frozen=True, kw_only=True)
class Names:
    """How one architecture's checkpoints name their tensors.

    Attributes:
        rename: (pattern, replacement), applied in order to the start of a name.
        unread: pattern -> why tensors it matches are left on the disk.
        split: (pattern, replacements, axis) over our names: one stored tensor that is several of our parameters, in
            equal parts along an axis.
        publish: (pattern, replacement), from our name to the one that published checkpoints have.
        copies: (pattern, replacement) over our names: a stored tensor that should be a copy of one of our parameters.
        second_head: whether mlx-vlm wants a packed table of embeddings once more as the head it is tied to.
        looked_up: (pattern, replacement), from the published path of a module to the one by which mlx-vlm looks it up
            in the `quantization` table of config.json.
    """

    rename: tuple[tuple[str, str], ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    split: tuple[tuple[str, tuple[str, ...], int], ...] = ()
    publish: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    second_head: bool = False
    looked_up: tuple[tuple[str, str], ...] = ()

    def parameter(self, name: str) -> str:
        """The parameter, or the module path, that the file calls `name`."""
        return _renamed(self.rename, name)

    def parts(self, parameter: str) -> tuple[tuple[str, ...], int] | None:
        """The parameters that the stored tensor `parameter` is made of, and the axis; None where it is one itself."""
        for pattern, replacements, axis in self.split:
            if found := re.fullmatch(pattern, parameter):
                return tuple(found.expand(replacement) for replacement in replacements), axis
        return None

    def published(self, parameter: str) -> str:
        """What published checkpoints call `parameter`: the inverse of `parameter`, for writing."""
        return _renamed(self.publish, parameter)

    def table_keys(self, path: str) -> tuple[str, ...]:
        """The keys under which programs look for the module of published `path` in a `quantization` table."""
        return tuple(dict.fromkeys((path, _renamed(self.looked_up, path))))

    def original(self, parameter: str) -> str | None:
        """The parameter that the stored tensor `parameter` should be a copy of; None where it is one itself."""
        original = _renamed(self.copies, parameter)
        return None if original == parameter else original

    def why_unread(self, name: str) -> str | None:
        """Why the file's tensor `name` is not read; None where it is."""
        return next((why for pattern, why in self.unread.items() if re.match(pattern, name)), None)

    def translate(self, names: Iterable[str]) -> dict[str, str]:
        """File name -> parameter, without the unread ones.

        Raises:
            WeightsError: two tensors claim one parameter.
        """
        found: dict[str, str] = {}
        for name in names:
            if self.why_unread(name) is None:
                parameter = self.parameter(name)
                if parameter in found:
                    raise WeightsError(
                        f"The tensors {found[parameter]!r} and {name!r} both claim to be {parameter!r}.",
                        "Two checkpoints may be mixed in one folder; fetch it again into an empty one.",
                    )
                found[parameter] = name
        return {name: parameter for parameter, name in found.items()}


def _renamed(table: tuple[tuple[str, str], ...], name: str) -> str:
    for pattern, replacement in table:
        name = re.sub(r"\A" + pattern, replacement, name, count=1)
    return name


# Wrapped in other classes, a decoder's tensors have these before their names, in any number and order: none in files of
# the bare model, "model." with a head, "language_model.model." or "model.language_model." with towers beside it, and
# one "model." more in a classifier.
_WRAPPERS: Final = r"(?:(?:model|language_model)\.)*"
_WRAPPED: Final = (
    (rf"{_WRAPPERS}(?=lm_head\b)", ""),
    (rf"{_WRAPPERS}(?=(layers|embed_tokens\w*|norm|final_norm|per_layer_\w+|altup_\w+)\.)", "model."),
)

COMPUTED: Final = "computed from the config"
_BUFFERS: Final = {r".*\brotary_emb(_local)?\.(\w+_)?inv_freq\Z": COMPUTED}
_TOWERS: Final = r"(?=(?:vision_tower|multi_modal_projector|vision_embedder|embed_vision|audio_tower|embed_audio)\.)"
_PICTURES: Final = dict.fromkeys(
    (rf"{_WRAPPERS}(vision_tower|multi_modal_projector)\.",), "pictures are not read by this version"
)
_PICTURES_AND_SOUND: Final = dict.fromkeys(
    (rf"{_WRAPPERS}(vision_tower|vision_embedder|embed_vision|audio_tower|embed_audio)\.",),
    "pictures and sound are not read by this version",
)

# Embedding models' files by MLX programs also hold the linear maps, as `dense`.
TEXT: Final = Names(rename=_WRAPPED, unread=_BUFFERS)
GEMMA3_TEXT: Final = replace(TEXT, second_head=True)

RECURRENT_GEMMA: Final = Names(
    rename=(*_WRAPPED, (r"model\.final_norm\.", "model.norm.")),
    unread=_BUFFERS,
    publish=((r"model\.norm\.", "model.final_norm."),),
)

# Published with one wrapper around the other, up to Gemma 3 ...
GEMMA3: Final = Names(
    rename=_WRAPPED,
    publish=(
        (_WRAPPERS + _TOWERS, ""),
        (r"model\.", "language_model.model."),
        (r"lm_head\.", "language_model.lm_head."),
    ),
    unread=_BUFFERS | _PICTURES,
)

GEMMA3_WITH_HEAD: Final = replace(GEMMA3, second_head=True)

# ... and the other way around since.
GEMMA3N: Final = Names(
    rename=_WRAPPED,
    unread=_BUFFERS | _PICTURES_AND_SOUND,
    publish=((_WRAPPERS + _TOWERS, "model."), (r"model\.(?!\w*(vision|audio))", "model.language_model.")),
    looked_up=((r"model\.language_model\.", "language_model.model."), (r"model\." + _TOWERS, "")),
)

# Published files fuse each expert's gate and up; mlx-lm's keep them apart under `switch_glu`.
GEMMA4: Final = Names(
    rename=(
        *_WRAPPED,
        (r"(.*\.experts)\.switch_glu\.", r"\1."),
        (r"(.*\.experts\.down_proj)\Z", r"\1.weight"),
    ),
    unread=_BUFFERS | _PICTURES_AND_SOUND,
    split=((r"(.*\.experts)\.gate_up_proj", (r"\1.gate_proj.weight", r"\1.up_proj.weight"), 1),),
    publish=((r"(.*\.experts)\.", r"\1.switch_glu."),),
)
# With towers beside it, as programs for MLX write it; they take the published order of the wrappers, too.
GEMMA4_WRAPPED: Final = replace(GEMMA4, publish=(*GEMMA4.publish, *GEMMA3.publish))

# Two networks of the same tensors, which lie under `decoder`, or in files that transformers reads as well, under
# `encoder`; only the layers' scalars are there twice. mlx-vlm writes gate and up of the
# experts together, and reads them apart where no `switch_glu` stands in between.
DIFFUSION: Final = Names(
    rename=(
        (r"model\.decoder\.(layers\.\d+)\.layer_scalar\Z", r"model.\1.canvas_scalar"),
        (r"model\.encoder\.language_model\.", "model."),
        (r"model\.decoder\.", "model."),
        (r"(.*\.experts)\.switch_glu\.", r"\1."),
        (r"(.*\.experts\.(?:gate_up|down)_proj)\Z", r"\1.weight"),
    ),
    unread=_BUFFERS
    | dict.fromkeys((r"model\.encoder\.(vision_tower|embed_vision)\.",), "pictures are not read by this version"),
    split=((r"(.*\.experts)\.gate_up_proj\.(weight|scales|biases)", (r"\1.gate_proj.\2", r"\1.up_proj.\2"), 1),),
    publish=(
        (r"model\.(layers\.\d+)\.layer_scalar\Z", r"model.encoder.language_model.\1.layer_scalar"),
        (r"model\.(layers\.\d+)\.canvas_scalar\Z", r"model.decoder.\1.layer_scalar"),
        (r"model\.(?!encoder|decoder)", "model.decoder."),
    ),
    looked_up=((r"(.*\.experts)\.(?:gate|up)_proj\Z", r"\1.gate_up_proj"),),
)

EMBEDDING_GEMMA2: Final = Names(
    rename=(
        (rf"{_WRAPPERS}embedding_projection\.", "dense.0."),
        (rf"{_WRAPPERS}ple\.", "model."),
        *_WRAPPED,
        (r"(model\.layers\.\d+)\.ple_block\.", r"\1."),
    ),
    publish=(
        (r"dense\.0\.", "language_model.embedding_projection."),
        (r"model\.per_layer_", "language_model.ple.per_layer_"),
        (
            r"(model\.layers\.\d+)\.(per_layer_input_gate|per_layer_projection|post_per_layer_input_norm)\.",
            r"\1.ple_block.\2.",
        ),
        (r"model\.", "language_model."),
    ),
    unread=_BUFFERS | _PICTURES_AND_SOUND,
)

# Files of a model without its head have no "model."; the encoder of the second T5Gemma may hold its text apart.
_STACKS: Final = (
    (r"(model\.)?encoder\.(text_model\.)?", "encoder."),
    (r"(model\.)?decoder\.", "model."),
    (r"lm_head\.out_proj\.", "lm_head."),
    (r"(.*)\.pre_self_attn_layernorm\.", r"\1.input_layernorm."),
    (r"(.*)\.post_self_attn_layernorm\.", r"\1.post_attention_layernorm."),
)
_PUBLISHED_STACKS: Final = (
    (r"(.*)\.input_layernorm\.", r"\1.pre_self_attn_layernorm."),
    (r"(.*)\.post_attention_layernorm\.", r"\1.post_self_attn_layernorm."),
    (r"model\.(?!encoder\.)", "model.decoder."),
    (r"encoder\.", "model.encoder."),
    (r"lm_head\.", "lm_head.out_proj."),
)

T5GEMMA: Final = Names(rename=_STACKS, publish=_PUBLISHED_STACKS, unread=_BUFFERS)

# The encoder's table is the decoder's, too.
T5GEMMA2: Final = Names(
    rename=(
        (r"(model\.)?encoder\.(text_model\.)?embed_tokens\.eoi_embedding\Z", "model.eoi_embedding"),
        (r"(model\.)?encoder\.(text_model\.)?embed_tokens\.", "model.embed_tokens."),
        (r"(model\.)?decoder\.embed_tokens\.eoi_embedding\Z", "copy.eoi_embedding"),
        (r"(model\.)?decoder\.embed_tokens\.", "copy.embed_tokens."),
        *_STACKS,
    ),
    publish=(
        (r"model\.eoi_embedding\Z", "model.encoder.embed_tokens.eoi_embedding"),
        (r"model\.embed_tokens\.", "model.encoder.embed_tokens."),
        *_PUBLISHED_STACKS,
    ),
    unread=_BUFFERS
    | dict.fromkeys(
        (r"(model\.)?encoder\.(vision_tower|multi_modal_projector)\.",), "pictures are not read by this version"
    ),
    copies=((r"copy\.", "model."),),
)
