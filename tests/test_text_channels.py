"""Thoughts apart from answers, wherever the stream is cut."""

from __future__ import annotations

import pytest

from gemma_mlx.text.channels import Channels
from tests.fakes import FakeTokenizer

OPEN, CLOSE = 9001, 9002


class Thinking(FakeTokenizer):
    """The byte tokenizer with Gemma 4's channel marks."""

    def id_of(self, token: str) -> int | None:
        return {"<|channel>": OPEN, "<channel|>": CLOSE}.get(token, super().id_of(token))

    def token_bytes(self, id: int) -> bytes:
        return b"" if id in (OPEN, CLOSE) else super().token_bytes(id)


def run(*parts: str | int) -> dict[str, str]:
    tokenizer = Thinking()
    channels = Channels(tokenizer)
    said = {"answer": "", "thought": ""}
    for part in parts:
        for id in [part] if isinstance(part, int) else tokenizer.encode(part):
            channel, text = channels.add(id)
            said[channel] += text
    channel, text = channels.flush()
    said[channel] += text
    return said


def test_a_thought_is_not_part_of_the_answer() -> None:
    assert run(OPEN, "thought\nHmm, 7·6 = 42.\n", CLOSE, "It is 42.") == {
        "thought": "Hmm, 7·6 = 42.\n",
        "answer": "It is 42.",
    }


def test_several_thoughts_and_none() -> None:
    assert run("A", OPEN, "thought\nx", CLOSE, "B", OPEN, "thought\n", CLOSE, "C") == {"thought": "x", "answer": "ABC"}
    assert run("thought\nis a word") == {"thought": "", "answer": "thought\nis a word"}


def test_a_channel_of_another_name_is_an_answer() -> None:
    assert run(OPEN, "final\nYes.", CLOSE) == {"thought": "", "answer": "Yes."}


def test_an_unfinished_thought_stays_one() -> None:
    assert run(OPEN, "thought\nStill think") == {"thought": "Still think", "answer": ""}
    assert run(OPEN, "thou") == {"thought": "", "answer": ""}


@pytest.mark.parametrize("parts", [("A",), (OPEN, "thought\n", CLOSE, "A")])
def test_says_whether_a_channel_was_opened(parts: tuple[str | int, ...]) -> None:
    channels, tokenizer = Channels(Thinking()), Thinking()
    for part in parts:
        for id in [part] if isinstance(part, int) else tokenizer.encode(part):
            channels.add(id)
    assert channels.opened is (len(parts) > 1)


def test_a_vocabulary_without_the_marks_has_one_channel() -> None:
    tokenizer = FakeTokenizer()
    channels = Channels(tokenizer)
    assert [channels.add(id) for id in tokenizer.encode("Hé")] == [("answer", "H"), ("answer", ""), ("answer", "é")]
