"""What recipes and flags say about matrices."""

from __future__ import annotations

import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.quantize.formats import BITS_4, BITS_8, Format, Rule
from gemma_mlx.quantize.recipe import DEFAULT, RECIPES, TOWER_MAPS, format_of, packing, parse_keep, recipe
from gemma_mlx.weights.quantized import AFFINE_BITS, AFFINE_GROUPS, FIXED, Quantization


def test_names() -> None:
    assert recipe(" Gemma ") is RECIPES[DEFAULT]
    with pytest.raises(InputError, match="'gema' is no recipe; there are gemma, uniform, qat, bf16") as caught:
        recipe("gema")
    assert caught.value.hint == "--recipe gemma"


def _bits(form: Format, path: str) -> int | None:
    how = form.of(path, 64)
    return None if how is None else how.bits


def test_the_recipe_gemma_gives_bits_where_a_weight_counts() -> None:
    form = format_of(RECIPES["gemma"], BITS_4)
    fine = ("model.embed_tokens_per_layer", "model.layers.9.router.proj", "dense.0", "model.per_layer_model_projection")
    assert {form.of(path, 64) for path in fine} == {BITS_8}
    layer = "model.layers.3.self_attn"
    assert [_bits(form, path) for path in ("model.embed_tokens", "lm_head", f"{layer}.v_proj")] == [6, 6, 6]
    assert [_bits(form, f"{layer}.{name}") for name in ("k_proj", "o_proj")] == [5, 5]
    assert form.of(f"{layer}.q_proj", 64) is None  # the rest is the base's
    assert form.of("model.layers.3.experts.down_proj", 64) is None
    assert format_of(RECIPES["uniform"], BITS_4).of("lm_head", 64) is None


@pytest.mark.parametrize(("base", "two", "one"), [(2, 4, 3), (3, 5, 4), (5, 8, 6), (6, 8, 8), (8, 8, 8)])
def test_more_bits_than_the_rest(base: int, two: int, one: int) -> None:
    form = format_of(RECIPES["gemma"], Quantization(mode="affine", bits=base, group_size=64))
    assert (_bits(form, "lm_head"), _bits(form, "model.layers.0.self_attn.o_proj")) == (two, one)


def test_finer_than_the_recipe_stays_so() -> None:
    fine = Quantization(mode="affine", bits=8, group_size=32)
    assert format_of(RECIPES["gemma"], fine).of("lm_head", 64) == fine
    mx8 = Quantization(mode="mxfp8", bits=8, group_size=32)
    assert format_of(RECIPES["gemma"], mx8).of("lm_head", 64) == BITS_8


def test_what_is_kept_comes_first() -> None:
    form = format_of(RECIPES["gemma"], BITS_4, [Rule("lm_head", None), Rule("head|v_proj", BITS_4)])
    assert form.of("lm_head", 64) is None
    assert form.of("model.layers.0.self_attn.v_proj", 64) == BITS_4


@pytest.mark.parametrize(
    "path",
    [
        "vision_tower.vision_model.encoder.layers.3.self_attn.out_proj",
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1",
        "model.vision_tower.encoder.layers.3.self_attn.q_proj.linear",
        "model.embed_vision.embedding_projection",
    ],
)
def test_maps_of_towers(path: str) -> None:
    assert format_of(RECIPES["gemma"], BITS_4).of(path, 64) == BITS_8
    assert format_of(RECIPES["uniform"], BITS_4).of(path, 64) is None


def test_what_is_no_map_of_a_tower() -> None:
    import re

    for path in ("vision_tower.vision_model.embeddings.position_embedding", "audio_tower.conv.0", "model.x.q_proj"):
        assert re.search(TOWER_MAPS, path) is None


def test_every_packing_can_be_named() -> None:
    for bits in AFFINE_BITS:
        for group in AFFINE_GROUPS:
            named = packing("affine", bits, group, BITS_4)
            assert named == Quantization(mode="affine", bits=bits, group_size=group)
    for mode, (bits, group) in FIXED.items():
        assert packing(mode, None, None, BITS_4) == Quantization(mode=mode, bits=bits, group_size=group)
        assert packing(mode, bits, group, BITS_4) == packing(mode, None, None, BITS_4)
    assert packing(None, None, None, BITS_8) == BITS_8


@pytest.mark.parametrize(
    ("mode", "bits", "group", "says"),
    [
        ("q4_0", None, None, "'q4_0' is no mode; there are affine, mxfp4, mxfp8, nvfp4"),
        (None, 7, None, "--bits is 7, and must be one of 2, 3, 4, 5, 6, 8"),
        (None, None, 16, "--group-size is 16, and must be one of 32, 64, 128"),
        ("mxfp4", 8, None, "mxfp4 has 4 bits in groups of 32, and nothing else"),
        ("nvfp4", None, 32, "nvfp4 has 4 bits in groups of 16"),
    ],
)
def test_no_such_packing(mode: str | None, bits: int | None, group: int | None, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        packing(mode, bits, group, BITS_4)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("v_proj=8", Rule("v_proj", BITS_8)),
        ("a=b=6/32", Rule("a=b", Quantization(mode="affine", bits=6, group_size=32))),
        (r"layers\.[0-3]\.= BF16", Rule(r"layers\.[0-3]\.", None)),
        ("mlp=mxfp4", Rule("mlp", Quantization(mode="mxfp4", bits=4, group_size=32))),
    ],
)
def test_what_can_be_kept(text: str, rule: Rule) -> None:
    assert parse_keep(text) == rule


@pytest.mark.parametrize("text", ["", "v_proj", "=8", "(=8", "v=7", "v=8/16", "v=8/", "v=q4", "v=/32", "v=8/32/1"])
def test_what_cannot(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_keep(text)
    assert caught.value.hint
