"""Vocabularies out of GGUF files give the ids of the tokenizers they were made of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from gemma_mlx.errors import TokenizerError
from gemma_mlx.gguf.reader import read_gguf
from gemma_mlx.gguf.vocabulary import form_of, read_vocabulary, token_of
from gemma_mlx.text.tokenizer import Tokenizer, load_tokenizer
from tests import gguf_files
from tests.goldens.text import assets


def of_sentencepiece(folder: Path) -> dict[str, Any]:
    """What llama.cpp's converter writes of tokenizer.model and its config: `_create_vocab_sentencepiece`."""
    model = sentencepiece.SentencePieceProcessor()
    model.LoadFromFile(str(folder / "tokenizer.model"))
    size = model.get_piece_size()
    checks = [(model.is_unknown, 2), (model.is_control, 3), (model.is_unused, 5), (model.is_byte, 6)]
    types = [next((kind for check, kind in checks if check(id)), 1) for id in range(size)]
    pieces = [model.id_to_piece(id) for id in range(size)]
    added = json.loads((folder / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {})
    for number, token in added.items():
        if int(number) < size:
            types[int(number)] = 3 if token["special"] else 4
            pieces[int(number)] = token["content"].replace("▁", " ")
    # Runs of whitespace and the like are user-defined symbols of the model, and added tokens of published configs.
    proto = (folder / "tokenizer.model").read_bytes()
    for number, piece in enumerate(pieces):
        data = piece.replace(" ", "▁").encode()
        entry = re.escape(bytes([0x0A, len(data)]) + data) + rb"(?:\x15[\x00-\xff]{4})?\x18\x04"
        if types[number] == 1 and re.search(entry, proto):
            types[number] = 4
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [float(model.get_score(id)) for id in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_space_prefix": False,
    }


def of_json(folder: Path) -> dict[str, Any]:
    """What it writes of tokenizer.json for Gemma 4 (`LlamaHfVocab`): the marks of added tokens are lost."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    pieces = sorted(vocab, key=vocab.__getitem__)
    types = [6 if p.startswith("<0x") and len(p) == 6 else 3 if vocab[p] in special else 1 for p in pieces]
    return {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-1000.0] * len(pieces),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
    }


def tokenizer_of(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(gguf_files.write(path, {"general.architecture": "gemma3"} | metadata, {}))


@pytest.mark.parametrize(("name", "made"), [("gemma3.model", of_sentencepiece), ("gemma3", of_json)])
def test_ids_and_texts_are_the_same(name: str, made: Any, tmp_path: Path) -> None:
    folder = assets.small(name)
    wanted = load_tokenizer(folder)
    found = tokenizer_of(tmp_path / "model.gguf", made(folder))
    assert found.vocab_size == wanted.vocab_size
    assert (found.bos_id, found.eos_id, found.pad_id) == (wanted.bos_id, wanted.eos_id, wanted.pad_id)
    assert set(found.control_tokens) >= {"<start_of_turn>", "<end_of_turn>", "<bos>"}
    for text in assets.TEXTS:
        # Of added tokens that merges make as well, runs of spaces, the marks are lost; who types "▁" itself sees it.
        if made is of_json and "▁▁" in text:
            continue
        ids = wanted.encode(text)
        assert found.encode(text) == ids, text[:80]
        assert found.decode(ids) == wanted.decode(ids)


def test_a_user_cannot_end_a_turn(tmp_path: Path) -> None:
    metadata = of_sentencepiece(assets.small("gemma3.model"))
    # Google's first files had the turn tokens as ordinary ones.
    end = metadata["tokenizer.ggml.tokens"].index("<end_of_turn>")
    metadata["tokenizer.ggml.token_type"][end] = 1
    tokenizer = tokenizer_of(tmp_path / "model.gguf", metadata)
    assert end not in tokenizer.encode("Hello<end_of_turn>")
    assert tokenizer.is_control(end)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer.ggml.tokens": 5}, "no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "has 2 entries"),
        ({"tokenizer.ggml.scores": ["a"]}, "no tokenizer.ggml.scores"),
        ({"tokenizer.ggml.token_type": [9] * 4201}, "no type"),
    ],
)
def test_a_damaged_vocabulary(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    metadata = of_sentencepiece(assets.small("gemma3.model")) | change
    with pytest.raises(TokenizerError, match=says):
        tokenizer_of(tmp_path / "model.gguf", metadata)


@pytest.mark.parametrize("metadata", [{}, {"tokenizer.ggml.model": "gpt2"}])
def test_no_vocabulary_that_is_read(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "model.gguf", metadata, {})
    assert form_of(read_gguf(path)) is None
    with pytest.raises(TokenizerError, match="no tokenizer"):
        load_tokenizer(path)


def test_types_without_an_unknown_token_get_one(tmp_path: Path) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<pad>", "a b", "<unk>"],
        "tokenizer.ggml.scores": [0.0, -1.0, 0.0],
        "tokenizer.ggml.token_type": [3, 1, 1],
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.eos_token_id": 99,
    }
    gguf = read_gguf(gguf_files.write(tmp_path / "model.gguf", metadata, {}))
    vocabulary = read_vocabulary(gguf)
    assert vocabulary.types == (3, 1, 2)
    assert vocabulary.pieces == ("<pad>", "a▁b", "<unk>")
    assert (token_of(gguf, "padding"), token_of(gguf, "eos"), token_of(gguf, "bos")) == ("<pad>", None, None)
