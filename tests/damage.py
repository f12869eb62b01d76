"""Two hundred ways to damage a checkpoint, the same two hundred every time.

Each is a name, the checkpoint it starts from, and what is done to its folder. Bits are flipped in headers; one among
the tensors' bytes cannot be seen by anyone, since safetensors has no checksum.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import mlx.core as mx

from tests.goldens.text import assets
from tests.tiny import edit_config, edit_tensors, write_tiny

VOCAB: Final = 4224  # the small tokenizer has 4,202 entries
INDEX: Final = "model.safetensors.index.json"
WEIGHTS: Final = "model.safetensors"
UP: Final = "model.layers.0.mlp.up_proj"

Damage = Callable[[Path, Random], None]


@dataclass(frozen=True)
class Case:
    """One damaged checkpoint: `damage` is done to a copy of `base`."""

    name: str
    base: str
    damage: Damage

    def __str__(self) -> str:
        return self.name


def write_bases(folder: Path) -> None:
    """The good ones: "plain" in bfloat16, "packed" in 4 bits over two files, "eyes" in MXFP4 with a nested config."""
    write_tiny(folder / "plain", "gemma3_text", vocab_size=VOCAB, num_hidden_layers=2)
    write_tiny(
        folder / "packed",
        "gemma2",
        vocab_size=VOCAB,
        hidden_size=128,
        num_hidden_layers=2,
        quantize={"bits": 4, "group_size": 64},
        shard_bytes=150_000,
    )
    write_tiny(
        folder / "eyes",
        "gemma3",
        vocab_size=VOCAB,
        num_hidden_layers=2,
        quantize={"bits": 4, "group_size": 32, "mode": "mxfp4"},
    )
    for name in ("plain", "packed", "eyes"):
        for source in assets.small("gemma3.model" if name == "packed" else "gemma3").iterdir():
            (folder / name / source.name).write_bytes(source.read_bytes())


def _write(name: str, content: bytes) -> Damage:
    return lambda folder, _: (folder / name).write_bytes(content) and None


def _remove(name: str) -> Damage:
    return lambda folder, _: (folder / name).unlink()


def _cut(name: str, share: float) -> Damage:
    def damage(folder: Path, _: Random) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def _edit_json(name: str, change: Callable[[Any], Any]) -> Damage:
    def damage(folder: Path, _: Random) -> None:
        values = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps(change(values)))

    return damage


def _set(**changes: Any) -> Damage:
    return lambda folder, _: edit_config(folder, **changes)


def _set_text(**changes: Any) -> Damage:
    """Changes keys of the nested text_config."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        text = config["text_config"] | changes
        return config | {"text_config": {key: value for key, value in text.items() if value is not ...}}

    return _edit_json("config.json", change)


def _tensor(name: str, array: Callable[[], mx.array] | None) -> Damage:
    def change(arrays: dict[str, mx.array]) -> None:
        if array is None:
            del arrays[name]
        else:
            arrays[name] = array()

    return lambda folder, _: edit_tensors(folder, change)


def _header_end(path: Path) -> int:
    return 8 + int(struct.unpack("<Q", path.read_bytes()[:8])[0])


def _flip_header(folder: Path, random: Random) -> None:
    """One bit of the header, behind `__metadata__`, which says nothing that counts."""
    path = min(folder.glob("model*.safetensors"))
    content = bytearray(path.read_bytes())
    first = content.index(b"}", 8)
    content[random.randrange(first, _header_end(path))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def _flip_length(byte: int, bit: int) -> Damage:
    def damage(folder: Path, _: Random) -> None:
        path = min(folder.glob("model*.safetensors"))
        content = bytearray(path.read_bytes())
        content[byte] ^= 1 << bit
        path.write_bytes(content)

    return damage


def _cut_weights(length: Callable[[int, int], int]) -> Damage:
    """`length`: (end of the header, size) -> bytes that are left."""

    def damage(folder: Path, _: Random) -> None:
        path = max(folder.glob("model*.safetensors"))
        content = path.read_bytes()
        path.write_bytes(content[: length(_header_end(path), len(content))])

    return damage


def _headers() -> Iterator[Case]:
    for number, length in enumerate((0, 1, 7, 8, 9, 16)):
        yield Case(f"weights-cut-at-{length}", ("plain", "packed")[number % 2], _cut_weights(lambda _, __, n=length: n))
    for share in (0.1, 0.5, 0.9, 0.999):
        yield Case(f"header-cut-at-{share}", "plain", _cut_weights(lambda end, _, s=share: 8 + int((end - 8) * s)))
        yield Case(
            f"data-cut-at-{share}", "packed", _cut_weights(lambda end, size, s=share: end + int((size - end) * s))
        )
    yield Case("data-cut-by-1", "eyes", _cut_weights(lambda _, size: size - 1))
    yield Case("data-cut-whole", "eyes", _cut_weights(lambda end, _: end))
    for number in range(34):
        yield Case(f"header-bit-{number}", ("plain", "packed", "eyes")[number % 3], _flip_header)
    for byte in range(8):
        for bit in (0, 6):
            yield Case(f"length-byte-{byte}-bit-{bit}", "plain", _flip_length(byte, bit))


def _foreign() -> Iterator[Case]:
    contents = {
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "html": b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>",
        "gguf": b"GGUF\x03\x00\x00\x00" + bytes(100),
        "zip": b"PK\x03\x04" + bytes(100),
        "zeros": bytes(10_000),
        "text": b"Entry not found",
        "json": b'{"error":"Invalid username or password."}',
        "noise": Random(3).randbytes(4_000),
    }
    for name, content in contents.items():
        yield Case(f"weights-are-{name}", "plain", _write(WEIGHTS, content))

    def replace_by(name: str) -> Damage:
        return lambda folder, _: (folder / WEIGHTS).rename(folder / name) and None

    for name in ("model.gguf", "pytorch_model.bin", "weights.npz", "model.msgpack"):
        yield Case(f"folder-of-{name}", "plain", replace_by(name))

    def empty(folder: Path, _: Random) -> None:
        for path in folder.iterdir():
            path.unlink()

    yield Case("folder-empty", "plain", empty)


def _configs() -> Iterator[Case]:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    for key in (*sizes, "num_key_value_heads", "query_pre_attn_scalar", "sliding_window", "max_position_embeddings"):
        yield Case(f"config-without-{key}", "plain", _set(**{key: ...}))
    values: tuple[Any, ...] = (1e30, -1, float("nan"), "64", {"a": {"b": []}}, 10**300)
    for number, value in enumerate(values):
        for key in sizes[number % 2 :: 2]:
            yield Case(f"config-{key}-{repr(value)[:8]}", "plain", _set(**{key: value}))
    # Within what any Gemma might have, and not what these files hold.
    for key, value in (
        ("vocab_size", 1 << 21), ("hidden_size", 1 << 16), ("intermediate_size", 1 << 19), ("num_hidden_layers", 512),
        ("head_dim", 2048), ("num_attention_heads", 512),
    ):  # fmt: skip
        yield Case(f"config-{key}-huge", "plain", _set(**{key: value}))
        yield Case(f"config-nested-{key}-huge", "eyes", _set_text(**{key: value}))
    others: dict[str, Damage] = {
        "eps": _set(rms_norm_eps=float("inf")),
        "theta": _set(rope_theta=-1.0),
        "scaling": _set(rope_scaling={"rope_type": "yarn", "factor": 8.0}),
        "scaling-list": _set(rope_scaling=[8.0]),
        "rope-parameters": _set(rope_parameters={"full_attention": {}}),
        "layer-types": _set(layer_types=["full_attention"] * 40),
        "activation": _set(hidden_activation="relu"),
        "bias": _set(attention_bias="yes"),
        "unknown-key": _set(num_experts=8),
        "bidirectional": _set(use_bidirectional_attention=True),
        "encoder": _set(model_type="t5gemma"),
        "other-family": _set(model_type="llama"),
        "sibling": _set(model_type="gemma2"),
        "no-model-type": _set(model_type=...),
        "model-type-list": _set(model_type=["gemma3_text"]),
        "missing": _remove("config.json"),
        "empty": _write("config.json", b""),
        "cut": _cut("config.json", 0.6),
        "binary": _write("config.json", bytes(range(256))),
        "list": _write("config.json", b"[]"),
        "deep": _write("config.json", b"[" * 50_000),
        "digits": _write("config.json", b'{"vocab_size": ' + b"7" * 10_000 + b"}"),
    }
    for name, damage in others.items():
        yield Case(f"config-{name}", "plain", damage)
    yield Case("config-nested-missing", "eyes", _set(text_config=...))
    yield Case("config-nested-string", "eyes", _set(text_config="gemma3_text"))


def _tables() -> Iterator[Case]:
    tables: dict[str, Any] = {
        "missing": ...,
        "string": "4bit",
        "empty": {},
        "bits-7": {"bits": 7, "group_size": 64},
        "bits-text": {"bits": "4", "group_size": 64},
        "group-0": {"bits": 4, "group_size": 0},
        "mode": {"bits": 4, "group_size": 64, "mode": "q4_k_m"},
        "mode-list": {"bits": 4, "group_size": 64, "mode": []},
        "wrong-entry": {"bits": 4, "group_size": 64, UP: {"bits": 8, "group_size": 64}},
        "false-entry": {"bits": 4, "group_size": 64, UP: False},
        "stranger": {"bits": 4, "group_size": 64, "model.layers.7.mlp.up_proj": {"bits": 4, "group_size": 64}},
        "number-entry": {"bits": 4, "group_size": 64, UP: 1e30},
    }
    for name, table in tables.items():
        yield Case(f"table-{name}", "packed", _set(quantization=table, quantization_config=...))
    for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors"):
        quantization = {"quant_method": method, "bits": 4, "group_size": 128}
        yield Case(f"table-{method}", "plain", _set(quantization_config=quantization))
    yield Case("table-and-nothing-packed", "plain", _set(quantization={"bits": 4, "group_size": 64}))


def _tensors() -> Iterator[Case]:
    changes: dict[str, Callable[[], mx.array] | None] = {
        "missing": None,
        "transposed": lambda: mx.zeros((64, 128), mx.bfloat16),
        "flat": lambda: mx.zeros((64 * 128,), mx.bfloat16),
        "empty": lambda: mx.zeros((0, 64), mx.bfloat16),
        "int8": lambda: mx.zeros((128, 64), mx.int8),
        "packed": lambda: mx.zeros((128, 8), mx.uint32),
    }
    for name, array in changes.items():
        yield Case(f"tensor-{name}", "plain", _tensor(f"{UP}.weight", array))
    yield Case("tensor-too-many", "plain", _tensor("model.layers.9.mlp.up_proj.weight", lambda: mx.zeros((1,))))
    eyes = f"language_model.{UP}"
    yield Case("scales-missing", "eyes", _tensor(f"{eyes}.scales", None))
    yield Case("scales-short", "eyes", _tensor(f"{eyes}.scales", lambda: mx.zeros((128, 1), mx.uint8)))
    yield Case("scales-float", "eyes", _tensor(f"{eyes}.scales", lambda: mx.zeros((128, 2), mx.bfloat16)))


def _indexes() -> Iterator[Case]:
    def weight_map(change: Callable[[dict[str, Any]], Any]) -> Damage:
        def edited(index: dict[str, Any]) -> dict[str, Any]:
            change(index["weight_map"])
            return index

        return _edit_json(INDEX, edited)

    name = f"{UP}.weight"
    cases: dict[str, Damage] = {
        "cut": _cut(INDEX, 0.7),
        "empty": _write(INDEX, b""),
        "list": _write(INDEX, b"[]"),
        "no-map": _edit_json(INDEX, lambda _: {"metadata": {}}),
        "lost-tensor": weight_map(lambda tensors: tensors.pop(name)),
        "extra-tensor": weight_map(lambda tensors: tensors.update({"x": "model-00001-of-00004.safetensors"})),
        "wrong-file": weight_map(lambda tensors: tensors.update({name: "model-00009-of-00004.safetensors"})),
        "escape": weight_map(lambda tensors: tensors.update({name: "../../secret.safetensors"})),
        "number": weight_map(lambda tensors: tensors.update({name: 3})),
        "file-missing": lambda folder, _: sorted(folder.glob("model-*"))[1].unlink(),
        "files-swapped": lambda folder, _: _swap(*sorted(folder.glob("model-*"))[:2]),
        "file-added": lambda folder, _: mx.save_safetensors(str(folder / WEIGHTS), {"x": mx.zeros((1,))}),
        "adapter": lambda folder, _: mx.save_safetensors(str(folder / "adapters.safetensors"), {"x": mx.zeros((1,))}),
    }
    for label, damage in cases.items():
        yield Case(f"index-{label}", "packed", damage)

    def without_index(folder: Path, _: Random) -> None:
        (folder / INDEX).unlink()
        min(folder.glob("model-*")).unlink()

    yield Case("index-and-file-missing", "packed", without_index)


def _swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def _tokenizers() -> Iterator[Case]:
    for share in (0.001, 0.3, 0.7, 0.9999):
        yield Case(f"tokenizer-json-cut-at-{share}", "plain", _cut("tokenizer.json", share))
    for share in (0.01, 0.5, 0.99):
        yield Case(f"tokenizer-model-cut-at-{share}", "packed", _cut("tokenizer.model", share))
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    cases: dict[str, tuple[str, Damage]] = {
        "json-missing": ("plain", _remove("tokenizer.json")),
        "json-empty": ("plain", _write("tokenizer.json", b"")),
        "json-object": ("plain", _write("tokenizer.json", b"{}")),
        "json-lfs": ("plain", _write("tokenizer.json", lfs)),
        "json-no-vocab": ("plain", _edit_json("tokenizer.json", lambda data: data | {"model": {"type": "BPE"}})),
        "model-empty": ("packed", _write("tokenizer.model", b"")),
        "model-noise": ("packed", _write("tokenizer.model", Random(5).randbytes(5_000))),
        "model-lfs": ("packed", _write("tokenizer.model", lfs)),
        "of-another-model": ("plain", _shrink_vocabulary),
    }
    for name, (base, damage) in cases.items():
        yield Case(f"tokenizer-{name}", base, damage)


def _shrink_vocabulary(folder: Path, _: Random) -> None:
    """A model with a smaller table than its tokenizer has entries."""
    edit_config(folder, vocab_size=4096)
    edit_tensors(folder, lambda arrays: arrays.update({"model.embed_tokens.weight": mx.zeros((4096, 64), mx.bfloat16)}))


CASES: Final = (
    *_headers(), *_foreign(), *_configs(), *_tables(), *_tensors(), *_indexes(), *_tokenizers(),
)  # fmt: skip
