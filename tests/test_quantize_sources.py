"""Where a model in a format comes from."""

from __future__ import annotations

import pytest

from gemma_mlx import catalog, registry
from gemma_mlx.quantize import formats, sources
from gemma_mlx.quantize.sources import Source, of


def test_every_variant_is_a_format() -> None:
    assert set(catalog.FORMS) == set(formats.FORMATS)


def test_packed_before_packing() -> None:
    found = of(catalog.find("12b"), "8-bit")
    assert found == Source(repository="mlx-community/gemma-4-12B-it-8bit", ready=True, nbytes=12748516931)
    assert of(catalog.find("gemma2:9b"), "6-bit") == sources.ready(catalog.find("gemma2:9b"), "6-bit")
    made = of(catalog.find("gemma4:12b-pt"), "8-bit")
    assert made is not None
    assert (made.repository, made.ready) == ("google/gemma-4-12B", False)


def test_as_published() -> None:
    found = of(catalog.find("12b"), "bf16")
    assert found is not None
    assert (found.repository, found.ready) == ("google/gemma-4-12B-it", True)
    assert sources.raw(catalog.find("12b"), "bf16") is None


def test_files_that_are_called_4_bit_and_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of this repository's matrices have 8 bits: it is no 4-bit variant, so that one is made."""
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors",)))
    assert any(each.repository == "mlx-community/gemma-4-12B-it-qat-4bit" for each in catalog.packed())
    found = of(catalog.find("12b"), "QAT")
    assert found is not None
    assert (found.repository, found.ready) == ("google/gemma-4-12B-it-qat-q4_0-unquantized", False)
    belied = {each.repository for each in catalog.packed() if sources._belied(each)}
    assert belied == {"mlx-community/gemma-4-12B-it-qat-4bit", "mlx-community/gemma-4-31B-it-qat-4bit"}


def test_formats_are_switched_on_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors", "gguf")))
    found = of(catalog.find("12b"), "QAT")
    assert found is not None
    assert (found.repository, found.ready) == ("google/gemma-4-12B-it-qat-q4_0-gguf", True)
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors", "compressed-tensors")))
    found = of(catalog.find("12b"), "QAT")
    assert found is not None
    assert found.repository == "google/gemma-4-12B-it-qat-w4a16-ct"


@pytest.mark.parametrize(
    ("name", "form"), [("gemma2:9b", "QAT"), ("dolphingemma", "8-bit"), ("e2b-qat-mobile", "8-bit")]
)
def test_what_cannot_be_had(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors",)))
    assert of(catalog.find(name), form) is None
