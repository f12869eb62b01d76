"""ShieldGemmas in the Hugging Face cache: taken to judge, and never to chat."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import hub
from tests.test_weights_hub_embedders import install
from tests.tiny import SHIELD_TEMPLATE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_shieldgemma_judges_and_does_not_chat(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no ShieldGemma on this machine") as caught:
        hub.default("judge")[0]
    assert "google/shieldgemma-2b" in str(caught.value.hint)
    install(cache, "google/shieldgemma-9b", "gemma2")
    assert hub.default("chat")[0] == hub.DEMO
    assert hub.default("judge")[0] == "google/shieldgemma-9b"
    install(cache, "google/gemma-2b-it", "gemma")
    assert hub.default("chat")[0] == "google/gemma-2b-it"
    assert hub.default("judge")[0] == "google/shieldgemma-9b"


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json", "chat_template.json"])
def test_one_of_another_name_is_known_by_its_template(file: str, cache: Path) -> None:
    folder = install(cache, "someone/guard", "gemma2")
    text = SHIELD_TEMPLATE if file.endswith(".jinja") else json.dumps({"chat_template": SHIELD_TEMPLATE})
    (folder / file).write_text(text)
    assert hub.default("judge")[0] == "someone/guard"
    assert hub.default("chat")[0] == hub.DEMO


def test_the_last_to_come_is_taken(cache: Path) -> None:
    for age, name in enumerate(["google/shieldgemma-2b", "google/shieldgemma-9b"]):
        folder = install(cache, name, "gemma2")
        os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
    assert hub.default("judge")[0] == "google/shieldgemma-2b"
