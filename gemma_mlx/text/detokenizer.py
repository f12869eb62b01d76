"""Ids to text while they are being sampled, one at a time.

A character may span several tokens: byte pieces give its UTF-8 bytes one by one. An incremental UTF-8 decoder keeps the
bytes of an unfinished character, so nothing is ever decoded twice and no half of a character is shown.
"""

from __future__ import annotations

import codecs

from gemma_mlx.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns a stream of ids into a stream of whole characters.

    The pieces returned by `add` and `flush` join to exactly `tokenizer.decode(ids)`. Bytes that cannot become a
    character turn into U+FFFD as soon as that is certain, at the latest in `flush`. Control tokens add nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parts: list[str] = []

    def add(self, id: int) -> str:
        """Takes the next id; returns the characters it completes, often "" inside an emoji."""
        return self._keep(self._decoder.decode(self._token_bytes(id)))

    def flush(self) -> str:
        """Ends the text: an unfinished character, if any, as U+FFFD. More ids may follow as a new text."""
        return self._keep(self._decoder.decode(b"", final=True))

    @property
    def text(self) -> str:
        """Everything returned so far. Reading costs the length of the text; adding does not."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def _keep(self, text: str) -> str:
        if text:
            self._parts.append(text)
        return text
