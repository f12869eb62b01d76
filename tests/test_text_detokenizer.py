"""The streaming detokenizer: the text of decode, whole characters only, each id looked at once."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import pytest

from gemma_mlx.text.detokenizer import Detokenizer
from gemma_mlx.text.tokenizer import Tokenizer, load_tokenizer
from tests.goldens.text import assets


@functools.cache
def load(name: str) -> Tokenizer:
    return load_tokenizer(assets.small(name))


@pytest.fixture(params=["gemma", "gemma3", "gemma3.model"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load(request.param)


def stream(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(id) for id in ids]
    pieces.append(detokenizer.flush())
    assert detokenizer.text == "".join(pieces)
    return pieces


def check_random_ids(tokenizer: Tokenizer, count: int) -> None:
    rng = random.Random(0)
    every = range(tokenizer.vocab_size + 50)  # some without an entry
    bytes_ = [id for value in range(256) if (id := tokenizer.id_of(f"<0x{value:02X}>")) is not None]
    control = sorted(tokenizer.control_tokens.values())
    for _ in range(count):
        kinds = (every, bytes_, bytes_[0x80:], control)
        ids = [rng.choice(rng.choices(kinds, weights=(4, 3, 3, 1))[0]) for _ in range(rng.randint(0, 40))]
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_any_ids_at_all(tokenizer: Tokenizer) -> None:
    check_random_ids(tokenizer, 500)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_any_ids_of_the_published_tokenizers(name: str) -> None:
    tokenizer = load_tokenizer(assets.real(name))
    check_random_ids(tokenizer, 1500)
    ids = range(tokenizer.vocab_size)
    ordinary = [id for id in ids if not tokenizer.is_control(id) and len(tokenizer.token_bytes(id)) != 1]
    assert tokenizer.decode(ordinary) == tokenizer._backend.decode(ordinary, skip_special_tokens=True)


def test_every_id_once(tokenizer: Tokenizer) -> None:
    ids = list(range(tokenizer.vocab_size))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


def test_texts_come_back(tokenizer: Tokenizer) -> None:
    for text in assets.TEXTS:
        pieces = stream(tokenizer, tokenizer.encode(text))
        assert "".join(pieces) == text.replace("▁", " ")
        assert pieces[-1] == ""  # whole characters all along: nothing is left for the end


@pytest.mark.parametrize("character", ["é", "€", "𝄞", "🪿", "\0", "\U0010ffff"])
def test_no_half_of_a_character(tokenizer: Tokenizer, character: str) -> None:
    ids = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in character.encode()]
    assert stream(tokenizer, ids) == [*[""] * (len(ids) - 1), character, ""]


def test_bytes_that_cannot_become_a_character(tokenizer: Tokenizer) -> None:
    byte = {value: tokenizer.id_of(f"<0x{value:02X}>") for value in (0xE2, 0x82, 0xFF, 0xF0, 0x41)}
    letter = tokenizer.encode("a")[0]
    assert stream(tokenizer, [byte[0xE2], byte[0x82]]) == ["", "", "\ufffd"]  # at the end
    assert stream(tokenizer, [byte[0xE2], byte[0x82], letter]) == ["", "", "\ufffda", ""]  # once it is certain
    assert stream(tokenizer, [byte[0xFF], byte[0x41]]) == ["\ufffd", "A", ""]
    assert stream(tokenizer, [byte[0xF0], byte[0xF0], byte[0x41]]) == ["", "\ufffd", "\ufffdA", ""]


def test_control_tokens_neither_show_nor_part_a_character(tokenizer: Tokenizer) -> None:
    end = tokenizer.id_of("<end_of_turn>")
    ids = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in "€".encode()]
    assert stream(tokenizer, [end, ids[0], end, *ids[1:], end]) == ["", "", "", "", "€", "", ""]


def test_flush_ends_one_text(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    half = tokenizer.id_of("<0xE2>")
    assert (detokenizer.add(half), detokenizer.flush(), detokenizer.flush()) == ("", "\ufffd", "")
    assert detokenizer.add(tokenizer.encode("a")[0]) == "a"
    assert detokenizer.text == "\ufffda"


def test_nothing() -> None:
    detokenizer = Detokenizer(load("gemma3"))
    assert (detokenizer.text, detokenizer.flush(), detokenizer.text) == ("", "", "")


def test_each_id_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def token_bytes(id: int) -> bytes:
        asked.append(id)
        return b"word "

    tokenizer = load("gemma3")
    monkeypatch.setattr(tokenizer, "token_bytes", token_bytes)
    detokenizer = Detokenizer(tokenizer)
    assert all(detokenizer.add(id) == "word " for id in range(5000))
    assert asked == list(range(5000))
    assert detokenizer.text == "word " * 5000
