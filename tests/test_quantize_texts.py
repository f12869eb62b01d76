"""The project's own texts: two sets that share nothing, and what a tokenizer makes of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.processor import Processor
from gemma_mlx.quantize.texts import KINDS, YOURS, Passage, Set, passages, read_passages, windows
from gemma_mlx.text.chat import Message
from gemma_mlx.weights.hub import resolve

TALK = Passage("chat", "a talk", turns=(Message("user", "Who are you?"), Message("assistant", "A model.")))


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(resolve("demo"))


def _sentences(which: Set) -> set[str]:
    texts = [part for one in passages(which) for part in (one.text, *(turn.content for turn in one.turns))]
    pieces = {piece.strip() for text in texts for piece in re.split(r"(?<=[.!?。？！।؟])\s*|\n", text)}
    return {piece for piece in pieces if len(piece) > 20}


def test_the_two_sets_share_no_sentence() -> None:
    calibrate, judge = _sentences("calibrate"), _sentences("judge")
    assert len(calibrate) > 250
    assert len(judge) > 150
    assert calibrate & judge == set()


@pytest.mark.parametrize("which", get_args(Set))
def test_every_kind_has_several_passages_and_none_is_empty(which: Set) -> None:
    found = passages(which)
    for kind in KINDS:
        assert len([passage for passage in found if passage.kind == kind]) >= 5
    assert all(passage.label and bool(passage.text) != bool(passage.turns) for passage in found)
    assert len({passage.plain for passage in found}) == len(found)
    for passage in (one for one in found if one.turns):
        roles = [turn.role for turn in passage.turns if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(turn.content for turn in passage.turns)
    languages = {passage.label for passage in found if passage.kind == "languages"}
    assert languages >= {"german", "french", "spanish", "chinese", "japanese", "arabic", "hindi"}


def test_windows_hold_each_passage_alone_and_begin_with_bos(processor: Processor) -> None:
    text = "one two three four five six seven eight nine ten " * 20
    given = (Passage("english", "counting", text), Passage("code", "short", "x = 1"))
    tokens = processor.tokenizer.encode(text)
    made = windows(given, processor, 64)
    assert {len(window.tokens) for window in made[:-2]} == {64}
    assert [window.kind for window in made] == ["english"] * (len(made) - 1) + ["code"]
    assert all(window.tokens[0] == processor.tokenizer.bos_id for window in made)
    joined = [token for window in made[:-1] for token in window.tokens[1:]]
    assert joined == tokens[: len(joined)]
    assert len(tokens) - len(joined) < 16, "only a rest too short to say anything is left out"
    assert made[-1].tokens[1:] == tuple(processor.tokenizer.encode("x = 1"))


def test_a_conversation_is_read_through_the_template(processor: Processor) -> None:
    (window,) = windows([TALK], processor, 512)
    shown = processor.tokenizer.decode(window.tokens, control=True)
    assert shown == (
        "<bos><start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\nA model.<end_of_turn>\n"
    )


def test_a_model_that_does_not_chat_reads_plain_text(tmp_path: Path) -> None:
    demo = resolve("demo")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())
    processor = Processor(tmp_path)
    assert not processor.chats
    (window,) = windows([TALK], processor, 512)
    assert processor.tokenizer.decode(window.tokens) == "User: Who are you?\n\nAssistant: A model."
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('only translations') }}", encoding="utf-8")
    refusing = Processor(tmp_path)
    assert refusing.chats
    assert windows([TALK], refusing, 512) == (window,)


def test_a_window_too_short_to_predict_in(processor: Processor) -> None:
    with pytest.raises(InputError, match="A window of 1 tokens is too short"):
        windows([TALK], processor, 1)


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_text("\nIt was late.\n", encoding="utf-8")
    assert read_passages(path) == (Passage(YOURS, "novel", "It was late."),)


def test_lines_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    path.write_text(f"{json.dumps({'text': 'A line.'})}\n\n{json.dumps(talk)}\n", encoding="utf-8")
    first, second = read_passages(path)
    assert (first.text, first.turns) == ("A line.", ())
    assert second.turns == (Message("user", "Hi"), Message("assistant", "Hello"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1: this is no JSON"),
        ("[]", 'neither a "text" nor "messages"'),
        ('{"text": " "}', 'neither a "text" nor "messages"'),
        ('{"messages": [{"role": "robot", "content": "Hi"}]}', "'robot' says 'Hi', and only system"),
        ('{"messages": [{"role": "user", "content": 3}]}', "'user' says '3'"),
        ("", "holds no text"),
    ],
)
def test_lines_that_hold_nothing(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(told)):
        read_passages(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_passages(tmp_path / "absent.txt")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(InputError, match="is not UTF-8 text: byte 0 is 0x"):
        read_passages(tmp_path / "picture.txt")
