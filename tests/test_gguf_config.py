"""Sizes out of GGUF files, as config.json has them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx import registry
from gemma_mlx.errors import ConfigError, GemmaError, UnsupportedModelError, WeightsError
from gemma_mlx.gguf.config import ARCHITECTURES, REFUSED, config_of
from gemma_mlx.gguf.reader import read_gguf
from gemma_mlx.spec import DecoderSpec
from tests import gguf_files

# As llama.cpp's converter writes a Gemma 3 4B.
GEMMA3: dict[str, Any] = {
    "context_length": 131072,
    "embedding_length": 2560,
    "block_count": 34,
    "feed_forward_length": 10240,
    "attention.head_count": 8,
    "attention.head_count_kv": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "rope.freq_base": 1000000.0,
    "attention.sliding_window": 1024,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 8.0,
}
GEMMA2 = {key: value for key, value in GEMMA3.items() if not key.startswith("rope.")}


def config(folder: Path, architecture: str, values: dict[str, Any], tensors: dict[str, Any] | None = None) -> Any:
    path = folder / "model.gguf"
    metadata = {"general.architecture": architecture} | {f"{architecture}.{key}": v for key, v in values.items()}
    row = 4 * 8
    made = {"token_embd.weight": ("F32", (8, 8), bytes(8 * row))} | (tensors or {})
    return config_of(read_gguf(gguf_files.write(path, metadata, made)))


def spec(found: dict[str, Any]) -> DecoderSpec:
    made = registry.match(found).spec
    assert isinstance(made, DecoderSpec)
    return made


def test_gemma3_as_published(tmp_path: Path) -> None:
    made = spec(config(tmp_path, "gemma3", GEMMA3))
    layers = made.layers
    assert [index for index, layer in enumerate(layers) if layer.attention.window is None] == [5, 11, 17, 23, 29]
    assert {layer.attention.window for layer in layers} == {None, 1024}
    full, sliding = layers[5].attention.rope, layers[0].attention.rope
    assert (full.theta, full.scale, sliding.theta, sliding.scale) == (1e6, 1 / 8, 1e4, 1.0)
    assert layers[0].attention.scale == 256**-0.5
    assert (made.norm_eps, made.vocab, made.logit_softcap, made.tied_head) == (1e-6, 8, None, True)


@pytest.mark.parametrize(
    ("architecture", "layers", "width", "heads", "scale"),
    [
        ("gemma2", 46, 4608, 32, 144), ("gemma2", 42, 3584, 16, 256),
        ("gemma3", 62, 5376, 32, 168), ("gemma3", 48, 3840, 16, 256),
    ],
)  # fmt: skip
def test_the_27b_divide_by_their_width_over_their_heads(
    architecture: str, layers: int, width: int, heads: int, scale: int, tmp_path: Path
) -> None:
    values = GEMMA3 if architecture == "gemma3" else GEMMA2
    sizes = {"block_count": layers, "embedding_length": width, "attention.head_count": heads}
    assert config(tmp_path, architecture, values | sizes)["query_pre_attn_scalar"] == scale


def test_gemma2_takes_for_granted_what_llama_cpp_does(tmp_path: Path) -> None:
    values = {key: value for key, value in GEMMA2.items() if key != "attention.sliding_window"}
    made = spec(config(tmp_path, "gemma2", values))
    assert [layer.attention.window for layer in made.layers[:3]] == [4096, None, 4096]
    assert (made.layers[0].attention.softcap, made.logit_softcap) == (50.0, 30.0)
    assert made.layers[0].attention.rope.theta == 10_000.0


def test_gemma1(tmp_path: Path) -> None:
    values = {key: value for key, value in GEMMA2.items() if key != "attention.sliding_window"}
    made = spec(config(tmp_path, "gemma", values))
    assert made.layers[0].attention.window is None
    assert made.layers[0].attention.rope.theta == 10_000.0


def test_other_spellings(tmp_path: Path) -> None:
    values = {key: value for key, value in GEMMA3.items() if not key.startswith("rope.")}
    ollama = {"rope.global.freq_base": 5e5, "rope.local.freq_base": 2e4, "vision.block_count": 27, "mm.tokens": 256}
    made = spec(config(tmp_path, "gemma3", values | ollama))
    assert made.layers[5].attention.rope.theta == 5e5
    assert made.layers[0].attention.rope.theta == 2e4
    pattern = config(tmp_path, "gemma3", GEMMA3 | {"attention.sliding_window_pattern": 2})
    assert pattern["layer_types"][:3] == ["sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embedding_length": "wide"}, "a whole number"),
        ({"block_count": 100_000}, "from 1 to 512"),
        ({"attention.value_length": 128}, "'attention.key_length'"),
        ({"attention.layer_norm_rms_epsilon": "small"}, "a number"),
        ({"attention.layer_norm_rms_epsilon": math.nan}, "a number"),
        ({"feed_forward_length": [1, 2]}, "one value, or 34"),
        ({"rope.scaling.type": "yarn"}, "'none' or 'linear'"),
        ({"attention.sliding_window_pattern": [True]}, "34 values"),
        ({"attention.sliding_window_pattern": 0}, "above 0"),
        ({"attention.new_thing": 1}, "gemma3.attention.new_thing"),
    ],
)
def test_a_value_that_cannot_be(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, "gemma3", GEMMA3 | change)
    assert says in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("key", ["embedding_length", "attention.sliding_window", "attention.head_count_kv"])
def test_a_value_that_is_missing(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        config(tmp_path, "gemma3", {name: value for name, value in GEMMA3.items() if name != key})


def test_another_base_for_sliding_layers_of_a_gemma2(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="freq_base_swa"):
        config(tmp_path, "gemma2", GEMMA2 | {"rope.freq_base_swa": 7.0})


@pytest.mark.parametrize("architecture", [*REFUSED, "llama", ""])
def test_what_is_no_gemma_here(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        config(tmp_path, architecture, {})
    assert caught.value.hint is not None
    assert architecture not in ARCHITECTURES


def test_no_embedding_table(tmp_path: Path) -> None:
    metadata = {"general.architecture": "gemma3"} | {f"gemma3.{key}": value for key, value in GEMMA3.items()}
    with pytest.raises(WeightsError, match=r"token_embd\.weight"):
        config_of(read_gguf(gguf_files.write(tmp_path / "model.gguf", metadata, {})))


def test_an_embedding_model_without_its_maps(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="linear maps") as caught:
        config(tmp_path, "gemma-embedding", GEMMA3)
    assert "--sentence-transformers-dense-modules" in str(caught.value.hint)
    dense = {"dense_2.weight": ("F32", (8, 8), bytes(256))}
    with pytest.raises(ConfigError, match="the mean over the tokens"):
        config(tmp_path, "gemma-embedding", GEMMA3 | {"pooling_type": 2}, dense)
    assert config(tmp_path, "gemma-embedding", GEMMA3, dense)["use_bidirectional_attention"] is True


GEMMA4 = GEMMA2 | {
    "block_count": 6,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "attention.key_length_swa": 8,
    "attention.sliding_window_pattern": [True, True, False, True, True, False],
}


def factors(*numbers: float) -> dict[str, Any]:
    return {"rope_freqs.weight": ("F32", (len(numbers),), struct.pack(f"<{len(numbers)}f", *numbers))}


TURNING = factors(1, 1, *[1e30] * 6)


def test_gemma4(tmp_path: Path) -> None:
    values = {"attention.head_count_kv": [2, 2, 1, 2, 2, 1], "feed_forward_length": [9, 9, 9, 9, 18, 18]}
    found = config(tmp_path, "gemma4", GEMMA4 | values | {"attention.shared_kv_layers": 2}, TURNING)
    made = spec(found)
    assert [layer.mlp_dim for layer in made.layers] == [9, 9, 9, 9, 18, 18]
    assert [layer.attention.kv_heads for layer in made.layers] == [2, 2, 1, 2, 2, 1]
    assert [layer.attention.head_dim for layer in made.layers] == [8, 8, 16, 8, 8, 16]
    assert made.layers[2].attention.rope.turning == 0.25
    assert made.layers[2].attention.keys_as_values
    assert made.logit_softcap == 30.0


@pytest.mark.parametrize(
    ("values", "tensors", "error"),
    [
        ({}, {}, WeightsError),
        ({}, factors(1, 1, 1), WeightsError),
        ({}, factors(2, *[1e30] * 7), WeightsError),
        ({}, factors(1, *[2.0] * 7), WeightsError),
        ({"rope.dimension_count": 8}, TURNING, ConfigError),
        ({"attention.value_length_swa": 9}, TURNING, ConfigError),
        ({"rope.scaling.factor": 8.0}, TURNING, ConfigError),
        ({"feed_forward_length": [9, 9, 9, 9, 9, 27]}, TURNING, ConfigError),
        ({"attention.head_count_kv": [1, 2, 2, 2, 2, 2]}, TURNING, ConfigError),
    ],
)
def test_a_gemma4_that_cannot_be(
    values: dict[str, Any], tensors: dict[str, Any], error: type[GemmaError], tmp_path: Path
) -> None:
    with pytest.raises(error):
        config(tmp_path, "gemma4", GEMMA4 | values, tensors)


def test_what_is_packed_is_told(tmp_path: Path) -> None:
    assert "quantization" not in config(tmp_path, "gemma3", GEMMA3)
    assert config(tmp_path, "gemma3", GEMMA3)["dtype"] == "float32"
    made = config(tmp_path, "gemma3", GEMMA3, {"x": ("Q8_0", (1, 32), bytes(34)), "y": ("Q8_0", (1, 32), bytes(34))})
    assert made["quantization"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert made["dtype"] == "bfloat16"
