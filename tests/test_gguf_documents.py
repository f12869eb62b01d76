"""A GGUF file stands for the folder of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mlx.errors import TokenizerError, WeightsError
from gemma_mlx.gguf.documents import document, names
from gemma_mlx.text.files import exists, read_text
from gemma_mlx.text.stop import generation_defaults
from tests import gguf_files

METADATA = {
    "general.architecture": "gemma3",
    "general.sampling.temp": 1.0,
    "general.sampling.top_k": 64,
    "general.sampling.top_p": 0.95,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<pad>", "<eos>", "<bos>", "<end_of_turn>"],
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.eot_token_id": 3,
    "tokenizer.chat_template": "{{ bos_token }}",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return gguf_files.write(tmp_path / "model.gguf", METADATA, {})


def test_which_files_there_are(path: Path, tmp_path: Path) -> None:
    assert set(names(path)) == {"config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.model"}
    assert exists(path / "tokenizer_config.json")
    assert not exists(path / "chat_template.jinja")
    assert document(path, "chat_template.jinja") is None
    assert names(tmp_path) == ()
    assert names(tmp_path / "gone.gguf") == ()


def test_named_tokens_and_the_template(path: Path) -> None:
    assert json.loads(read_text(path / "tokenizer_config.json", 1 << 20, TokenizerError)) == {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "chat_template": "{{ bos_token }}",
    }


def test_what_ends_a_reply_and_how_it_is_sampled(path: Path) -> None:
    assert json.loads(document(path, "generation_config.json") or b"")["eos_token_id"] == [1, 3]
    assert generation_defaults(path) == {"do_sample": True, "temperature": 1.0, "top_k": 64, "top_p": 0.95}


def test_nothing_is_stated(tmp_path: Path) -> None:
    bare = gguf_files.write(tmp_path / "bare.gguf", {"general.architecture": "gemma3"}, {})
    assert "tokenizer.model" not in names(bare)
    assert json.loads(document(bare, "tokenizer_config.json") or b"") == {}
    assert generation_defaults(bare) == {}


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError):
        names(tmp_path / "model.gguf")
