"""What packing costs in exactness: errors of weights, and of the model in the box on text it has not seen.

    python -m tests.benchmarks.packing [FOLDER]

Prints relative errors of Gaussian weights, of heavy-tailed ones and of weights on the lattice of Q4_0, and for recipes
and flags the bits per weight and the mean Kullback-Leibler divergence of the model's next tokens from those of the bf16
checkpoint: of the model in the box on its held-out text, or of the one in FOLDER on the texts to judge by. Recipes are
compared at equal size: what a target is given is the size that a uniform packing has.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

import gemma_mlx
from gemma_mlx.gemma import Gemma
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.formats import BITS_4, BITS_8, BLOCKS_OF_32
from gemma_mlx.quantize.pack import pack, relative_error
from gemma_mlx.quantize.plan import Plan, plan
from gemma_mlx.quantize.target import Aim, plan_for
from gemma_mlx.quantize.texts import passages, windows
from gemma_mlx.weights.hub import DEMO, resolve
from gemma_mlx.weights.quantized import FIXED, Quantization
from tests.test_quantize_pack import lattice

HELD_OUT: Final = Path(gemma_mlx.__file__).parent / "demo" / "heldout.txt"
WAYS: Final[dict[str, dict[str, Any]]] = {
    "--recipe uniform": {"recipe_name": "uniform"},
    "--recipe uniform --clip": {"recipe_name": "uniform", "clip": True},
    "--recipe uniform --group-size 32": {"recipe_name": "uniform", "group_size": 32},
    "--recipe uniform --group-size 32 --clip": {"recipe_name": "uniform", "group_size": 32, "clip": True},
    "": {},
    "--clip": {"clip": True},
    "--recipe uniform --bits 5": {"recipe_name": "uniform", "bits": 5},
    "--recipe uniform --bits 6": {"recipe_name": "uniform", "bits": 6},
    "--recipe uniform --bits 8": {"recipe_name": "uniform", "bits": 8},
    **{f"--recipe uniform --mode {mode}": {"recipe_name": "uniform", "mode": mode} for mode in FIXED},
}
# Uniform packings whose size is aimed at.
SIZES: Final[dict[str, dict[str, Any]]] = {
    "4 bits / 64": {},
    "4 bits / 32": {"group_size": 32},
    "5 bits / 64": {"bits": 5},
    "6 bits / 64": {"bits": 6},
}


def errors() -> None:
    """Relative errors of weights."""
    drawn = {
        "Gaussian": mx.random.normal((2048, 2048), key=mx.random.key(0)).astype(mx.bfloat16),
        "Laplacian": mx.random.laplace((2048, 2048), key=mx.random.key(0)).astype(mx.bfloat16),
    }
    on_lattice = lattice(2048, 2048)
    modes = [Quantization(mode=mode, bits=bits, group_size=group) for mode, (bits, group) in FIXED.items()]
    for how in (BITS_8, BITS_4, BLOCKS_OF_32, *modes):
        methods = ("plain", "clip") if how.mode == "affine" else ("plain",)
        for (name, weights), method in product(drawn.items(), methods):
            found = relative_error(weights, pack(weights, how, method), how)  # type: ignore[arg-type]
            print(f"{name} weights, {how}, {method}: {found:.2%}")
    for method in ("plain", "clip", "lattice"):
        found = relative_error(on_lattice, pack(on_lattice, BLOCKS_OF_32, method), BLOCKS_OF_32)  # type: ignore[arg-type]
        print(f"weights on the lattice of Q4_0, {BLOCKS_OF_32}, {method}: {found:.2%}")


def divergences(name: str) -> None:
    """Of a model."""
    source = resolve(name)
    teacher = gemma_mlx.load(source, mx.float32)
    chunks = _texts(teacher, name)
    wanted = [teacher.logits(chunk) for chunk in chunks]
    with tempfile.TemporaryDirectory() as folder:

        def judge(way: str, made: Plan, more: str = "") -> None:
            written = Path(folder) / "made"
            student = gemma_mlx.load(quantize(made, written).folder, mx.float32)
            total = count = 0.0
            for chunk, logits in zip(chunks, wanted, strict=True):
                total += full_divergence(logits, student.logits(chunk)).sum().item()
                count += len(chunk)
            print(f"{way}: {made.bits_per_weight:.2f} bits per weight, KL {total / count:.5f}{more}", flush=True)
            shutil.rmtree(written)

        for way, asked in WAYS.items():
            judge(way or "--recipe gemma", plan(source, **asked))
        for size, asked in SIZES.items():
            nbytes = plan(source, recipe_name="uniform", **asked).nbytes
            for way, measured in {"": True, " --no-measure": False}.items():
                made = plan_for(source, Aim(nbytes=nbytes, measured=measured))
                judge(f"as large as uniform {size}, --target-size{way}", made.plan, f", predicted {made.loss:.5f}")


def _texts(teacher: Gemma, name: str) -> list[list[int]]:
    if name != DEMO:
        return [list(window.tokens) for window in windows(passages("judge"), teacher.processor, 256)]
    tokens = teacher.processor.tokenizer.encode(HELD_OUT.read_text(encoding="utf-8"))
    return [[teacher.start, *tokens[first : first + 255]] for first in range(0, 255 * 16, 255 * 2)]


if __name__ == "__main__":
    errors()
    divergences(sys.argv[1] if len(sys.argv) > 1 else DEMO)
