"""What both tokenizer back ends share: control tokens are found here, and only the text between them is theirs.

A prompt is cut at the control tokens of its `control` segments. The stretches between them run across segment borders
and are encoded whole, as the reference encodes them, with the back end's own parsing of control tokens switched off.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise, takewhile
from pathlib import Path

from gemma_mlx.errors import InputError, TokenizerError
from gemma_mlx.text.literals import Literals
from gemma_mlx.text.special import SpecialTokens
from gemma_mlx.text.tokenizer import Segment

_PROBE = " Ab  c\n\U0010fffd"  # the last character is in no vocabulary
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ControlToken:
    """A control token, and how it treats the text beside it (the flags of `tokenizers.AddedToken`)."""

    id: int
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class PieceTokenizer(ABC):
    """A vocabulary of pieces with byte fallback, as every Gemma has. A back end supplies the four abstract methods.

    Attributes:
        path: the file it was read from.
    """

    def __init__(
        self, path: Path, vocab_size: int, control: Mapping[str, ControlToken], special: SpecialTokens
    ) -> None:
        """To be called by a back end once it can encode; raises TokenizerError for a vocabulary that is no Gemma's."""
        self.path = path
        self.vocab_size = vocab_size
        self._control = dict(control)
        self.control_tokens: Mapping[str, int] = {text: token.id for text, token in control.items()}
        self._control_ids = frozenset(self.control_tokens.values())
        self._find_control = Literals(control)
        self._bytes: dict[int, bytes] = {}
        self.bos_id = self._required("bos", special)
        self.eos_id = self._required("eos", special)
        self.pad_id = self._special_id("pad", special)
        unknown = self._special_id("unk", special)
        # An unknown character may come out of any text, where a vocabulary has no byte pieces.
        self._forbidden = self._control_ids - {unknown}
        self._check_pieces(unknown)

    def _special_id(self, name: str, special: SpecialTokens) -> int | None:
        """The id of <name>, or of the token that tokenizer_config.json gives that part."""
        for text in (f"<{name}>", special.named.get(f"{name}_token")):
            if text is not None and (found := self.id_of(text)) is not None:
                return found
        return None

    def _required(self, name: str, special: SpecialTokens) -> int:
        found = self._special_id(name, special)
        if found is None:
            raise TokenizerError(
                f"{self.path} has no <{name}> token, which every Gemma vocabulary has.",
                "This may be another model's tokenizer: copy the file from the model this checkpoint was made from.",
            )
        return found

    def _check_pieces(self, unknown: int | None) -> None:
        """Raises TokenizerError for a vocabulary that writes text otherwise: byte-level BPE, an added first space."""
        ids = self._encode_plain(_PROBE)
        if unknown in ids and self.id_of("<0x00>") is None:
            return  # a vocabulary without byte pieces: a test's
        if (text := self.decode(ids)) != _PROBE:
            raise TokenizerError(
                f"{self.path} is not a Gemma tokenizer: it reads {_PROBE!r} back as {text[:80]!r}.",
                "Copy the file from the model this checkpoint was made from.",
            )

    # What a back end supplies.

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of valid, non-empty text in which nothing is a control token; raises TokenizerError if it fails."""

    @abstractmethod
    def _piece(self, id: int) -> str | None:
        """The vocabulary entry at `id`, or None; any integer may be asked for."""

    @abstractmethod
    def _byte(self, id: int, piece: str) -> int | None:
        """The byte an entry stands for, if it is a byte piece."""

    @abstractmethod
    def _id(self, piece: str) -> int | None:
        """The id of exactly this vocabulary entry, which is valid text."""

    # Text to ids.

    def id_of(self, token: str) -> int | None:
        """The id of exactly this vocabulary entry, control tokens included."""
        return self._id(token) if token.isascii() or not _SURROGATE.search(token) else None

    def encode(self, text: str | Sequence[Segment], *, bos: bool = False) -> list[int]:
        """Ids of a text, or of segments that are read as one text.

        Args:
            text: a plain string is one segment without control tokens.
            bos: begin with exactly one bos id, whether or not the text brings its own.

        Raises:
            InputError: the text holds a lone surrogate.
        """
        segments = [Segment(text, control=False)] if isinstance(text, str) else text
        ids: list[int] = []
        stretch: list[str] = []
        rstrip = False  # the last control token swallows the whitespace after it

        def close(lstrip: bool = False) -> None:
            plain = "".join(stretch)
            stretch.clear()
            plain = plain.lstrip() if rstrip else plain
            ids.extend(self._encode_stretch(plain.rstrip() if lstrip else plain))

        for control, group in groupby(segments, key=lambda segment: segment.control):
            part = "".join(segment.text for segment in group)
            _check_characters(part)
            start = 0
            for begin, end in self._find_in(part) if control else ():
                token = self._control[part[begin:end]]
                stretch.append(part[start:begin])
                close(token.lstrip)
                ids.append(token.id)
                start, rstrip = end, token.rstrip
            stretch.append(part[start:])
        close()
        if not bos:
            return ids
        own = sum(1 for _ in takewhile(self.bos_id.__eq__, ids))
        return [self.bos_id, *ids[own:]]

    def _find_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Where control tokens stand in the text of control segments."""
        for begin, end in self._find_control.find(text):
            beside = text[begin - 1 : begin] + text[end : end + 1]
            if self._control[text[begin:end]].single_word and any(c.isalnum() or c == "_" for c in beside):
                continue
            yield begin, end

    def _encode_stretch(self, text: str) -> list[int]:
        """Ids of plain text, none of them a control token."""
        if not text:
            return []
        ids = self._encode_plain(text)
        if self._forbidden.isdisjoint(ids):
            return ids
        # The vocabulary builds a control token out of ordinary pieces: part its first character from the rest.
        cuts = [0, *(begin + 1 for begin, _ in self._find_control.find(text)), len(text)]
        parts = (text[start:end] for start, end in pairwise(cuts) if start < end)
        ids = list(chain.from_iterable(map(self._encode_plain, parts)))
        if found := self._forbidden.intersection(ids):
            raise TokenizerError(
                f"{self.path} turns ordinary text into the control token {self._piece(min(found))!r}.",
                "Copy the file from the model this checkpoint was made from.",
            )
        return ids

    # Ids to text.

    def decode(self, ids: Sequence[int], *, control: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. Control tokens show only with `control`."""
        return b"".join(map(self._shown_bytes if control else self.token_bytes, ids)).decode("utf-8", "replace")

    def _shown_bytes(self, id: int) -> bytes:
        return (self._piece(id) or "").encode() if id in self._control_ids else self.token_bytes(id)

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 bytes an id adds to the text; b"" for control tokens, and for ids that are no vocabulary entry."""
        known = self._bytes.get(id)
        if known is None:
            known = self._bytes[id] = self._make_bytes(id)
        return known

    def _make_bytes(self, id: int) -> bytes:
        if id in self._control_ids or (piece := self._piece(id)) is None:
            return b""
        if (byte := self._byte(id, piece)) is not None:
            return bytes((byte,))
        return piece.replace("▁", " ").encode()

    def is_control(self, id: int) -> bool:
        """Whether an id is a control token."""
        return id in self._control_ids


def reason(error: BaseException) -> str:
    """What a library says of a failure, in one line of bearable length."""
    text = " ".join(str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ").split())
    return (text if len(text) <= 160 else text[:160] + "...").rstrip(".") or type(error).__name__


def _check_characters(text: str) -> None:
    """Raises InputError for half a surrogate pair, which has no UTF-8 form."""
    if not text.isascii() and (half := _SURROGATE.search(text)):
        raise InputError(
            f"Character {half.start() + 1:,} of the text is U+{ord(half[0]):04X}, which is half of a surrogate pair.",
            "Read the text as UTF-8, or remove that character.",
        )
