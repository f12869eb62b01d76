"""Ids to text on two channels: what a model thinks, and what it answers.

Gemma 4 thinks inside `<|channel>thought` + newline ... `<channel|>`. Both marks are control tokens, so a user who types
them opens nothing, and a model without them in its vocabulary speaks on one channel only.
"""

from __future__ import annotations

from typing import Final, Literal

from gemma_mlx.text.detokenizer import Detokenizer
from gemma_mlx.text.tokenizer import Tokenizer

Channel = Literal["answer", "thought"]

OPEN: Final = "<|channel>"
CLOSE: Final = "<channel|>"
THOUGHT: Final = "thought"


class Channels:
    """Turns a stream of ids into pieces of text, each with its channel; whole characters only.

    Attributes:
        opened: whether any channel was opened: the ids then say more than the answer does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._open, self._close = tokenizer.id_of(OPEN), tokenizer.id_of(CLOSE)
        self._detokenizer = Detokenizer(tokenizer)
        self._channel: Channel = "answer"
        self._name: str | None = None  # of a channel just opened, until its line ends
        self.opened = False

    def add(self, id: int) -> tuple[Channel, str]:
        """Takes the next id; returns the channel and the characters it completes there, often ""."""
        if id == self._open:
            self.opened, self._name = True, ""
            return self._channel, self._detokenizer.flush()
        if id == self._close:
            ended, self._channel, self._name = self._channel, "answer", None
            return ended, self._detokenizer.flush()
        return self._place(self._detokenizer.add(id))

    def flush(self) -> tuple[Channel, str]:
        """Ends the text."""
        return self._place(self._detokenizer.flush())

    def _place(self, text: str) -> tuple[Channel, str]:
        if self._name is None:
            return self._channel, text
        name, ended, rest = (self._name + text).partition("\n")
        if not ended:
            self._name = name
            return self._channel, ""
        self._channel, self._name = THOUGHT if name.strip() == THOUGHT else "answer", None
        return self._channel, rest
