"""Names of the catalogue: they mean repositories, which are looked for on this machine first."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mlx import registry
from gemma_mlx.errors import ModelNotFoundError, UnsupportedModelError
from gemma_mlx.weights import hub
from tests.test_weights_hub_embedders import cache, install

__all__ = ["cache"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["gemma3:4b", "4b", "3:4b-it", "Gemma 3 4B", "gemma-3-4b-it", "GOOGLE/gemma-3-4B-it"])
def test_a_name_of_the_catalogue(name: str, cache: Path) -> None:
    folder = install(cache, "google/gemma-3-4b-it", "gemma3")
    assert hub.resolve(name) == folder


def test_a_model_that_is_not_here(cache: Path) -> None:
    install(cache, "google/gemma-3-4b-it", "gemma3")
    with pytest.raises(ModelNotFoundError, match=r"google/gemma-3-12b-it is not on this machine") as caught:
        hub.resolve("gemma3:12b")
    assert caught.value.hint == "HF_HUB_OFFLINE=0 gemma pull google/gemma-3-12b-it"


@pytest.mark.parametrize("name", ["gemma3:4b-qat-gguf", "gemma4:e2b-qat-mobile", "gemma4:e2b-qat-w4a16"])
def test_a_model_that_is_packed(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match=r"google/gemma-\S+ is not on this machine"):
        hub.resolve(name)
    monkeypatch.setattr(registry, "FORMATS", frozenset(("safetensors",)))
    with pytest.raises(UnsupportedModelError, match=r"google/gemma-\S+ is .*, and cannot be read here") as caught:
        hub.resolve(name)
    assert caught.value.hint


def test_a_name_without_its_owner(cache: Path) -> None:
    """It may be on this machine, and in no catalogue."""
    install(cache, "someone/my-own-gemma", "gemma3")
    with pytest.raises(ModelNotFoundError, match="'my-own-gemma' is neither") as caught:
        hub.resolve("my-own-gemma")
    assert caught.value.hint == "Did you mean someone/my-own-gemma?"


def test_a_folder_comes_before_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    install(cache, "google/gemma-3-4b-it", "gemma3").rename(tmp_path / "gemma3:4b")
    assert hub.resolve("gemma3:4b") == Path("gemma3:4b")
