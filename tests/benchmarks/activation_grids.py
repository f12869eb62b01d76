"""What grids of activations cost and change, on the model in the box packed as Google packs for phones.

    python -m tests.benchmarks.activation_grids

Its linear maps get codes of 8 and 4 bits with a scale for each row, and steps that just hold the largest activation
of another text. Prints the mean Kullback-Leibler divergence between the model with its grids and without them, and of
both from the bf16 model; and the median time of a token, with and without.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn

import gemma_mlx
from gemma_mlx.gemma import Gemma
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.weights.hub import resolve
from gemma_mlx.weights.quantized import leaves

HELD_OUT: Final = Path(gemma_mlx.__file__).parent / "demo" / "heldout.txt"
CHUNK: Final = 255
CHUNKS: Final = 8  # of each text
TIMED: Final = 200  # tokens
HIGHEST: Final = 127


class Watched(nn.Module):
    """A linear map that notes the largest number it reads and gives."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self._linear = linear
        self.most = [0.0, 0.0]

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self._linear(x)
        self.most = [max(old, mx.abs(new).max().item()) for old, new in zip(self.most, (x, y), strict=True)]
        return y


def main() -> None:
    """Prints everything."""
    source = resolve("demo")
    teacher = gemma_mlx.load(source, mx.float32)
    tokens = teacher.processor.tokenizer.encode(HELD_OUT.read_text(encoding="utf-8"))
    texts = [[teacher.start, *tokens[at : at + CHUNK]] for at in range(0, CHUNK * CHUNKS * 2, CHUNK)]
    judged, seen = texts[:CHUNKS], texts[CHUNKS:]
    wanted = [teacher.logits(text) for text in judged]
    steps = _steps(seen)
    with tempfile.TemporaryDirectory() as folder:
        for bits in (8, 4):
            packed = Path(folder) / str(bits)
            _write(source, packed, steps, bits)
            on, off = (gemma_mlx.load(packed, mx.float32, grids=grids) for grids in (True, False))
            logs = {name: [each.logits(text) for text in judged] for name, each in (("on", on), ("off", off))}
            with_them, without = (_divergence(wanted, logs[name]) for name in ("on", "off"))
            print(
                f"{bits} bits: grids change {_divergence(logs['off'], logs['on']):.5f}; "
                f"from bf16 with them {with_them:.5f}, without {without:.5f}; "
                f"a token {_time(on):.2f} ms with them, {_time(off):.2f} ms without"
            )


def _steps(texts: list[list[int]]) -> dict[str, list[float]]:
    model = gemma_mlx.load("demo", mx.float32)
    watched = {path: Watched(each) for path, each in leaves(model.model) if isinstance(each, nn.Linear)}
    for path, each in watched.items():
        parent, _, name = path.rpartition(".")
        setattr(dict(model.model.named_modules())[parent], name, each)
    for text in texts:
        mx.eval(model.logits(text))
    return {path: [most / HIGHEST for most in each.most] for path, each in watched.items()}


def _write(source: Path, target: Path, steps: dict[str, list[float]], bits: int) -> None:
    shutil.copytree(source, target)
    arrays: Any = mx.load(str(source / "model.safetensors"))
    high = (1 << bits - 1) - 1
    for path, (before, after) in steps.items():
        weight = arrays[f"{path}.weight"].astype(mx.float32)
        scale = mx.abs(weight).max(axis=-1, keepdims=True) / high
        codes = mx.clip(mx.round(weight / scale), -high - 1, high)
        if bits == 8:
            stored = codes.astype(mx.int8)
        else:
            offset = (codes + high + 1).astype(mx.uint8)
            stored = offset[:, ::2] | (offset[:, 1::2] << 4)
        arrays |= {f"{path}.weight": stored, f"{path}.weight_scale": scale}
        arrays |= {
            f"{path}.input_activation_scale": mx.array(before),
            f"{path}.output_activation_scale": mx.array(after),
        }
    mx.save_safetensors(str(target / "model.safetensors"), arrays)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gemma", "num_bits": bits}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _time(gemma: Gemma) -> float:
    cache, times = gemma.decoder.make_cache(), []
    for _ in range(TIMED):
        begun = time.perf_counter()
        mx.eval(gemma.decoder(gemma.decoder.embed(mx.array([[7]])), cache))
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def _divergence(wanted: list[mx.array], found: list[mx.array]) -> float:
    each = [full_divergence(before, after) for before, after in zip(wanted, found, strict=True)]
    return float(mx.concatenate([one.reshape(-1) for one in each]).mean().item())


if __name__ == "__main__":
    main()
