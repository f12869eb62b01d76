"""Models that were packed on this machine: found by name, listed, removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mlx import catalog
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import hub, made
from tests.tiny import write_tiny


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def make(name: str) -> Path:
    meant = catalog.meant(name)
    assert meant.form is not None
    folder = made.folder(meant.row, meant.form)
    write_tiny(folder, "gemma3")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_nothing_was_made(home: Path) -> None:
    assert made.everything() == []
    assert made.find(catalog.find("12b"), "8-bit") is None


@pytest.mark.parametrize("form", catalog.FORMS)
def test_each_variant_is_found_by_its_name(form: str, home: Path) -> None:
    row = catalog.find("gemma3:4b")
    name = catalog.spelled(row, form)
    folder = make(name)
    assert [(each.name, each.row, each.form, each.folder) for each in made.everything()] == [(name, row, form, folder)]
    assert hub.look(name) == (name, folder)
    assert hub.look("gemma3:4b") == (name, folder), "what is here is taken before anything is fetched"
    assert [model.name for model in hub.installed()] == [name]
    assert hub.default("chat")[0] == name


def test_other_folders_are_not_taken_for_one(home: Path) -> None:
    folder = make("gemma3:4b:8bit")
    for name in (".gemma-3-4b-it-8bit.partial", "mine", "gemma-3-4b-it", "gemma-3-4b-it-q8_0"):
        write_tiny(folder.parent / name, "gemma3")
    assert [each.folder for each in made.everything()] == [folder]


def test_removing(home: Path) -> None:
    folder = make("gemma3:4b:8bit")
    (each,) = made.everything()
    assert each.nbytes == sum(path.stat().st_size for path in folder.iterdir())
    assert made.remove(each) > 0
    assert not folder.exists()
    with pytest.raises(ModelNotFoundError, match=r"gemma3:4b:8bit cannot be removed"):
        made.remove(each)
