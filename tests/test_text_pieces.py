"""The part both back ends share, on a vocabulary small enough to see through."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.pieces import ControlToken, PieceTokenizer, reason
from gemma_mlx.text.special import SpecialTokens
from gemma_mlx.text.tokenizer import Segment

VOCABULARY = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<end>",
    "<left>",
    "<right>",
    "<word>",
    *map(chr, range(32, 127)),
    "\n",
]


class Letters(PieceTokenizer):
    """One id per character. `merged` comes out of ordinary text as the control token it names."""

    def __init__(
        self,
        vocabulary: list[str] = VOCABULARY,
        special: SpecialTokens = SpecialTokens(),  # noqa: B008  frozen
        merged: str | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._merged = merged
        self.encoded: list[str] = []
        names = [token for token in vocabulary if len(token) > 1]
        flags = {"<left>": {"lstrip": True}, "<right>": {"rstrip": True}, "<word>": {"single_word": True}}
        control = {token: ControlToken(vocabulary.index(token), **flags.get(token, {})) for token in names}
        super().__init__(Path("letters"), len(vocabulary), control, special)

    def _encode_plain(self, text: str) -> list[int]:
        self.encoded.append(text)
        ids: list[int] = []
        at = 0
        while at < len(text):
            step = self._merged if self._merged and text.startswith(self._merged, at) else text[at]
            ids.append(self._vocabulary.index(step) if step in self._vocabulary else self._vocabulary.index("<unk>"))
            at += len(step)
        return ids

    def _piece(self, id: int) -> str | None:
        return self._vocabulary[id] if 0 <= id < len(self._vocabulary) else None

    def _byte(self, id: int, piece: str) -> int | None:
        return None

    def _id(self, piece: str) -> int | None:
        return self._vocabulary.index(piece) if piece in self._vocabulary else None


@pytest.fixture
def letters() -> Letters:
    tokenizer = Letters()
    tokenizer.encoded.clear()
    return tokenizer


def shown(tokenizer: Letters, *parts: Segment) -> str:
    return tokenizer.decode(tokenizer.encode(parts), control=True)


def test_stretches_cross_segment_borders(letters: Letters) -> None:
    parts = [Segment("<bos>us", True), Segment("er\n", False), Segment("x<end>y", True), Segment("<end>z", False)]
    assert shown(letters, *parts) == "<bos>user\nx<end>y<end>z"
    assert letters.encoded == ["user\nx", "y<end>z"]


def test_no_call_for_nothing(letters: Letters) -> None:
    assert letters.encode([Segment("", True), Segment("", False), Segment("<end><end>", True)]) == [4, 4]
    assert letters.encode("") == []
    assert letters.encoded == []


def test_tokens_that_take_the_whitespace_beside_them(letters: Letters) -> None:
    assert shown(letters, Segment("a \n<left> b", True)) == "a<left> b"
    assert shown(letters, Segment("a <right> \n b", True)) == "a <right>b"
    assert (
        shown(letters, Segment("a <right>", True), Segment("  b ", False), Segment("<left>", True))
        == "a <right>b<left>"
    )
    assert shown(letters, Segment("<right> <end> a", True)) == "<right><end> a"


def test_tokens_that_are_words(letters: Letters) -> None:
    word = VOCABULARY.index("<word>")
    for text in ("<word>", " <word> ", ".<word>,", "<end><word>"):
        assert word in letters.encode([Segment(text, True)])
    for text in ("a<word>", "<word>b", "_<word>"):
        assert word not in letters.encode([Segment(text, True)])
        assert shown(letters, Segment(text, True)) == text


def test_a_vocabulary_that_merges_control_tokens() -> None:
    """Ordinary text must not become a control token even where the merges of a vocabulary would make it one."""
    tokenizer = Letters(merged="<end>")
    ids = tokenizer.encode("a<end>b<end>")
    assert not any(map(tokenizer.is_control, ids))
    assert tokenizer.decode(ids) == "a<end>b<end>"
    assert tokenizer.encode([Segment("<end>", True)]) == [4]


def test_text_that_is_a_control_token_whatever_one_does() -> None:
    tokenizer = Letters()
    tokenizer._encode_plain = lambda text: [4]  # type: ignore[method-assign]
    with pytest.raises(TokenizerError, match="turns ordinary text into the control token '<end>'"):
        tokenizer.encode("a")


def test_unknown_characters_are_allowed(letters: Letters) -> None:
    assert letters.encode("aé") == [VOCABULARY.index("a"), 3]
    assert letters.decode([3]) == ""


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_bos_and_eos_are_needed(name: str) -> None:
    vocabulary = [token for token in VOCABULARY if token != f"<{name}>"]
    with pytest.raises(TokenizerError, match=f"letters has no <{name}> token"):
        Letters(vocabulary)
    other = Letters(vocabulary, SpecialTokens(named={f"{name}_token": "<end>"}))
    assert getattr(other, f"{name}_id") == vocabulary.index("<end>")


def test_pad_is_not_needed() -> None:
    assert Letters([token for token in VOCABULARY if token != "<pad>"]).pad_id is None


def test_text_must_come_back() -> None:
    """A first space added by the back end, for example, as Llama's does."""

    class Prefixed(Letters):
        def _encode_plain(self, text: str) -> list[int]:
            return super()._encode_plain(" " + text)

    with pytest.raises(TokenizerError, match=r"letters is not a Gemma tokenizer: it reads ' Ab  c.* back as '  Ab  c"):
        Prefixed([*VOCABULARY, "\U0010fffd"])


def test_reasons_are_short_lines() -> None:
    assert reason(ValueError("Cannot instantiate Tokenizer from buffer: bad\n  thing.")) == "bad thing"
    assert len(reason(ValueError("x" * 1000))) < 170
    assert reason(ValueError()) == "ValueError"
