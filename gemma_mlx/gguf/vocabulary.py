"""The vocabulary in a GGUF file -> tokenizer.model or tokenizer.json, as the libraries read them.

llama.cpp keeps two forms: "llama", the pieces, scores and types of a SentencePiece model (Gemma 1 to 3n), and "gemma4",
pieces and merges as tokenizer.json has them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gemma_mlx.errors import TokenizerError
from gemma_mlx.gguf.reader import Gguf

MODEL: Final = "tokenizer.model"
JSON: Final = "tokenizer.json"
# What `tokenizer.ggml.model` says -> the file that is made.
FORMS: Final = {"llama": MODEL, "gemma4": JSON}

# Types of pieces; SentencePiece has the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_SPACE: Final = "▁"  # how pieces write one; llama.cpp's converter writes a space in some
_PREFIX: Final = "tokenizer.ggml."
_AGAIN: Final = "Fetch another file of this model, or convert it again with a newer llama.cpp."


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The pieces of a vocabulary.

    Attributes:
        pieces: by id.
        types: of each, NORMAL to BYTE.
        scores: of each; none in the form of merges.
        merges: "left right", first ones first; none in the form of scores.
        space_first: whether a text is read as if a space stood before it.
    """

    pieces: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    space_first: bool = False


def form_of(gguf: Gguf) -> str | None:
    """The name of the tokenizer's file that can be made; None where the file holds no vocabulary, or a foreign one."""
    named = gguf.metadata.get(f"{_PREFIX}model")
    return FORMS.get(named) if isinstance(named, str) else None


def read_vocabulary(gguf: Gguf) -> Vocabulary:
    """The vocabulary of a file whose form is known.

    Raises:
        TokenizerError: a part of it is missing, or is no list of what it should be.
    """
    pieces = _list(gguf, "tokens", str)
    types = _list(gguf, "token_type", int)
    has_scores = form_of(gguf) == MODEL
    scores = _list(gguf, "scores", float) if has_scores else ()
    merges = () if has_scores else _list(gguf, "merges", str)
    for name, found in (("token_type", types), ("scores", scores)):
        if found and len(found) != len(pieces):
            raise TokenizerError(
                f"{gguf.path}: {_PREFIX}{name} has {len(found):,} entries, and there are {len(pieces):,} tokens.",
                _AGAIN,
            )
    if not all(NORMAL <= kind <= BYTE for kind in types):
        raise TokenizerError(f"{gguf.path}: {_PREFIX}token_type holds a number that is no type.", _AGAIN)
    return Vocabulary(
        pieces=tuple(piece.replace(" ", _SPACE) for piece in pieces),
        types=_with_unknown(gguf, pieces, types),
        scores=scores,
        merges=merges,
        space_first=gguf.metadata.get(f"{_PREFIX}add_space_prefix") is True,
    )


def token_of(gguf: Gguf, name: str) -> str | None:
    """The piece whose id the file gives as `name`_token_id; None where it gives none."""
    number = gguf.metadata.get(f"{_PREFIX}{name}_token_id")
    pieces = gguf.metadata.get(f"{_PREFIX}tokens")
    if type(number) is not int or not isinstance(pieces, tuple) or not 0 <= number < len(pieces):
        return None
    piece = pieces[number]
    return piece if isinstance(piece, str) else None


def _list(gguf: Gguf, name: str, kind: type) -> tuple[Any, ...]:
    values = gguf.metadata.get(_PREFIX + name)
    if not isinstance(values, tuple) or not values or not isinstance(values[0], kind):
        raise TokenizerError(f"{gguf.path} has no {_PREFIX}{name}, so its vocabulary cannot be read.", _AGAIN)
    return values


def _with_unknown(gguf: Gguf, pieces: Sequence[str], types: tuple[int, ...]) -> tuple[int, ...]:
    """The types with one piece for what is unknown, without which no library reads a vocabulary."""
    if types.count(UNKNOWN) == 1:
        return types
    number = gguf.metadata.get(f"{_PREFIX}unknown_token_id")
    if type(number) is not int or not 0 <= number < len(pieces):
        if "<unk>" not in pieces:
            raise TokenizerError(f"{gguf.path} has no <unk> token, which every Gemma vocabulary has.", _AGAIN)
        number = pieces.index("<unk>")
    plain = [NORMAL if kind == UNKNOWN else kind for kind in types]
    plain[number] = UNKNOWN
    return tuple(plain)


# ---- tokenizer.model: a protobuf (sentencepiece_model.proto), whose fields are written out by hand


def as_model(vocabulary: Vocabulary) -> bytes:
    """The bytes of a SentencePiece model with byte-pair merges by score, and no normalisation but that of spaces."""
    parts = []
    for piece, score, kind in zip(vocabulary.pieces, vocabulary.scores, vocabulary.types, strict=True):
        text = piece.encode()
        entry = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + _varint(kind)
        parts += [b"\x0a", _varint(len(entry)), entry]
    trainer = _number(3, 2) + _number(4, len(vocabulary.pieces)) + _number(35, 1)  # BPE; size; byte fallback
    trainer += _number(40, vocabulary.types.index(UNKNOWN))
    normalizer = _field(1, b"identity") + _number(3, int(vocabulary.space_first)) + _number(4, 0) + _number(5, 1)
    return b"".join([*parts, _field(2, trainer), _field(3, normalizer)])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


# ---- tokenizer.json


def as_json(vocabulary: Vocabulary) -> bytes:
    """tokenizer.json with byte-pair merges.

    Entries that no merges make are found in a text before it is cut into characters: control tokens, and the tags that
    Gemma's vocabularies hold, whose mark as such llama.cpp's converter drops.
    """
    made = {merge.replace(" ", "") for merge in vocabulary.merges}
    added = [
        {
            "id": number, "content": piece, "special": kind in (CONTROL, UNKNOWN), "normalized": False,
            "single_word": False, "lstrip": False, "rstrip": False,
        }
        for number, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.types, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) or (kind == NORMAL and len(piece) > 1 and piece not in made)
    ]  # fmt: skip
    written = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": vocabulary.pieces[vocabulary.types.index(UNKNOWN)],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: number for number, piece in enumerate(vocabulary.pieces)},
            "merges": [merge.split(" ", 1) for merge in vocabulary.merges],
        },
    }
    return json.dumps(written, ensure_ascii=False).encode()
