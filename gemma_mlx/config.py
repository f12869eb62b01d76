"""config.json, read strictly: every key is either used, or named with the reason it is not.

Published checkpoints and files saved again by transformers 5 spell the same network differently. Both spellings meet
here, so an architecture file asks for a meaning (`layer_types`, `ropes`) and never for a dialect.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from gemma_mlx.errors import ConfigError
from gemma_mlx.gguf.documents import document
from gemma_mlx.spec import Rope

LayerType = Literal["full_attention", "sliding_attention"]
Value = TypeVar("Value")

MAX_FILE_BYTES: Final = 8 << 20
_REQUIRED: Final = object()

# The key under which `gemma quantize` keeps what it found out about a checkpoint; other programs leave it alone.
EVIDENCE: Final = "gemma_mlx"

# Keys that do not change what a text decoder computes, and why.
IGNORED: Final[Mapping[str, str]] = (
    dict.fromkeys(("architectures", "model_type", "auto_map"), "read by the registry")
    | dict.fromkeys(
        ("quantization", "quantization_config", "compression_config", "packed_from"), "read with the weights"
    )
    | dict.fromkeys(("dtype", "torch_dtype"), "each tensor states its own dtype")
    | {EVIDENCE: "how near the model is to the one it was made from"}
    | dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id", "sep_token_id"),
        "read with the tokenizer",
    )
    | dict.fromkeys(
        (
            "attention_dropout", "embedding_dropout", "dropout", "dropout_rate", "classifier_dropout",
            "classifier_dropout_rate", "initializer_range", "initializer_factor", "problem_type", "id2label",
            "label2id", "num_labels", "finetuning_task",
        ),
        "training only",
    )
    | dict.fromkeys(
        (
            "use_cache", "cache_implementation", "_attn_implementation", "attn_implementation", "output_attentions",
            "output_hidden_states", "return_dict", "return_dict_in_generate", "torchscript", "use_return_dict",
            "chunk_size_feed_forward", "pruned_heads", "is_encoder_decoder", "is_decoder", "add_cross_attention",
            "cross_attention_hidden_size", "tie_encoder_decoder", "tf_legacy_loss", "use_bfloat16", "prefix",
            "task_specific_params", "tokenizer_class", "pretraining_tp", "attn_config", "use_flash_attention",
        ),
        "how a library runs the model, not what it computes",
    )
    | dict.fromkeys(
        (
            "max_length", "min_length", "do_sample", "temperature", "top_k", "top_p", "typical_p", "num_beams",
            "num_beam_groups", "num_return_sequences", "repetition_penalty", "length_penalty", "diversity_penalty",
            "early_stopping", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "output_scores",
            "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id",
            "remove_invalid_values", "exponential_decay_length_penalty",
        ),
        "generation defaults belong to generation_config.json",
    )
    | dict.fromkeys(
        (
            "_name_or_path", "name_or_path", "transformers_version", "mlx_version", "unsloth_version", "unsloth_fixed",
            "_commit_hash", "_from_model_config", "_attn_implementation_autoset", "model_name", "license",
            "_sliding_window_pattern_note",
        ),
        "provenance",
    )
)  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """Reads `folder`/config.json, or what a GGUF file says instead.

    Raises:
        ConfigError: the file is missing, larger than 8 MB, not JSON, or not an object.
        CheckpointError, UnsupportedModelError: the GGUF file is damaged, or holds no Gemma.
    """
    path = folder / "config.json"
    if (made := document(folder, path.name)) is not None:
        return cast(dict[str, Any], json.loads(made))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{path} is {path.stat().st_size:,} bytes long; a config.json has a few thousand.",
                "Fetch the file again: this is something else under its name.",
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no config.json, so it is not a checkpoint in the Hugging Face layout.",
            "Name the folder that holds config.json, the *.safetensors files and the tokenizer.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}.", "Fetch the file again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a JSON {type(values).__name__}, not an object.", "Fetch the file again.")
    return cast(dict[str, Any], values)


class Config:
    """A config.json object that remembers which keys were read.

    Args:
        values: the parsed object.
        where: how errors name it, for example "config.json" or "config.json, text_config".
        defaults: values for absent keys, where a published dialect leaves them to its class.
    """

    def __init__(
        self, values: Mapping[str, Any], where: str = "config.json", defaults: Mapping[str, Any] | None = None
    ) -> None:
        self._values = dict(defaults or {}) | dict(values)
        self._where = where
        self._read: set[str] = set()

    def default(self, **values: Any) -> None:
        """Values for absent keys, where no file of an architecture has them."""
        self._values = values | self._values

    def raw(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value under `key` as JSON gave it; `default` where it is absent."""
        self._read.add(key)
        if key in self._values:
            return self._values[key]
        if default is _REQUIRED:
            raise ConfigError(
                f"{self._where} has no {key!r}, which this architecture needs.",
                "Compare the file with the one on the model's page; it may have been cut or edited.",
            )
        return default

    def _bad(self, key: str, value: object, wanted: str) -> ConfigError:
        shown = repr(value)
        return ConfigError(
            f"{self._where}: {key!r} is {shown if len(shown) <= 60 else shown[:57] + '...'}, but must be {wanted}.",
            "Fetch config.json again, or undo the edit.",
        )

    def number(self, key: str, default: Any = _REQUIRED, *, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number in (low, high]."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise self._bad(key, value, "a number")
        if not low < value <= high:  # compared as it is: a whole number may be too long for a float
            raise self._bad(key, value, f"above {low:g} and at most {high:g}")
        return float(value)

    def integer(self, key: str, default: Any = _REQUIRED, *, low: int = 1, high: int, multiple: int = 1) -> int:
        """A whole number from `low` to `high`, a multiple of `multiple`."""
        value = self.raw(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != value
            or value in (math.inf, -math.inf)
        ):
            raise self._bad(key, value, "a whole number")
        if value != int(value) or not low <= value <= high or int(value) % multiple:
            wanted = f"a whole number from {low} to {high}" + (f", a multiple of {multiple}" if multiple > 1 else "")
            raise self._bad(key, value, wanted)
        return int(value)

    def count(self, key: str, *, high: int) -> int:
        """A whole number from 0 to `high`; null and absent mean 0."""
        value = self.raw(key, None)
        return 0 if value in (None, 0) else self.integer(key, high=high)

    def each_layer(self, key: str, layers: int, one: Callable[[Config, str], Value]) -> tuple[Value, ...]:
        """A value for each layer, from a list of them or from one for all.

        Args:
            key: where it is.
            layers: how many.
            one: reads and checks one value; it is called with a Config that has it under the key it is called with.
        """
        values = self.raw(key)
        if not isinstance(values, list):
            return (one(self, key),) * layers
        if len(values) != layers:
            raise self._bad(key, values, f"one value, or a list of {layers}")
        where = f"{self._where}, {key}"
        return tuple(one(Config({str(index): value}, where), str(index)) for index, value in enumerate(values))

    def optional_number(self, key: str) -> float | None:
        """A positive number, or None where the key is null or absent."""
        return None if self.raw(key, None) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        """true or false; null and absent mean `default`."""
        value = self.raw(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def one_of(self, key: str, choices: Sequence[str | None], default: Any = _REQUIRED) -> str | None:
        """One of `choices`."""
        value = self.raw(key, default)
        if value not in choices or not isinstance(value, str | None):
            raise self._bad(key, value, "one of " + ", ".join(map(repr, choices)))
        return value

    def section(self, key: str, defaults: Mapping[str, Any] | None = None, *, without: Collection[str] = ()) -> Config:
        """The object under `key`, `without` some of its keys."""
        value = self.raw(key)
        if not isinstance(value, dict):
            raise self._bad(key, value, "an object")
        kept = {name: one for name, one in value.items() if name not in without}
        return Config(kept, f"{self._where}, {key}", defaults)

    def finish(self, also_ignored: Mapping[str, str] | None = None) -> None:
        """Raises ConfigError where a key was neither read nor is in a table of ignored keys."""
        unknown = sorted(self._values.keys() - self._read - IGNORED.keys() - (also_ignored or {}).keys())
        if unknown:
            raise ConfigError(
                f"{self._where} has {'a key' if len(unknown) == 1 else 'keys'} this version does not know: "
                + ", ".join(map(repr, unknown[:8])) + (" and more" if len(unknown) > 8 else "") + ".",
                "A key it cannot read might change the model's answers, so it stops here. Update gemma; if the key "
                "is only a note, remove it from config.json.",
            )  # fmt: skip

    # ---- meanings shared by the family, in every spelling

    def layer_types(self, layers: int, default_pattern: int) -> tuple[LayerType, ...]:
        """The kind of each layer.

        Spelled as `layer_types`, or as a pattern p (`sliding_window_pattern`; `_sliding_window_pattern` in files saved
        by transformers 5): every p-th layer sees everything, the others have a window.
        """
        pattern = default_pattern
        # Some files have both spellings; the last one read is the published one.
        for key in ("_sliding_window_pattern", "sliding_window_pattern"):
            if self.raw(key, None) is not None:
                pattern = self.integer(key, high=max(64, layers))
        kinds = self.raw("layer_types", None)
        if kinds is None:
            return tuple("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers))
        allowed = ("full_attention", "sliding_attention")
        if not isinstance(kinds, list) or len(kinds) != layers or any(k not in allowed for k in kinds):
            raise self._bad("layer_types", kinds, f"a list of {layers} entries, each {allowed[0]!r} or {allowed[1]!r}")
        return tuple(kinds)

    def ropes(self, *, local_default: float | None, span: float | None = None) -> dict[LayerType, Rope]:
        """The rotation of full and of sliding layers.

        Spelled as `rope_parameters` (one for all, or one per kind of layer), or as `rope_theta`, `rope_scaling` and
        `rope_local_base_freq`.

        Args:
            local_default: theta of sliding layers where no key states it; None where both kinds share one rotation.
            span: the part of a head that rotates where no `partial_rotary_factor` states it; None where heads always
                rotate whole, and that key must not be there.
        """
        new = self.raw("rope_parameters", None)
        if span is not None:
            span = self.number("partial_rotary_factor", span, high=1.0)
        if new is not None:
            section = self.section("rope_parameters")
            # transformers 5 may repeat the old keys beside the new ones; the new ones win there, and here.
            for key in ("rope_theta", "rope_scaling", "rope_local_base_freq"):
                self.raw(key, None)
            if "full_attention" not in new and "sliding_attention" not in new:
                rope = _rope(section, span)
                return {"full_attention": rope, "sliding_attention": rope}
            ropes: dict[LayerType, Rope] = {
                "full_attention": _rope(section.section("full_attention"), span),
                "sliding_attention": _rope(section.section("sliding_attention"), span),
            }
            section.finish()
            return ropes
        theta = self.number("rope_theta", 10_000.0)
        scale = 1.0
        if self.raw("rope_scaling", None) is not None:
            scaling = self.section("rope_scaling")
            scale = _linear_scale(scaling)
            scaling.finish()
        full = Rope(theta=theta, scale=scale, span=span or 1.0)
        local = self.raw("rope_local_base_freq", None)
        if local is None and local_default is None:
            return {"full_attention": full, "sliding_attention": full}
        return {
            "full_attention": full,
            "sliding_attention": replace(full, theta=self.number("rope_local_base_freq", local_default), scale=1.0),
        }

    def full_heads(self, kinds: Sequence[LayerType], head_dim: int, kv_heads: int) -> dict[int, tuple[int, int]]:
        """(head_dim, kv heads) of each full layer, where they differ from the sliding ones (Gemma 4).

        Spelled as `global_head_dim` and `num_global_key_value_heads`, or layer by layer as `per_layer_config`.
        """
        full = [index for index, kind in enumerate(kinds) if kind == "full_attention"]
        if self.raw("per_layer_config", None) is None:
            wide = self.integer("global_head_dim", head_dim, high=4096, multiple=2)
            shared = self.count("num_global_key_value_heads", high=512) or kv_heads
            return dict.fromkeys(full, (wide, shared))
        section = self.section("per_layer_config")
        found = {}
        for index in full:
            if section.raw(str(index), None) is None:  # transformers leaves out a layer that is like the others
                found[index] = (head_dim, kv_heads)
                continue
            layer = section.section(str(index))
            found[index] = (
                layer.integer("head_dim", head_dim, high=4096, multiple=2),
                layer.integer("num_key_value_heads", kv_heads, high=512),
            )
            layer.finish()
        section.finish()
        return found

    def tanh_gelu(self) -> None:
        """Checks that the activation is GELU.

        Every Gemma was trained with the tanh form. Old Gemma 1 files say `hidden_act: "gelu"`, which elsewhere means
        the erf form; it never did here (huggingface/transformers PR 29402).
        """
        for key in ("hidden_activation", "hidden_act"):
            self.one_of(key, ("gelu_pytorch_tanh", "gelu", "gelu_tanh", None), None)


def _rope(section: Config, span: float | None) -> Rope:
    theta, scale, turning = section.number("rope_theta"), _linear_scale(section), 1.0
    if span is not None:
        span = section.number("partial_rotary_factor", span, high=1.0)
    elif section.raw("rope_type", None) == "proportional":
        turning = section.number("partial_rotary_factor", 1.0, high=1.0)
    section.finish()
    return Rope(theta=theta, scale=scale, turning=turning, span=span or 1.0)


def _linear_scale(section: Config) -> float:
    """1 / factor for linear scaling, 1 for none. Old files say `type`, newer ones `rope_type`."""
    kind = section.raw("rope_type", None) or section.raw("type", None) or "default"
    section.raw("type", None)
    if kind == "default":
        section.raw("factor", None)
        return 1.0
    if kind == "proportional":
        return 1.0 / section.number("factor", 1.0, high=1e6)
    if kind != "linear":
        raise ConfigError(
            f"config.json asks for the RoPE scaling {kind!r}; Gemma knows 'default', 'linear' and 'proportional'.",
            "Use the checkpoint's original config.json.",
        )
    return 1.0 / section.number("factor", high=1e6)
