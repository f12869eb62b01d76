"""Models in the Hugging Face cache that are never taken to chat: embedding models, and drafters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import hub
from tests.tiny import write_tiny

GOLDEN_DRAFTER = Path(__file__).parent / "goldens" / "gemma4_assistant"
EMBEDDER = "google/embeddinggemma-300m"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def install(cache: Path, name: str, kind: str, **changes: Any) -> Path:
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
    folder = repository / "snapshots" / commit
    write_tiny(folder, kind, **changes)
    (folder / "tokenizer.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return folder


def test_embedding_models_do_not_chat(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no embedding model on this machine") as caught:
        hub.default("embed")[0]
    assert EMBEDDER in str(caught.value.hint)
    install(cache, EMBEDDER, "gemma3_text", use_bidirectional_attention=True)
    assert hub.default("chat")[0] == hub.DEMO
    assert hub.default("embed")[0] == EMBEDDER
    install(cache, "google/gemma-2b-it", "gemma")
    assert hub.default("chat")[0] == "google/gemma-2b-it"
    assert hub.default("embed")[0] == EMBEDDER


def test_drafters_do_not_chat(cache: Path) -> None:
    install(cache, "google/gemma-2b-it", "gemma")
    drafter = install(cache, "google/gemma-4-E2B-it-assistant", "gemma")
    shutil.copytree(GOLDEN_DRAFTER, drafter, dirs_exist_ok=True)
    (drafter / "tokenizer.json").unlink()  # its target's will do
    assert hub.resolve("google/gemma-4-E2B-it-assistant") == drafter
    assert [(model.drafts, model.embeds) for model in hub.installed()] == [(False, False), (True, False)]
    assert hub.default("chat")[0] == "google/gemma-2b-it"


def test_one_without_its_linear_maps_is_not_complete(cache: Path) -> None:
    folder = install(cache, EMBEDDER, "gemma3_text", use_bidirectional_attention=True)
    (folder / "modules.json").write_text(json.dumps([{"type": "Dense", "path": "2_Dense"}]))
    assert hub.installed() == []
    (folder / "2_Dense").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / "2_Dense" / name).write_bytes(b"{}")
    assert [model.embeds for model in hub.installed()] == [True]
