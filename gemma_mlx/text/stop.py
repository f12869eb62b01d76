"""generation_config.json: what begins and ends a reply, and how a checkpoint's authors would sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemma_mlx.errors import ConfigError
from gemma_mlx.text.files import read_json_object
from gemma_mlx.text.infill import INFILL_TOKENS
from gemma_mlx.text.special import read_special_tokens
from gemma_mlx.text.tokenizer import Tokenizer

_LIMIT_BYTES = 8 << 20
_BOS = 2  # in every vocabulary of the family

# Gemma 1-3, VaultGemma and 3n; Gemma 4. A model that calls a tool opens the answer itself and waits: FunctionGemma, 4.
END_OF_TURN = ("<end_of_turn>", "<turn|>", "<start_function_response>", "<|tool_response>")

# Key -> lowest and highest value, and type. A lowest value that is itself not allowed is in _OPEN.
_RANGES: dict[str, tuple[float, float, type]] = {
    "temperature": (0.0, math.inf, float),
    "top_k": (0, math.inf, int),
    "top_p": (0.0, 1.0, float),
    "min_p": (0.0, 1.0, float),
    "repetition_penalty": (0.0, math.inf, float),
    "max_new_tokens": (1, math.inf, int),
    "max_denoising_steps": (1, math.inf, int),
    "t_max": (0.0, math.inf, float),
    "t_min": (0.0, math.inf, float),
    "entropy_bound": (0.0, math.inf, float),
    "stability_threshold": (0, math.inf, int),
    "confidence_threshold": (0.0, math.inf, float),
}
_SAMPLER = "EntropyBoundSamplerConfig"
_OPEN = {"top_p": "above 0", "repetition_penalty": "above 0", "t_max": "above 0"}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json_object(path, _LIMIT_BYTES, ConfigError) if path.exists() else {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def stop_ids(folder: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a reply.

    They are `eos_token_id` of generation_config.json (an id or a list), <eos>, the eos_token that tokenizer_config.json
    names, and where the vocabulary has them as control tokens the end of a turn, and CodeGemma's four marks: it writes
    one where a gap is filled or a file ends.

    Raises:
        ConfigError: eos_token_id is not an id or a list of ids.
        TokenizerError: tokenizer_config.json is damaged.
    """
    value = _read(folder).get("eos_token_id")
    listed = [] if value is None else value if isinstance(value, list) else [value]
    for entry in listed:
        if not isinstance(entry, int) or isinstance(entry, bool) or entry < 0:
            path = folder / "generation_config.json"
            raise ConfigError(f"{path}: eos_token_id is {str(value)[:80]!r}, and an id or a list of ids was expected.")
    names = (*END_OF_TURN, *INFILL_TOKENS, read_special_tokens(folder).named.get("eos_token", "<eos>"))
    named = (tokenizer.id_of(name) for name in names)
    ends = {end for end in named if end is not None and tokenizer.is_control(end)}
    return frozenset(listed) | {tokenizer.eos_id} | ends


def states_turns(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether generation_config.json says that an answer ends with its turn: those of instructed checkpoints do.

    A pretrained checkpoint has the tokens of a turn too, in its vocabulary and nowhere else.
    """
    value = _read(folder).get("eos_token_id")
    listed = value if isinstance(value, list) else [value]
    return any(tokenizer.id_of(name) in listed for name in END_OF_TURN if tokenizer.id_of(name) is not None)


def start_id(folder: Path, config: Mapping[str, Any], rows: int) -> int:
    """The token with which the decoder of an encoder-decoder begins: `<bos>`, unless a file names another.

    `decoder_start_token_id` or `bos_token_id` of generation_config.json, or else of config.json and its `decoder`.

    Args:
        folder: of the checkpoint.
        config: config.json.
        rows: of the decoder's table.

    Raises:
        ConfigError: what a file names is not an id of the table.
    """
    decoder = config.get("decoder")
    sections = {
        "generation_config.json": _read(folder),
        "config.json": config,
        "config.json, decoder": decoder if isinstance(decoder, dict) else {},
    }
    for where, section in sections.items():
        for key in ("decoder_start_token_id", "bos_token_id"):
            value = section.get(key)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < rows:
                raise ConfigError(
                    f"{folder / where}: {key} is {str(value)[:80]!r}, and an id below {rows:,} was expected.",
                    "Fetch the file again, or undo the edit.",
                )
            return value
    return _BOS


def generation_defaults(folder: Path) -> dict[str, bool | int | float]:
    """Sampling defaults of generation_config.json, only those it states.

    Keys are its own: do_sample, temperature, top_k (0 is off), top_p, min_p, repetition_penalty, max_new_tokens; those
    of DiffusionGemma: max_denoising_steps, t_max, t_min, stability_threshold, confidence_threshold, and the sampler's
    entropy_bound. What an absent key or `do_sample: false` means is the caller's to say.

    Raises:
        ConfigError: the file is damaged, or a value is of another type or out of range; or a sampler is named that is
            not known.
    """
    path = folder / "generation_config.json"
    config = _read(folder)
    if (sampler := config.get("sampler_config")) is not None:
        if not isinstance(sampler, dict) or sampler.get("_cls_name", _SAMPLER) != _SAMPLER:
            raise ConfigError(f"{path}: sampler_config is {str(sampler)[:80]!r}, and an {_SAMPLER} was expected.")
        config = config | {"entropy_bound": sampler.get("entropy_bound")}
    defaults: dict[str, bool | int | float] = {}
    if (sample := config.get("do_sample")) is not None:
        if not isinstance(sample, bool):
            raise ConfigError(f"{path}: do_sample is {str(sample)[:80]!r}, and true or false was expected.")
        defaults["do_sample"] = sample
    for key, (low, high, kind) in _RANGES.items():
        value = config.get(key)
        if value is None:
            continue
        whole = kind is not int or (_is_number(value) and value == int(value))
        if not _is_number(value) or not whole or not low <= value <= high or (key in _OPEN and value == low):
            what = "a whole number" if kind is int else "a number"
            bounds = _OPEN.get(key, f"of at least {low:g}") + ("" if math.isinf(high) else f" and at most {high:g}")
            raise ConfigError(f"{path}: {key} is {str(value)[:80]!r}, and {what} {bounds} was expected.")
        defaults[key] = kind(value)
    return defaults
