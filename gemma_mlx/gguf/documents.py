"""A GGUF file as the folder of a model: the small files that the Hugging Face layout has beside the weights.

They are made when they are asked for, and nothing is written to the disk. What makes them is imported then, too: this
is asked about every small file of every model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gemma_mlx.gguf.places import is_gguf

if TYPE_CHECKING:
    from gemma_mlx.gguf.reader import Gguf

CONFIG: Final = "config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_GENERATION: Final = "generation_config.json"
_TEMPLATE: Final = "tokenizer.chat_template"

# Ids by their names in the file -> keys of tokenizer_config.json.
_NAMED: Final = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
_SAMPLING: Final = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


def names(path: Path) -> tuple[str, ...]:
    """What a GGUF file stands for; nothing where `path` is none.

    Raises:
        CheckpointError: the file is damaged.
        UnsupportedModelError: it is of another version of the format.
    """
    if not is_gguf(path):
        return ()
    from gemma_mlx.gguf.reader import read_gguf
    from gemma_mlx.gguf.vocabulary import form_of

    form = form_of(read_gguf(path))
    return (CONFIG, _TOKENIZER_CONFIG, _GENERATION, *([] if form is None else [form]))


def document(path: Path, name: str) -> bytes | None:
    """The content of the file `name` of the folder that a GGUF file stands for; None where there is none.

    Raises:
        CheckpointError: the file is damaged, or states something that cannot be.
        UnsupportedModelError: it holds another model than a Gemma.
    """
    if name not in names(path):
        return None
    from gemma_mlx.gguf.reader import read_gguf

    return _MADE[name](read_gguf(path))


def _written(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _config(gguf: Gguf) -> bytes:
    from gemma_mlx.gguf.config import config_of

    return _written(config_of(gguf))


def _tokenizer(gguf: Gguf) -> bytes:
    from gemma_mlx.gguf.vocabulary import MODEL, as_json, as_model, form_of, read_vocabulary

    vocabulary = read_vocabulary(gguf)
    return as_model(vocabulary) if form_of(gguf) == MODEL else as_json(vocabulary)


def _tokenizer_config(gguf: Gguf) -> bytes:
    from gemma_mlx.gguf.vocabulary import token_of

    named = {key: token for name, key in _NAMED.items() if (token := token_of(gguf, name)) is not None}
    template = gguf.metadata.get(_TEMPLATE)
    return _written(named | ({"chat_template": template} if isinstance(template, str) and template else {}))


def _generation(gguf: Gguf) -> bytes:
    """What ends a reply, and the sampling that newer files state."""
    ends = {gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")}
    found: dict[str, Any] = {"eos_token_id": sorted(end for end in ends if type(end) is int)}
    for name, key in _SAMPLING.items():
        value = gguf.metadata.get(f"general.sampling.{name}")
        if isinstance(value, int | float):
            found |= {"do_sample": True, key: round(value, 6)}
    return _written(found)


_MADE: Final[Mapping[str, Callable[[Gguf], bytes]]] = {
    CONFIG: _config,
    _TOKENIZER_CONFIG: _tokenizer_config,
    _GENERATION: _generation,
    "tokenizer.model": _tokenizer,
    "tokenizer.json": _tokenizer,
}
