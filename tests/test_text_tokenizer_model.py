"""tokenizer.model: user-defined control tokens, and tokens that only tokenizer_config.json knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.special import SpecialTokens
from gemma_mlx.text.tokenizer import Segment
from gemma_mlx.text.tokenizer_model import ModelTokenizer, _mark_control
from tests.goldens.text import assets


@pytest.fixture
def model() -> bytes:
    return (assets.small("gemma3.model") / "tokenizer.model").read_bytes()


def write(folder: Path, model: bytes, config: dict[str, object] | None = None) -> ModelTokenizer:
    (folder / "tokenizer.model").write_bytes(model)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ModelTokenizer(folder / "tokenizer.model")


def native(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    return processor


def test_the_library_alone_would_open_a_turn(model: bytes) -> None:
    before, after = native(model), native(_mark_control(model, SpecialTokens()))
    start = before.piece_to_id("<start_of_turn>")
    assert before.encode("<start_of_turn>user")[0] == start
    assert not before.is_control(start)
    assert start not in after.encode("<start_of_turn>user")
    assert after.is_control(start)


def test_only_the_types_of_control_tokens_change(model: bytes) -> None:
    marked = _mark_control(model, SpecialTokens(control=frozenset({"<unused1>", "Hello", "\n\n"})))
    changed = [at for at, (a, b) in enumerate(zip(model, marked, strict=True)) if a != b]
    assert all((model[at], marked[at]) == (4, 3) for at in changed)
    before, after = native(model), native(marked)
    new = {
        before.id_to_piece(id)
        for id in range(before.get_piece_size())
        if after.is_control(id) and not before.is_control(id)
    }
    turns = {"<start_of_turn>", "<end_of_turn>", "<mask>", "<start_of_image>", "<end_of_image>"}
    assert new == turns | {"<unused1>"}
    assert len(changed) == len(new)
    assert _mark_control(marked, SpecialTokens()) == marked


def test_texts_without_control_tokens_are_the_librarys(model: bytes) -> None:
    golden = assets.golden("gemma3_small")["sentencepiece"]
    tokenizer = ModelTokenizer(assets.small("gemma3.model") / "tokenizer.model")
    same = [
        assets.shorten(tokenizer.encode(text)) == ids
        for text, ids in zip(assets.TEXTS, golden, strict=True)
        if not any(token in text for token in tokenizer.control_tokens)
    ]
    assert all(same)
    assert len(same) > 80


def test_a_model_without_types_is_left_alone() -> None:
    for data in (
        b"",
        b"\x0a",
        b"<bos>\x18\x04",
        b"\x0a\x05\x0a\x05<bos>\x18\x04",
        b"\x0a\x0e\x0a\x05<bos>\x15\0\0\0\0\x18\x04",
    ):
        expected = data[:-1] + b"\x03" if data.startswith(b"\x0a\x0e") else data
        assert _mark_control(data, SpecialTokens()) == expected


def test_tokens_after_the_last_piece(tmp_path: Path, model: bytes) -> None:
    """PaliGemma's <loc0000> and Gemma 3's <image_soft_token> are in tokenizer_config.json alone."""
    size = native(model).get_piece_size()
    added = {
        str(size): {"content": "<image_soft_token>", "special": True},
        str(size + 1): {"content": "<loc0000>", "special": False},
        "5": {"content": "<renamed>", "special": False},  # the model's own entries are the model's
    }
    tokenizer = write(tmp_path, model, {"added_tokens_decoder": added})
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.id_of("<image_soft_token>") == size
    assert tokenizer.id_of("<renamed>") is None
    assert tokenizer.is_control(size)
    assert not tokenizer.is_control(size + 1)
    assert tokenizer.encode([Segment("a<image_soft_token>", control=True)])[-1] == size
    assert not any(map(tokenizer.is_control, tokenizer.encode("a<image_soft_token>")))
    assert tokenizer.encode("a<loc0000>b") == [*tokenizer.encode("a"), size + 1, *tokenizer.encode("b")]
    assert tokenizer.decode(tokenizer.encode("a<loc0000>b")) == "a<loc0000>b"


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_bos_and_eos_are_needed(name: str, tmp_path: Path, model: bytes) -> None:
    renamed = model.replace(f"<{name}>".encode(), f"<{name[:2]}x>".encode())
    with pytest.raises(TokenizerError, match=f"has no <{name}> token"):
        write(tmp_path, renamed)


def test_a_first_space_is_refused(tmp_path: Path, model: bytes) -> None:
    # The end of the file is the normalizer: its name, then add_dummy_prefix (field 3) and the rest, all false.
    at = model.rindex(b"\x18\x00")
    with pytest.raises(TokenizerError, match="is not a Gemma tokenizer: it reads"):
        write(tmp_path, model[:at] + b"\x18\x01" + model[at + 2 :])


def test_a_piece_that_is_no_text(tmp_path: Path, model: bytes) -> None:
    at = model.index("é".encode())
    with pytest.raises(TokenizerError, match="is damaged: 'utf-8' codec can't decode"):
        write(tmp_path, model[:at] + b"\xff\xff" + model[at + 2 :])
