"""What it takes to quantize a checkpoint: this package and mlx_lm.convert, in turn, on the same one.

    python -m tests.benchmarks.quantizing FOLDER

Writes a random Gemma 3 of about 1 GB into FOLDER, where it stays and is used again. Each way runs in a process of its
own, three times in turn, and says its seconds and the most memory it held: what MLX counted, and what the system did.
At the end, for ways of the same size, the Kullback-Leibler divergence from the source on random tokens.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

import gemma_mlx
from gemma_mlx import registry
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.weights.load import inspect
from gemma_mlx.weights.save import save_checkpoint
from tests.tiny import tiny_config

CONFIG: Final[dict[str, Any]] = {
    "head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 12, "num_key_value_heads": 1,
    "vocab_size": 131_072,
}  # fmt: skip
TOKENIZER: Final = Path(__file__).parents[2] / "gemma_mlx" / "demo"
RUNS: Final = 3


def make(folder: Path) -> None:
    """Random weights in bfloat16, with a tokenizer, without which mlx_lm.convert does nothing."""
    config = tiny_config("gemma3_text", **CONFIG)
    match = registry.match(config)
    model = match.architecture.build(match.spec)
    draw = [(name, mx.random.normal(array.shape) * 0.05) for name, array in tree_flatten(model.parameters())]
    model.load_weights([(name, array.astype(mx.bfloat16)) for name, array in draw])
    save_checkpoint(folder, model, config)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)


def measure(folder: Path, way: str, target: Path) -> dict[str, float]:
    """Quantizes to affine 4 bits in groups of 64 in one of the ways, or makes the checkpoint first."""
    if way == "make":
        make(folder)
        return {}
    if way == "mlx-lm":
        from mlx_lm.convert import convert

        began = time.perf_counter()
        convert(str(folder), str(target), quantize=True)
    else:
        from gemma_mlx.quantize.convert import quantize
        from gemma_mlx.quantize.plan import plan
        from gemma_mlx.quantize.target import Aim, plan_for

        began = time.perf_counter()
        if way == "budget":  # as many bytes as mlx-lm's, spent by what is known of such parts
            nbytes = plan(folder, recipe_name="uniform").nbytes
            quantize(plan_for(folder, Aim(nbytes=nbytes, measured=False)).plan, target)
        else:
            quantize(plan(folder, recipe_name="gemma" if way == "gemma" else "uniform", clip=way == "clip"), target)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": time.perf_counter() - began, "peak": mx.get_peak_memory(), "resident": held}


def main() -> None:
    """Measures every way, each in a process of its own."""
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(measure(folder, sys.argv[2], Path(sys.argv[3]))))
        return
    if not (folder / "config.json").exists():  # elsewhere, for a process inherits the peak of the one that starts it
        subprocess.run([sys.executable, "-m", "tests.benchmarks.quantizing", str(folder), "make", ""], check=True)
    print(f"{inspect(folder).nbytes / 1e9:.2f} GB")
    ways: dict[str, list[dict[str, float]]] = {"mlx-lm": [], "uniform": [], "gemma": [], "budget": [], "clip": []}
    for _ in range(RUNS):
        for way, found in ways.items():
            target = folder.with_name(f"{folder.name}-{way}")
            shutil.rmtree(target, ignore_errors=True)
            command = [sys.executable, "-m", "tests.benchmarks.quantizing", str(folder), way, str(target)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    for way, found in ways.items():
        seconds, peak, resident = (statistics.median(one[key] for one in found) for key in found[0])
        print(f"{way}: {seconds:.1f} s, MLX peak {peak / 1e6:,.0f} MB, resident {resident / 1e6:,.0f} MB")
    same = (folder.with_name(f"{folder.name}-{way}") for way in ("mlx-lm", "uniform"))
    tensors = [{name: array for file in path.glob("*.safetensors") for name, array in _read(file)} for path in same]
    equal = tensors[0].keys() == tensors[1].keys() and all(
        bool(mx.array_equal(array, tensors[1][name]).item()) for name, array in tensors[0].items()
    )
    print(f"uniform has the same tensors as mlx-lm: {'yes' if equal else 'no'}")
    clean = _said(folder)
    for way in ("mlx-lm", "budget"):
        made = folder.with_name(f"{folder.name}-{way}")
        divergence = full_divergence(clean, _said(made)).mean().item()
        print(f"{way}: {inspect(made).bits_per_weight:.3f} bits per weight, KL {divergence:.5f}")


def _said(folder: Path) -> mx.array:
    """Logits behind 64 random tokens."""
    ids = mx.random.randint(3, CONFIG["vocab_size"], (64,), key=mx.random.key(1))
    logits = gemma_mlx.load(folder, mx.float32).logits(ids)
    mx.eval(logits)
    return logits


def _read(file: Path) -> list[tuple[str, mx.array]]:
    found = mx.load(str(file))
    assert isinstance(found, dict)
    return list(found.items())


if __name__ == "__main__":
    main()
