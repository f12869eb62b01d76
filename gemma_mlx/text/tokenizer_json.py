"""tokenizer.json through the `tokenizers` library."""

from __future__ import annotations

import re
from pathlib import Path

import tokenizers

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.files import read_bytes
from gemma_mlx.text.pieces import ControlToken, PieceTokenizer, reason
from gemma_mlx.text.special import KNOWN_CONTROL, is_plain_text, looks_like_control, read_special_tokens

_LIMIT_BYTES = 512 << 20  # Gemma 3's has 33 MB
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# With a prefix, `tokenizers` cuts merges at its length in bytes, and aborts the process where that is in a character.
_SUBWORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"(?!")')
_COPY_AGAIN = "Copy the file again from the model this checkpoint was made from."


class JsonTokenizer(PieceTokenizer):
    """A Hugging Face tokenizer. Its normalizer, pre-tokenizer and model are used as they are; its post-processor, which
    would add a second bos, its truncation and its padding are not.

    Raises:
        TokenizerError: the file is damaged, or is not a Gemma tokenizer.
    """

    def __init__(self, path: Path) -> None:
        special = read_special_tokens(path.parent)
        self._backend = backend = _open(path)
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # tokens marked special stay plain text: control tokens are cut out before
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # random merges are for training

        control: dict[str, ControlToken] = {}
        unmarked: list[tokenizers.AddedToken] = []
        for number, token in backend.get_added_tokens_decoder().items():
            text = token.content
            if is_plain_text(text) or not (token.special or text in special.control or looks_like_control(text)):
                continue  # whitespace runs and HTML tags match in any text, as in the reference
            control[text] = ControlToken(number, token.lstrip, token.rstrip, token.single_word)
            if not token.special:
                unmarked.append(tokenizers.AddedToken(text, special=True, normalized=False))
        backend.add_special_tokens(unmarked)
        for text in sorted(KNOWN_CONTROL | special.control):
            if text not in control and not is_plain_text(text) and (known := backend.token_to_id(text)) is not None:
                control[text] = ControlToken(known)
        super().__init__(path, backend.get_vocab_size(), control, special)

    def _id(self, piece: str) -> int | None:
        found: int | None = self._backend.token_to_id(piece)
        return found

    def _encode_plain(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the library is a BaseException
            raise TokenizerError(f"{self.path} cannot encode this text: {reason(error)}.", _COPY_AGAIN) from error
        return ids

    def _piece(self, id: int) -> str | None:
        if not 0 <= id < 1 << 32:
            return None
        piece: str | None = self._backend.id_to_token(id)
        return piece

    def _byte(self, id: int, piece: str) -> int | None:  # noqa: ARG002  sentencepiece needs the id
        match = _BYTE_PIECE.fullmatch(piece)
        return int(match[1], 16) if match else None


def _open(path: Path) -> tokenizers.Tokenizer:
    """Reads the file, telling a damaged one from one that is not a tokenizer."""
    data = read_bytes(path, _LIMIT_BYTES, TokenizerError)
    if _SUBWORD_PREFIX.search(data):
        raise TokenizerError(
            f"{path} is not a Gemma tokenizer: its model has a continuing_subword_prefix.", _COPY_AGAIN
        )
    try:
        return tokenizers.Tokenizer.from_buffer(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in the library is a BaseException
        raise TokenizerError(f"{path} is not a tokenizer, or is damaged: {reason(error)}.", _COPY_AGAIN) from error
