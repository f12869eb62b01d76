"""Formats: which matrix is packed how."""

from __future__ import annotations

import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.quantize.formats import BITS_4, BITS_8, BLOCKS_OF_32, FORMATS, PREFERENCE, named

WIDE = 128


@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("model.embed_tokens", BITS_8),
        ("model.embed_tokens_per_layer", BITS_8),
        ("model.per_layer_model_projection", BITS_8),
        ("lm_head", BITS_8),
        ("model.layers.3.router.proj", BITS_8),
        ("model.layers.3.experts.down_proj", BITS_4),
        ("model.layers.3.self_attn.q_proj", BITS_4),
        ("model.layers.3.per_layer_projection", BITS_4),
    ],
)
def test_mixed(path: str, how: object) -> None:
    assert FORMATS["mixed"](path, WIDE) == how


@pytest.mark.parametrize("name", ["8-bit", "6-bit", "4-bit", "mixed"])
def test_rows_that_groups_do_not_divide_stay(name: str) -> None:
    assert FORMATS[name]("model.layers.0.mlp.up_proj", WIDE) is not None
    assert FORMATS[name]("model.layers.0.mlp.up_proj", 96) is None


def test_groups_of_32() -> None:
    assert FORMATS["QAT"]("a", 96) == BLOCKS_OF_32
    assert FORMATS["QAT"].trained == "q4_0"


def test_bf16_packs_nothing() -> None:
    assert FORMATS["bf16"]("model.embed_tokens", WIDE) is None


def test_every_format_but_bf16_may_be_preferred() -> None:
    assert set(PREFERENCE) == set(FORMATS) - {"bf16"}
    assert all(name == each.name and each.told for name, each in FORMATS.items())


@pytest.mark.parametrize(("typed", "name"), [("4bit", "4-bit"), (" 4-Bit ", "4-bit"), ("qat", "QAT"), ("BF16", "bf16")])
def test_names(typed: str, name: str) -> None:
    assert named(typed) is FORMATS[name]


def test_no_such_format() -> None:
    with pytest.raises(InputError, match=r"'5-bit' is no format; there are bf16, 8-bit, 6-bit, 4-bit, mixed, QAT"):
        named("5-bit")
