"""Text to ids: what a tokenizer is, and how a checkpoint's own is loaded.

Two back ends stand behind one interface: tokenizer.json through `tokenizers`, tokenizer.model through `sentencepiece`.
Both give the reference's ids; what differs is who decides which characters are a control token. Here the caller does,
segment by segment, so that "<end_of_turn>" typed by a user is thirteen characters and not the end of a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.files import exists


class Segment(NamedTuple):
    """A stretch of a prompt.

    Attributes:
        control: control tokens in the text are parsed; otherwise they stay plain text.
        message: index of the message whose text this is, where it is all of a message's text. The stretch that an
            assistant's calls take, and the thought before them, is in several segments of one index.
    """

    text: str
    control: bool
    message: int | None = None


class Tokenizer(Protocol):
    """Text to ids and back.

    Ids without a vocabulary entry (the padded rows of an embedding table) decode to nothing.
    """

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, control tokens included."""

    @property
    def bos_id(self) -> int:
        """Begins every prompt."""

    @property
    def eos_id(self) -> int:
        """Ends a text."""

    @property
    def pad_id(self) -> int | None:
        """Fills a batch; None where the vocabulary has none."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Every control token's text and id."""

    def encode(self, text: str | Sequence[Segment], *, bos: bool = False) -> list[int]:
        """Ids of a text, or of segments that are read as one text.

        Args:
            text: a plain string is one segment without control tokens.
            bos: begin with exactly one bos id, whether or not the text brings its own.

        Raises:
            InputError: the text holds a lone surrogate.
        """

    def decode(self, ids: Sequence[int], *, control: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Control tokens show only with `control`."""

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 bytes an id adds to the text; b"" for control tokens."""

    def id_of(self, token: str) -> int | None:
        """The id of exactly this vocabulary entry, control tokens included."""

    def is_control(self, id: int) -> bool:
        """Whether an id is a control token."""


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads tokenizer.json, or tokenizer.model where there is none.

    Raises:
        TokenizerError: there is neither, or the file is damaged, foreign, or lacks <bos> or <eos>.
    """
    if exists(path := folder / "tokenizer.json"):
        from gemma_mlx.text.tokenizer_json import JsonTokenizer

        return JsonTokenizer(path)
    if exists(path := folder / "tokenizer.model"):
        from gemma_mlx.text.tokenizer_model import ModelTokenizer

        return ModelTokenizer(path)
    raise TokenizerError(
        f"{folder} has no tokenizer: neither tokenizer.json nor tokenizer.model is there.",
        "Copy either file from the model this checkpoint was made from.",
    )
