"""The sizes in a GGUF file -> config.json, as the same model has it in the Hugging Face layout.

A file states less than config.json does: what llama.cpp takes for granted of an architecture is written out here, with
its source. A value that is not known is an error, as an unknown key of config.json is.
"""

from __future__ import annotations

import math
import re
import statistics
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gemma_mlx.errors import ConfigError, UnsupportedModelError, WeightsError
from gemma_mlx.gguf.reader import Gguf

# What llama.cpp calls other networks of the family, or parts of them -> what they are.
REFUSED: Final[Mapping[str, str]] = {
    "clip": "the tower for pictures or sound of a model (llama.cpp's mmproj), which this version does not use",
    "gemma4-assistant": "a drafter for a Gemma 4, which is read here in the Hugging Face layout alone",
    "diffusion-gemma": "a DiffusionGemma, which is read here in the Hugging Face layout alone",
    "t5gemma": "a T5Gemma, which is read here in the Hugging Face layout alone",
}

# Values of the network that say nothing a decoder computes, and why. Patterns; {arch} stands before each.
_IGNORED: Final[tuple[tuple[str, str], ...]] = (
    (r"(vision|mm|audio)\..*", "the towers for pictures and sound"),
    (r"vocab_size", "the embedding table says it"),
    (r"rope\.scaling\.(original_context_length|finetuned)", "of other kinds of scaling"),
    (r"attention\.causal", "the architecture says it"),
    (r"tokenizer\..*", "read with the tokenizer"),
)

_SLIDING: Final = "sliding_attention"
_FULL: Final = "full_attention"
_MEAN: Final = 1  # pooling_type
_LAYERS_GEMMA2_27B: Final = 46
_LAYERS_GEMMA3_27B: Final = 62


class _Values:
    """The values under the name of an architecture; it remembers which were read."""

    def __init__(self, gguf: Gguf) -> None:
        prefix = f"{gguf.architecture}."
        self._values = {name.removeprefix(prefix): v for name, v in gguf.metadata.items() if name.startswith(prefix)}
        self._prefix, self._path = prefix, gguf.path
        self._read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `key`, or `default`."""
        self._read.add(key)
        return self._values.get(key, default)

    def required(self, key: str) -> Any:
        """The value under `key`.

        Raises:
            ConfigError: there is none.
        """
        value = self.get(key)
        if value is None:
            raise ConfigError(
                f"{self._path} does not state {self._prefix + key!r}, which this architecture needs.",
                "Fetch another file of this model, or convert it again with a newer llama.cpp.",
            )
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number, at least 0."""
        value = self.required(key) if default is None else self.get(key, default)
        if type(value) is not int or value < 0:
            raise self.bad(key, value, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as the shortest decimal that its float32 stands for."""
        value = self.required(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(key, value, "a number")
        return _exact(value)

    def each(self, key: str, layers: int) -> Any:
        """One value for all layers, or a list of them."""
        value = self.required(key)
        if not isinstance(value, tuple):
            return value
        if len(value) != layers:
            raise self.bad(key, value, f"one value, or {layers}")
        return value[0] if len(set(value)) == 1 else list(value)

    def bad(self, key: str, value: object, wanted: str) -> ConfigError:
        """The error about a value that cannot be."""
        return ConfigError(
            f"{self._path}: {self._prefix + key!r} is {str(value)[:60]}, but must be {wanted}.",
            "Fetch another file of this model, or convert it again with a newer llama.cpp.",
        )

    def finish(self) -> None:
        """Raises ConfigError where a value was neither read nor is known to say nothing."""
        unknown = [
            self._prefix + key
            for key in sorted(self._values.keys() - self._read)
            if not any(re.fullmatch(pattern, key) for pattern, _ in _IGNORED)
        ]
        if unknown:
            raise ConfigError(
                f"{self._path} states what this version does not know: {', '.join(unknown[:8])}.",
                "A value it cannot read might change the model's answers, so it stops here. Update gemma, or take the "
                "model in the Hugging Face layout.",
            )

    def kinds(self, layers: int, period: int) -> dict[str, Any]:
        """The kind of each layer: stated for each, or as every how many-th layer sees everything."""
        stated = self.get("attention.sliding_window_pattern", period)
        if isinstance(stated, tuple):
            if len(stated) != layers:
                raise self.bad("attention.sliding_window_pattern", stated, f"{layers} values")
            return {"layer_types": [_SLIDING if slides else _FULL for slides in stated]}
        if type(stated) is not int or stated < 1:
            raise self.bad("attention.sliding_window_pattern", stated, "a number above 0")
        kinds = [_SLIDING if (index + 1) % stated else _FULL for index in range(layers)]
        return {"layer_types": kinds, "sliding_window_pattern": stated}  # transformers reads one, mlx-lm the other

    def rope(self, default: float) -> dict[str, Any]:
        """Base and scaling of the full layers (llama-model.cpp, get_rope_freq_scale), as published files spell them.

        Args:
            default: what llama.cpp takes where no base is stated.
        """
        scaling = self.get("rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", 0.0) or 1.0
        if scaling not in ("none", "linear"):
            raise self.bad("rope.scaling.type", scaling, "'none' or 'linear'")
        stretched = {"rope_type": "linear", "factor": factor} if scaling == "linear" and factor != 1.0 else None
        # The inner spelling is that of files made by Ollama.
        base = self.number("rope.freq_base", self.number("rope.global.freq_base", default))
        return {"rope_theta": base, "rope_scaling": stretched}

    def local_rope(self, default: float) -> float:
        """Base of the sliding layers."""
        return self.number("rope.freq_base_swa", self.number("rope.local.freq_base", default))


def _exact(number: float) -> float:
    """The shortest decimal that is this float32: 1e-6, not 9.999999974752427e-07."""
    single = struct.pack("<f", number)
    return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{number:.{digits}g}")) == single)


def config_of(gguf: Gguf) -> dict[str, Any]:
    """config.json of the model in a GGUF file.

    Raises:
        UnsupportedModelError: it is no Gemma, or a part of one.
        ConfigError: a value is missing, unknown or impossible.
        WeightsError: a tensor that says something about the sizes is missing or cannot be read.
    """
    named = gguf.architecture
    architecture = _ARCHITECTURES.get(named)
    if architecture is None:
        what = REFUSED.get(named)
        raise UnsupportedModelError(
            f"{gguf.path} holds {what}."
            if what
            else f"{gguf.path} holds a model of the architecture {named[:64]!r}, which is no Gemma.",
            "Name the file of the model itself, or take a model in the Hugging Face layout: gemma chat gemma3:4b"
            if what
            else "For other families use llama.cpp or mlx-lm.",
        )
    values = _Values(gguf)
    config = architecture(values, gguf)
    values.finish()
    table = quantization_of(gguf)
    stated = {"quantization": table, "quantization_config": table} if table else {}
    return config | {"dtype": "bfloat16" if _is_16_bit(gguf) else "float32"} | stated


def quantization_of(gguf: Gguf) -> dict[str, Any] | None:
    """The table of config.json for the packings that the file's kinds become; None where nothing is packed.

    Which module has which packing is seen from the shapes, as in mixed checkpoints of MLX.
    """
    bits = [entry.kind.packing.bits for entry in gguf.tensors.values() if entry.kind.packing is not None]
    return {"group_size": 32, "bits": statistics.mode(bits), "mode": "affine"} if bits else None


def _is_16_bit(gguf: Gguf) -> bool:
    """Whether the model was trained in 16 bits: all were, but for files that hold float32 throughout."""
    return any(entry.kind.name != "F32" for entry in gguf.tensors.values())


def _shape(gguf: Gguf, name: str) -> tuple[int, ...]:
    entry = gguf.tensors.get(name)
    if entry is None:
        raise WeightsError(
            f"{gguf.path} holds no tensor {name!r}, which this architecture needs.", "Fetch another file of this model."
        )
    return entry.shape


def _dims(values: _Values, gguf: Gguf, model_type: str) -> dict[str, Any]:
    """What every architecture states."""
    layers = values.whole("block_count")
    if not 0 < layers <= 512:
        raise values.bad("block_count", layers, "a number from 1 to 512")
    width, heads = values.whole("embedding_length"), values.whole("attention.head_count")
    head_dim = values.whole("attention.key_length", width // max(heads, 1))
    if (value_length := values.get("attention.value_length", head_dim)) != head_dim:
        raise values.bad("attention.value_length", value_length, f"{head_dim}, as 'attention.key_length' is")
    return {
        "model_type": model_type,
        "vocab_size": _shape(gguf, "token_embd.weight")[0],
        "hidden_size": width,
        "intermediate_size": values.each("feed_forward_length", layers),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": values.each("attention.head_count_kv", layers),
        "head_dim": head_dim,
        "max_position_embeddings": values.required("context_length"),
        "rms_norm_eps": values.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "hidden_activation": "gelu_pytorch_tanh",
    }


def _softcap(values: _Values, key: str, default: float | None) -> float | None:
    return values.number(key, default or 0.0) or None


def _query_scale(dims: Mapping[str, Any], layers_27b: int) -> int:
    """What the 27B divides by is the width over the heads, and others' is the head (load_arch_hparams of both)."""
    wide: int = dims["hidden_size"] // max(dims["num_attention_heads"], 1)
    head: int = dims["head_dim"]
    return wide if dims["num_hidden_layers"] == layers_27b else head


def _gemma(values: _Values, gguf: Gguf) -> dict[str, Any]:
    dims = _dims(values, gguf, "gemma")
    values.get("rope.dimension_count")  # the whole head
    return dims | values.rope(10_000.0)


def _gemma2(values: _Values, gguf: Gguf) -> dict[str, Any]:
    dims = _dims(values, gguf, "gemma2")
    values.get("rope.dimension_count")
    rope = values.rope(10_000.0)
    if (local := values.local_rope(rope["rope_theta"])) != rope["rope_theta"]:
        raise values.bad("rope.freq_base_swa", local, f"{rope['rope_theta']:g}, as that of the other layers is")
    return dims | rope | values.kinds(dims["num_hidden_layers"], 2) | {
        "query_pre_attn_scalar": _query_scale(dims, _LAYERS_GEMMA2_27B),
        "sliding_window": values.get("attention.sliding_window", 4096),
        "attn_logit_softcapping": _softcap(values, "attn_logit_softcapping", 50.0),
        "final_logit_softcapping": _softcap(values, "final_logit_softcapping", 30.0),
    }  # fmt: skip


def _gemma3(values: _Values, gguf: Gguf) -> dict[str, Any]:
    dims = _dims(values, gguf, "gemma3_text")
    values.get("rope.dimension_count")
    return dims | values.rope(1e6) | values.kinds(dims["num_hidden_layers"], 6) | {
        "rope_local_base_freq": values.local_rope(10_000.0),
        "query_pre_attn_scalar": _query_scale(dims, _LAYERS_GEMMA3_27B),
        "sliding_window": values.required("attention.sliding_window"),
        "final_logit_softcapping": _softcap(values, "final_logit_softcapping", None),
    }  # fmt: skip


def _embedding(values: _Values, gguf: Gguf) -> dict[str, Any]:
    if values.get("pooling_type", _MEAN) != _MEAN:
        raise values.bad("pooling_type", values.get("pooling_type"), f"{_MEAN}, the mean over the tokens")
    if "dense_2.weight" not in gguf.tensors:
        raise UnsupportedModelError(
            f"{gguf.path} holds an EmbeddingGemma without the two linear maps behind its mean, so its vectors would be "
            "others than the published model's.",
            "Convert it again with llama.cpp's --sentence-transformers-dense-modules, or: gemma embed -m "
            "google/embeddinggemma-300m TEXT",
        )
    for key in ("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"):
        values.get(key)  # the tensors' shapes say the same
    return _gemma3(values, gguf) | {"use_bidirectional_attention": True}


def _gemma3n(values: _Values, gguf: Gguf) -> dict[str, Any]:
    dims = _dims(values, gguf, "gemma3n_text")
    values.get("rope.dimension_count")
    layers = dims["num_hidden_layers"]
    sparsity = values.required("activation_sparsity_scale")
    normal = statistics.NormalDist()
    # The file has the factor of the standard deviation; the part that is cut off is what it was computed from.
    pattern = [round(normal.cdf(scale), 6) if math.isfinite(scale) else 0.0 for scale in sparsity]
    return dims | values.rope(1e6) | {
        "rope_local_base_freq": values.local_rope(10_000.0),
        "sliding_window": values.required("attention.sliding_window"),
        "layer_types": values.kinds(layers, 5)["layer_types"],
        "final_logit_softcapping": _softcap(values, "final_logit_softcapping", 30.0),
        "num_kv_shared_layers": values.whole("attention.shared_kv_layers"),
        "activation_sparsity_pattern": pattern,
        "altup_active_idx": values.required("altup.active_idx"),
        "altup_num_inputs": values.required("altup.num_inputs"),
        "laurel_rank": _shape(gguf, "blk.0.laurel_l.weight")[0],
        "hidden_size_per_layer_input": values.required("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": _shape(gguf, "per_layer_token_embd.weight")[0],
    }  # fmt: skip


def _gemma4(values: _Values, gguf: Gguf) -> dict[str, Any]:
    dims = _dims(values, gguf, "gemma4_text")
    layers, wide = dims["num_hidden_layers"], dims["head_dim"]
    kinds = values.kinds(layers, 6)["layer_types"]
    narrow = values.whole("attention.key_length_swa")
    if values.get("attention.value_length_swa", narrow) != narrow:
        raise values.bad("attention.value_length_swa", values.get("attention.value_length_swa"), str(narrow))
    for key, length in (("rope.dimension_count", wide), ("rope.dimension_count_swa", narrow)):
        if values.get(key, length) != length:
            raise values.bad(key, values.get(key), f"{length}, the width of a head")
    borrowers = values.whole("attention.shared_kv_layers", 0)
    full = {"rope_type": "proportional", "partial_rotary_factor": _turning(gguf, wide)}
    full["rope_theta"], stretched = values.rope(1e6).values()
    if stretched is not None:
        raise values.bad("rope.scaling.factor", stretched["factor"], "1: no Gemma 4 stretches its positions")
    per_layer = values.whole("embedding_length_per_layer_input", 0)
    experts = values.whole("expert_count", 0)
    own_full = [index for index in range(layers - borrowers) if kinds[index] == _FULL]
    return (
        dims
        | _feed_forward(values, dims["intermediate_size"], layers - borrowers)
        | _key_heads(values, dims["num_key_value_heads"], kinds)
        | {
            "head_dim": narrow,
            "global_head_dim": wide,
            "sliding_window": values.required("attention.sliding_window"),
            "layer_types": kinds,
            "final_logit_softcapping": _softcap(values, "final_logit_softcapping", 30.0),
            "rope_parameters": {
                _FULL: full,
                _SLIDING: {"rope_type": "default", "rope_theta": values.local_rope(10_000.0)},
            },
            "num_kv_shared_layers": borrowers,
            "attention_k_eq_v": bool(own_full) and f"blk.{own_full[0]}.attn_v.weight" not in gguf.tensors,
            "hidden_size_per_layer_input": per_layer,
            "vocab_size_per_layer_input": _shape(gguf, "per_layer_token_embd.weight")[0] if per_layer else None,
            "enable_moe_block": bool(experts),
            "num_experts": experts or None,
            "top_k_experts": values.whole("expert_used_count", 0) or None,
            "moe_intermediate_size": values.whole("expert_feed_forward_length", 0) or None,
        }
    )


def _feed_forward(values: _Values, widths: int | Sequence[int], owners: int) -> dict[str, Any]:
    """config.json knows one width, and twice that in the layers that borrow keys and values."""
    if isinstance(widths, int):
        return {"use_double_wide_mlp": False}
    narrow = widths[0]
    if list(widths) != [narrow if index < owners else 2 * narrow for index in range(len(widths))]:
        raise values.bad("feed_forward_length", tuple(widths), "one width, and twice that in the last layers")
    return {"intermediate_size": narrow, "use_double_wide_mlp": True}


def _key_heads(values: _Values, heads: int | Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """One number of heads for keys and values in each kind of layer."""
    if isinstance(heads, int):
        return {}
    found = {kind: {number for number, other in zip(heads, kinds, strict=True) if other == kind} for kind in kinds}
    if any(len(numbers) != 1 for numbers in found.values()):
        raise values.bad("attention.head_count_kv", tuple(heads), "the same in all layers of a kind")
    return {"num_key_value_heads": min(found[_SLIDING]), "num_global_key_value_heads": min(found[_FULL])}


def _turning(gguf: Gguf, head_dim: int) -> float:
    """The part of a full layer's head that turns: the others' frequencies are divided by 1e30."""
    name = "rope_freqs.weight"
    shape = _shape(gguf, name)
    entry = gguf.tensors[name]
    wrong = WeightsError(
        f"The tensor {name!r} of {gguf.path} is no list of {head_dim // 2} ones and very large numbers behind them.",
        "Fetch another file of this model, or convert it again with a newer llama.cpp.",
    )
    if shape != (head_dim // 2,) or entry.kind.name != "F32":
        raise wrong
    try:
        with entry.file.open("rb") as file:
            file.seek(entry.start)
            factors = struct.unpack(f"<{shape[0]}f", file.read(4 * shape[0]))
    except (OSError, struct.error) as error:
        raise WeightsError(f"{entry.file} cannot be read: {error}.", "Fetch the file again.") from error
    turned = factors.count(1.0)
    if not turned or factors != (1.0,) * turned + (factors[-1],) * (len(factors) - turned) or (
        turned < len(factors) and factors[-1] < 1e20
    ):  # fmt: skip
        raise wrong
    return float(turned / len(factors))


_ARCHITECTURES: Final[Mapping[str, Callable[[_Values, Gguf], dict[str, Any]]]] = {
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma-embedding": _embedding,
    "gemma3n": _gemma3n,
    "gemma4": _gemma4,
}
ARCHITECTURES: Final = tuple(_ARCHITECTURES)
