"""The project's own texts: one set to calibrate on, another to judge by, with no sentence in common.

Written for this project; a file for each kind, `=== label` before a passage and `>>> role` before a turn of a chat.
A model must not be judged by what it was calibrated on, and neither set is a benchmark: figures made with them compare
two models with each other, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from gemma_mlx.errors import InputError, TemplateError
from gemma_mlx.processor import Processor
from gemma_mlx.text.chat import Message

Set = Literal["calibrate", "judge"]
Role = Literal["system", "user", "assistant"]

# One file each in each set, in the order in which results are shown.
KINDS: Final = ("english", "languages", "code", "mathematics", "facts", "chat")
YOURS: Final = "yours"  # the kind of what a user's own file holds
_PASSAGE, _TURN = "=== ", ">>> "
_NEEDED: Final = "A text file in UTF-8, or a .jsonl; without --text the project's own texts are read."
_LINE: Final = """Each line must be like {"text": "..."} or {"messages": [{"role": "user", "content": "..."}]}"""
_LEAST = 16  # a rest of a passage shorter than this many tokens is left out; a whole passage never


@dataclass(frozen=True)
class Passage:
    """A text, or a conversation.

    Attributes:
        kind: under which its figures are added up.
        label: what it is, more closely: a language, a programming language, a subject.
        text: "" for a conversation.
        turns: () for a text.
    """

    kind: str
    label: str
    text: str = ""
    turns: tuple[Message, ...] = ()

    @property
    def plain(self) -> str:
        """The text; of a conversation what is said, turn under turn, as a model without a template reads it."""
        return self.text or "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in self.turns)


class Window(NamedTuple):
    """A stretch of one passage as a model reads it: `<bos>` first where the tokenizer has one."""

    kind: str
    tokens: tuple[int, ...]


@cache
def passages(which: Set) -> tuple[Passage, ...]:
    """One of the project's two sets, kind by kind."""
    folder = files(__name__) / which
    return tuple(
        passage for kind in KINDS for passage in _parse((folder / f"{kind}.txt").read_text(encoding="utf-8"), kind)
    )


def read_passages(path: Path) -> tuple[Passage, ...]:
    """A user's own file: one text; or of a `.jsonl`, from each line its "text", or the conversation in "messages".

    Raises:
        InputError: the file cannot be read, is empty, or a line of it holds neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise InputError(
                f"{path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}.",
                "Convert it first, for example with iconv -f latin1 -t utf-8.",
            ) from error
        raise InputError(f"{path} cannot be read: {error.strerror or error}.", _NEEDED) from error
    if path.suffix != ".jsonl":
        found: tuple[Passage, ...] = (Passage(YOURS, path.stem, text.strip()),) if text.strip() else ()
    else:
        lines = enumerate(text.splitlines(), start=1)
        found = tuple(_of_line(line, f"{path}, line {number}") for number, line in lines if line.strip())
    if not found:
        raise InputError(f"{path} holds no text.", _NEEDED)
    return found


def windows(chosen: Iterable[Passage], processor: Processor, length: int) -> tuple[Window, ...]:
    """Passages as token ids, each in windows of its own, of at most `length` tokens.

    A conversation goes through the checkpoint's template, its last answer included; where the checkpoint does not chat,
    or its template refuses the conversation (a translator's, a judge's), it is read as plain text.

    Raises:
        InputError: `length` leaves no room for a token and the one it predicts.
    """
    if length < 2:
        raise InputError(f"A window of {length} tokens is too short: a prediction takes at least 2.")
    made = []
    for passage in chosen:
        bos, *tokens = _tokens(passage, processor)
        stretches = [tokens[first : first + length - 1] for first in range(0, len(tokens), length - 1)]
        made += [
            Window(passage.kind, (bos, *stretch))
            for number, stretch in enumerate(stretches)
            if number == 0 or len(stretch) >= _LEAST
        ]
    return tuple(made)


def _tokens(passage: Passage, processor: Processor) -> list[int]:
    if passage.turns and processor.chats:
        try:
            segments = processor.template.render(passage.turns, add_generation_prompt=False)
        except TemplateError:  # said in the docstring of `windows`: it is read as plain text
            segments = None
        if segments is not None:
            return processor.tokenizer.encode(segments, bos=True)
    return processor.tokenizer.encode(passage.plain, bos=True)


def _parse(text: str, kind: str) -> list[Passage]:
    """The passages of a file."""
    found = []
    for block in f"\n{text}".split(f"\n{_PASSAGE}")[1:]:
        label, _, body = block.partition("\n")
        if not body.startswith(_TURN):
            found.append(Passage(kind, label, body.strip("\n")))
            continue
        turns = []
        for turn in f"\n{body}".split(f"\n{_TURN}")[1:]:
            role, _, content = turn.partition("\n")
            turns.append(_message(role, content.strip("\n"), label))
        found.append(Passage(kind, label, turns=tuple(turns)))
    return found


def _of_line(line: str, where: str) -> Passage:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: this is no JSON ({error}).", _LINE) from error
    if isinstance(value, dict) and isinstance(value.get("text"), str) and value["text"].strip():
        return Passage(YOURS, where, value["text"])
    turns = value.get("messages") if isinstance(value, dict) else None
    if isinstance(turns, list) and turns and all(isinstance(turn, dict) for turn in turns):
        return Passage(
            YOURS, where, turns=tuple(_message(turn.get("role"), turn.get("content"), where) for turn in turns)
        )
    raise InputError(f'{where}: neither a "text" nor "messages" is there.', _LINE)


def _message(role: Any, content: Any, where: str) -> Message:
    if role not in get_args(Role) or not isinstance(content, str):
        raise InputError(
            f"{where}: {role!r} says {str(content)[:40]!r}, and only system, user and assistant say texts.",
            _LINE,
        )
    return Message(role, content)
