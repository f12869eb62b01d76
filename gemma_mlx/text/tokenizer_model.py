"""tokenizer.model through the `sentencepiece` library.

Google's files list the turn tokens as user-defined symbols, which match in any text, so that "<start_of_turn>" typed by
a user would open a turn. Their type is changed to control in the bytes handed to the library: one byte each.
"""

from __future__ import annotations

import re
from pathlib import Path

import sentencepiece

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.files import read_bytes
from gemma_mlx.text.literals import Literals
from gemma_mlx.text.pieces import ControlToken, PieceTokenizer, reason
from gemma_mlx.text.special import KNOWN_CONTROL, SpecialTokens, is_plain_text, looks_like_control, read_special_tokens

_LIMIT_BYTES = 256 << 20  # Gemma 3's has 4.7 MB
_COPY_AGAIN = "Copy the file again from the model this checkpoint was made from."

# A ModelProto's `pieces` entry as protobuf writes it: field 1, its length; inside it the piece (field 1, a string), the
# score (field 2, a float) and the type (field 3), 4 for user-defined. Control tokens are short: a length is one byte.
_ENTRY, _PIECE = 0x0A, 0x0A
_USER_DEFINED = rb"(?:\x15[\x00-\xff]{4})?\x18\x04"
_CONTROL_TYPE = 3


class ModelTokenizer(PieceTokenizer):
    """A SentencePiece model, and the tokens that tokenizer_config.json adds after its last id.

    Raises:
        TokenizerError: the file is damaged, or is not a Gemma tokenizer.
    """

    def __init__(self, path: Path) -> None:
        special = read_special_tokens(path.parent)
        data = _mark_control(read_bytes(path, _LIMIT_BYTES, TokenizerError), special)
        self._backend, pieces = _open(path, data)
        size = len(pieces)

        self._added = {number: text for number, (text, _) in special.added.items() if number >= size}
        self._added_ids = {text: number for number, text in self._added.items()}
        flags: list[bool] = self._backend.is_control(list(range(size)))
        marked = {piece for piece, flag in zip(pieces, flags, strict=True) if flag}
        names = sorted(marked | KNOWN_CONTROL | special.control)
        control = {
            text: ControlToken(number)
            for text in names
            if not is_plain_text(text) and (number := self.id_of(text)) is not None
        }
        self._find_added = Literals(text for text in self._added_ids if text not in control)
        super().__init__(path, max(size, 1 + max(self._added, default=0)), control, special)

    def _id(self, piece: str) -> int | None:
        if (added := self._added_ids.get(piece)) is not None:
            return added
        found: int = self._backend.piece_to_id(piece)  # the unknown piece's for any other text
        return found if self._backend.id_to_piece(found) == piece else None

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = []
        start = 0
        for begin, end in self._find_added.find(text):
            ids += self._encode_pieces(text[start:begin])
            ids.append(self._added_ids[text[begin:end]])
            start = end
        return ids + self._encode_pieces(text[start:])

    def _encode_pieces(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._backend.encode(text, out_type=int)
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{self.path} cannot encode this text: {reason(error)}.", _COPY_AGAIN) from error
        return ids

    def _piece(self, id: int) -> str | None:
        if not 0 <= id < self._backend.get_piece_size():
            return self._added.get(id)
        piece: str = self._backend.id_to_piece(id)
        return piece

    def _byte(self, id: int, piece: str) -> int | None:
        if id in self._added or not self._backend.is_byte(id):
            return None
        return int(piece[3:5], 16)


def _mark_control(data: bytes, special: SpecialTokens) -> bytes:
    """The model with its user-defined control tokens as control pieces."""
    names = sorted(KNOWN_CONTROL | special.control, key=len, reverse=True)
    texts = b"|".join([rb"<[^<>\x00-\x20]+>", *(re.escape(name.encode()) for name in names)])
    marked = bytearray(data)
    for found in re.finditer(rb"(%b)%b" % (texts, _USER_DEFINED), data):
        text, start = found[1].decode("utf-8", "replace"), found.start()
        header = (_ENTRY, found.end() - start + 2, _PIECE, len(found[1]))
        if tuple(data[max(0, start - 4) : start]) != header or is_plain_text(text):
            continue
        if looks_like_control(text) or text in special.control:
            marked[found.end() - 1] = _CONTROL_TYPE
    return bytes(marked)


def _open(path: Path, data: bytes) -> tuple[sentencepiece.SentencePieceProcessor, list[str]]:
    """The model, and its pieces, of which each is known to be UTF-8."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
        pieces: list[str] = processor.id_to_piece(list(range(processor.get_piece_size())))
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(
            f"{path} is not a SentencePiece model, or is damaged: {reason(error)}.", _COPY_AGAIN
        ) from error
    return processor, pieces
