"""Which vocabulary entries are control tokens, and what a checkpoint calls its own.

A control token ends a turn or stands for a picture; it never comes out of text that somebody typed, and never shows in
a reply. A vocabulary marks most of them itself. Three things it does not say are added here:

* early Gemma 1 files list the turn tokens as ordinary entries, and tokenizer.model files as user-defined symbols, which
  match in any text;
* transformers also counts the tokens named in tokenizer_config.json;
* whitespace and single characters are text, whatever a file says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.files import exists, read_json_object

_CONFIG_LIMIT_BYTES = 64 << 20  # Gemma 3's has 1.2 MB
_MAX_ID = 1 << 24

# Control tokens of Gemma 1-3, CodeGemma, PaliGemma, Gemma 3n, FunctionGemma and MedGemma (which opens and closes its
# thoughts with two entries that no other Gemma 3 uses), wherever the vocabulary has them.
KNOWN_CONTROL = frozenset(
    (
        "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>",
        "<image>", "<start_of_image>", "<end_of_image>", "<image_soft_token>",
        "<start_of_audio>", "<end_of_audio>", "<audio_soft_token>",
        "<start_function_declaration>", "<end_function_declaration>", "<start_function_call>", "<end_function_call>",
        "<start_function_response>", "<end_function_response>", "<escape>", "<unused94>", "<unused95>",
        "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>",
    )
)  # fmt: skip

# Gemma 4 writes <|turn>, <turn|>, <|think|>: an added token of that shape is control.
CONTROL_SHAPE = re.compile(r"<\|[^<>|\s]+\|?>|<[^<>|\s]+\|>")


def looks_like_control(text: str) -> bool:
    """Whether an added token (not any entry of the vocabulary) is a control token by its name."""
    return text in KNOWN_CONTROL or CONTROL_SHAPE.fullmatch(text) is not None


def is_plain_text(text: str) -> bool:
    """Whether an entry is text whatever its mark: whitespace, or a single character."""
    return len(text) < 2 or text.isspace() or not text.strip("▁")


@dataclass(frozen=True)
class SpecialTokens:
    """What tokenizer_config.json says beside the vocabulary.

    Attributes:
        named: "bos_token" -> "<bos>" and the like, as chat templates see them.
        control: every token it names or marks as special.
        added: id -> (text, special) of `added_tokens_decoder`.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    control: frozenset[str] = frozenset()
    added: Mapping[int, tuple[str, bool]] = field(default_factory=dict)


def _content(value: Any) -> str | None:
    """A token written as a string, or as an object with its flags."""
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or any("\ud800" <= char <= "\udfff" for char in content):
        return None
    return content or None


def read_special_tokens(folder: Path) -> SpecialTokens:
    """Reads `folder`/tokenizer_config.json; nothing where there is no such file.

    Raises:
        TokenizerError: the file is unreadable, or a token in it is malformed.
    """
    path = folder / "tokenizer_config.json"
    if not exists(path):
        return SpecialTokens()
    config = read_json_object(path, _CONFIG_LIMIT_BYTES, TokenizerError)

    named = {key: text for key, value in config.items() if key.endswith("_token") and (text := _content(value))}
    control = set(named.values())
    for key in ("additional_special_tokens", "extra_special_tokens", "chat_control_tokens"):
        value = config.get(key) or ()
        if isinstance(value, dict):  # transformers 5: {"image_token": "<image_soft_token>"}
            named |= {name: text for name, entry in value.items() if (text := _content(entry))}
            value = list(value.values())
        if not isinstance(value, list | tuple) or not all(_content(entry) for entry in value):
            raise TokenizerError(f"{path}: {key} is {str(value)[:80]!r}, and a list of tokens was expected.")
        control |= {text for entry in value if (text := _content(entry))}

    added: dict[int, tuple[str, bool]] = {}
    entries = config.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict):
        raise TokenizerError(f"{path}: added_tokens_decoder is {str(entries)[:80]!r}, and an object was expected.")
    for key, entry in entries.items():
        text = _content(entry)
        if not key.isdecimal() or len(key) > 9 or int(key) >= _MAX_ID or text is None:
            raise TokenizerError(
                f"{path}: added_tokens_decoder holds {key[:40]!r}: {str(entry)[:80]!r}, and an id below {_MAX_ID:,} "
                "with its token was expected."
            )
        special = isinstance(entry, dict) and entry.get("special") is True
        added[int(key)] = (text, special)
        if special:
            control.add(text)
    return SpecialTokens(named=named, control=frozenset(control), added=added)
