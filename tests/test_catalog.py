"""The catalogue: names as people type them, and rows that agree with each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from gemma_mlx import catalog
from gemma_mlx.errors import ModelNotFoundError

FILE: Final = Path(catalog.__file__).with_name("catalog.json")

SPELLINGS: Final = {
    # family and size; without a variant, the one that follows instructions
    "gemma3:4b": "gemma-3-4b-it",
    "gemma3:270m": "gemma-3-270m-it",
    "gemma2:2b": "gemma-2-2b-it",
    "gemma2:27b": "gemma-2-27b-it",
    "gemma4:e2b": "gemma-4-E2B-it",
    "gemma4:12b": "gemma-4-12B-it",
    "gemma4:26b": "gemma-4-26B-A4B-it",
    "gemma4:26b-a4b": "gemma-4-26B-A4B-it",
    "gemma4:31b": "gemma-4-31B-it",
    "gemma3n:e4b": "gemma-3n-E4B-it",
    "gemma:2b": "gemma-2b-it",
    "gemma:7b": "gemma-7b-it",
    "gemma1.1:7b": "gemma-1.1-7b-it",
    "gemma3:4b:latest": "gemma-3-4b-it",
    # size alone: the newest generation that has it
    "e2b": "gemma-4-E2B-it",
    "e4b": "gemma-4-E4B-it",
    "12b": "gemma-4-12B-it",
    "26b": "gemma-4-26B-A4B-it",
    "31B": "gemma-4-31B-it",
    "27b": "gemma-3-27b-it",
    "4b": "gemma-3-4b-it",
    "9b": "gemma-2-9b-it",
    "2b": "gemma-2-2b-it",
    "7b": "gemma-1.1-7b-it",
    # generation and size
    "4:12b": "gemma-4-12B-it",
    "3:27b-it": "gemma-3-27b-it",
    "3n:e2b": "gemma-3n-E2B-it",
    "2:9b": "gemma-2-9b-it",
    # with a variant
    "gemma3:4b-it": "gemma-3-4b-it",
    "gemma3:4b-pt": "gemma-3-4b-pt",
    "gemma2:2b-pt": "gemma-2-2b",
    "gemma4:e4b-base": "gemma-4-E4B",
    "12b-pt": "gemma-4-12B",
    "gemma-3-4b-instruct": "gemma-3-4b-it",
    "gemma3:27b-qat": "gemma-3-27b-it-qat-q4_0-unquantized",
    "gemma3:27b-it-qat": "gemma-3-27b-it-qat-q4_0-unquantized",
    "e4b-assistant": "gemma-4-E4B-it-assistant",
    # other separators, as on a page
    "Gemma 3 4B": "gemma-3-4b-it",
    "Gemma 4 E4B": "gemma-4-E4B-it",
    "gemma_3_1b_it": "gemma-3-1b-it",
    "  gemma3-12b ": "gemma-3-12b-it",
    "PaliGemma 2 3B mix 448": "paligemma2-3b-mix-448",
    "EmbeddingGemma 300M": "embeddinggemma-300m",
    # the family's other members
    "codegemma:2b": "codegemma-2b",
    "codegemma:7b": "codegemma-7b-it",
    "medgemma:4b-it": "medgemma-4b-it",
    "medgemma:27b": "medgemma-27b-it",
    "medgemma:27b-text": "medgemma-27b-text-it",
    "medgemma1.5:4b": "medgemma-1.5-4b-it",
    "translategemma:12b": "translategemma-12b-it",
    "recurrentgemma:2b": "recurrentgemma-2b-it",
    "shieldgemma:2b": "shieldgemma-2b",
    "shieldgemma2:4b": "shieldgemma-2-4b-it",
    "embeddinggemma": "embeddinggemma-300m",
    "embeddinggemma2": "embeddinggemma-2",
    "functiongemma": "functiongemma-270m-it",
    "vaultgemma": "vaultgemma-1b",
    "diffusiongemma": "diffusiongemma-26B-A4B-it",
    "datagemma:rig": "datagemma-rig-27b-it",
    "txgemma:9b-chat": "txgemma-9b-chat",
    "t5gemma:2b-2b-ul2-it": "t5gemma-2b-2b-ul2-it",
    "t5gemma2:270m": "t5gemma-2-270m-270m",
    # a repository, with or without its owner, is that repository
    "google/gemma-3-4b-pt": "gemma-3-4b-pt",
    "GOOGLE/GEMMA-4-E4B": "gemma-4-E4B",
    "gemma-2-2b": "gemma-2-2b",
    "gemma-2b": "gemma-2b",
    "INSAIT-Institute/BgGPT-Gemma-2-9B-IT-v1.0": "BgGPT-Gemma-2-9B-IT-v1.0",
}


# Variants, as they are typed here and in other programs.
VARIANTS: Final = {
    "12b": ("gemma-4-12B-it", None),
    "12b:8bit": ("gemma-4-12B-it", "8-bit"),
    "12b-8bit": ("gemma-4-12B-it", "8-bit"),
    "12b@8bit": ("gemma-4-12B-it", "8-bit"),
    "12b 8 bit": ("gemma-4-12B-it", "8-bit"),
    "gemma4:12b:6bit": ("gemma-4-12B-it", "6-bit"),
    "gemma4:12b:bf16": ("gemma-4-12B-it", "bf16"),
    "gemma3:12b-it-fp16": ("gemma-3-12b-it", "bf16"),
    "gemma3:12b-it-q8_0": ("gemma-3-12b-it", "8-bit"),
    "gemma3:12b-it-q4_K_M": ("gemma-3-12b-it", "4-bit"),
    "gemma3:12b-it-qat": ("gemma-3-12b-it", "QAT"),
    "gemma3:12b-it-q4_0": ("gemma-3-12b-it", "4-bit"),
    "gemma3:27b-qat": ("gemma-3-27b-it", "QAT"),
    "27b:qat": ("gemma-3-27b-it", "QAT"),
    "gemma-3-4b-it-qat-4bit": ("gemma-3-4b-it", "QAT"),
    "gemma-3-4b-it-4bit": ("gemma-3-4b-it", "4-bit"),
    "gemma-4-12b:8bit": ("gemma-4-12B", "8-bit"),
    "gemma4:12b-pt:8bit": ("gemma-4-12B", "8-bit"),
    "e4b:mixed": ("gemma-4-E4B-it", "mixed"),
    "medgemma:4b-it:4bit": ("medgemma-4b-it", "4-bit"),
    "google/gemma-3-4b-it:8bit": ("gemma-3-4b-it", "8-bit"),
    "gemma3:27b-qat:8bit": ("gemma-3-27b-it-qat-q4_0-unquantized", "8-bit"),
    "gemma3:4b-qat-gguf": ("gemma-3-4b-it-qat-q4_0-gguf", None),
    "gemma3:4b-qat-int4": ("gemma-3-4b-it-qat-int4-unquantized", None),
}


@pytest.mark.parametrize("spelling", VARIANTS)
def test_a_variant_is_found(spelling: str) -> None:
    meant = catalog.meant(spelling)
    assert (meant.row.name, meant.form) == VARIANTS[spelling]
    assert not meant.exact


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_without_a_variant_means_the_same_model(spelling: str) -> None:
    meant = catalog.meant(spelling)
    if "qat" not in spelling:
        assert (meant.row, meant.form) == (catalog.find(spelling), None)


@pytest.mark.parametrize("name", ["google/gemma-3-4b-it", "GOOGLE/gemma-3-4b-it", "gemma-3-4b-it"])
def test_a_repository_leaves_nothing_to_choose(name: str) -> None:
    assert catalog.meant(name).exact


@pytest.mark.parametrize(
    ("name", "told", "hint"),
    [
        ("12bb", "is no published Gemma", "gemma4:12b"),
        ("12bb:8bit", "'12bb' is no published Gemma", "gemma4:12b"),
        ("12b:9bit", "There is no variant of 9 bits; there are bf16, 8-bit", "12b:8bit"),
        ("gemma2:9b:qat", "gemma2:9b was never trained for 4 bits", "gemma fit gemma2:9b"),
        ("gemma3:8bit", "is 5 models", "gemma3:270m"),
        ("mlx-community/gemma-3-4b-it-4bit", "is no published Gemma", "Names look like"),
    ],
)
def test_a_variant_that_is_not_there(name: str, told: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        catalog.meant(name)
    assert told in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "row", [row for row in catalog.rows() if row.short and row.qat is None], ids=lambda row: row.name
)
def test_what_is_typed_for_a_variant_means_it(row: catalog.Row) -> None:
    for form in catalog.FORMS:
        if form != "QAT" or catalog.kin(row, catalog.TRAINED) is not None:
            meant = catalog.meant(catalog.spelled(row, form))
            assert (meant.row, meant.form) == (row, form)


def test_packed_repositories() -> None:
    packed = catalog.packed()
    assert len({each.repository.lower() for each in packed}) == len(packed)
    known = {row.repository for row in catalog.rows()}
    for each in packed:
        assert re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", each.repository)
        assert each.form in catalog.FORMS
        assert each.source
        assert each.row.qat is None
        assert each.row.format == "safetensors"
        plain = each.row.name.lower()
        assert plain in each.repository.lower(), "it is named after what is packed in it"
        if each.repository in known:
            assert each.format in ("gguf", "compressed-tensors")
            assert each.form == "QAT"
            continue
        bits = re.search(r"-(\d)bit\Z", each.repository)
        assert bits is not None
        assert {"QAT": "4", "mixed": "4"}.get(each.form, each.form[0]) == bits[1]
        assert ("qat" in each.repository.lower()) == (each.form == "QAT")
        if each.nbytes is not None and each.row.nbytes() is not None:
            assert each.row.nbytes(int(bits[1])) < each.nbytes * 1.02, "no fewer bits than it says"  # type: ignore[operator]
            assert each.nbytes < each.row.nbytes(), "and fewer than before"  # type: ignore[operator]
    twice = Counter((each.row.name, each.form, each.format) for each in packed)
    assert twice.most_common(1)[0][1] == 1


def test_the_kin_of_a_model() -> None:
    plain, trained = catalog.find("gemma3:4b"), catalog.find("gemma3:4b-qat")
    assert catalog.kin(plain, "q4_0") is trained
    assert catalog.kin(trained, None) is plain
    assert catalog.kin(catalog.find("medgemma:4b"), "q4_0") is None, "the same dimensions, and another model"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_is_found(spelling: str) -> None:
    assert catalog.find(spelling).name == SPELLINGS[spelling]


def test_there_are_sixty_spellings() -> None:
    assert len(SPELLINGS) >= 60


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("gemma3", 5, "gemma3:270m, gemma3:1b, gemma3:4b, gemma3:12b, gemma3:27b"),
        ("gemma4", 5, "gemma4:e2b, gemma4:e4b, gemma4:12b, gemma4:26b-a4b, gemma4:31b"),
        ("4", 5, "gemma4:e2b"),
        ("gemma:12b", 2, "gemma4:12b, gemma3:12b"),
        ("paligemma2:3b", 6, "paligemma2:3b-mix-224"),
        ("t5gemma:2b-2b", 4, "t5gemma:2b-2b-prefixlm"),
    ],
)
def test_several_models_are_named(name: str, count: int, first: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"'{name}' is {count} models: {first}") as caught:
        catalog.find(name)
    assert caught.value.hint is not None
    assert "Name one of them" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gema3:4b", "gemma3:4b"),
        ("gemma3:5b", "gemma3:4b"),
        ("medgemma:text", "medgemma:27b-text"),
        ("codegema:7b", "codegemma:7b"),
        ("gemma-3-4b-it-4bit", "gemma3:4b"),
        ("mlx-community/gemma-3-4b-it-4bit", "gemma3:4b"),
        ("llama", "Names look like gemma3:4b"),
        ("", "Names look like"),
        ("google/", "Names look like"),
        ("-" * 5000, "Names look like"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is no published Gemma") as caught:
        catalog.find(name)
    assert caught.value.hint is not None
    assert meant in caught.value.hint
    assert len(caught.value.message) < 120


@pytest.mark.parametrize("row", catalog.rows(), ids=lambda row: row.name)
def test_every_name_of_a_row_means_that_row(row: catalog.Row) -> None:
    for name in (row.name, row.repository, row.short, *row.also, row.label):
        assert name is None or catalog.find(name) is row


def test_rows_agree_with_each_other() -> None:
    rows = catalog.rows()
    assert len(rows) == 187
    assert [row.name for row in rows] == sorted((row.name for row in rows), key=str.lower)
    for row in rows:
        assert set(row.modalities) <= {"text", "image", "audio", "video"}
        assert row.confidence in ("verified", "likely", "unsure")
        assert row.repository is None or row.repository.endswith(f"/{row.name}")
        if row.network is not None:
            parts = row.network.parameters
            assert ("image" in row.modalities) == bool(parts.vision), row.name
            assert ("audio" in row.modalities) == bool(parts.audio), row.name
            assert (row.network.active or 0) < parts.total
            assert row.stored is None or row.stored > parts.total
    nameless = [row for row in rows if row.network is None]
    assert len(nameless) == 10
    assert all(row.generation == "Derivative" or row.repository is None for row in nameless)
    assert {row.network.name for row in rows if row.network} == set(json.loads(FILE.read_bytes())["networks"])


def test_the_totals_of_published_files() -> None:
    """As the pages of the models and their indices of weights have them."""
    totals = {
        "gemma-2b": 2_506_172_416,
        "gemma-2-27b": 27_227_128_320,
        "gemma-3-4b-it": 4_300_079_472,
        "embeddinggemma-300m": 307_581_696,
        "gemma-4-26B-A4B": 25_805_933_872,
    }
    for name, total in totals.items():
        network = catalog.find(name).network
        assert network is not None
        assert network.parameters.total == total
    assert catalog.find("gemma-3n-E4B").stored == 7_849_978_192


def test_the_file_is_one_row_to_a_line() -> None:
    text = FILE.read_text(encoding="utf-8")
    read = json.loads(text)
    assert len(text.splitlines()) == len(read["networks"]) + len(read["models"]) + len(read["packed"]) + 8
    assert len(text) < 150_000


def test_reading_takes_milliseconds_and_help_does_not_read_it() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        catalog._read.cache_clear()
        catalog.rows.__wrapped__()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.05  # 0.002 s on a quiet machine
    program = "import sys, gemma_mlx.cli.app; sys.exit('gemma_mlx.catalog' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_row_cannot_be_changed() -> None:
    network = catalog.find("gemma3:4b").network
    assert network is not None
    with pytest.raises(TypeError):
        network.config["hidden_size"] = 1  # type: ignore[index]
    assert hash(network)


def test_matching() -> None:
    assert catalog.matching(["gemma3", "4b", "it"])[0].short == "gemma3:4b"
    assert catalog.matching(["4"])[0].generation == "Gemma 4"
    assert all(row.generation == "Gemma 3n" for row in catalog.matching(family="gemma 3n"))
    assert len(catalog.matching()) == len(catalog.rows())
    assert catalog.matching(["nothing"]) == []
    with pytest.raises(ModelNotFoundError, match="'gema 3' is no family of Gemma") as caught:
        catalog.matching(family="gema 3")
    assert "Gemma 3" in str(caught.value.hint)


def test_named() -> None:
    row = catalog.named("GOOGLE/gemma-3-4b-it")
    assert row is not None
    assert row.short == "gemma3:4b"
    assert catalog.named("google/nothing") is None
    assert row.nbytes(4) == 4_300_079_472 // 2
    assert catalog.find("dolphingemma").nbytes() is None
