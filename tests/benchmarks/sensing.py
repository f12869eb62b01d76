"""Whether what is predicted of each matrix comes true: measured on one text, held against the loss on another.

    python -m tests.benchmarks.sensing [FOLDER]

Packs one matrix after the other in 4 bits, groups of 64, and compares the Kullback-Leibler divergence on held-out text
with what was predicted from the texts to calibrate on, and with what is known of such parts. Prints a line for each
matrix, the sum for each part, and the rank correlations.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

import gemma_mlx
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.sensitivity import calibration, known, measure
from gemma_mlx.weights.hub import DEMO, resolve
from gemma_mlx.weights.quantized import leaves
from tests.benchmarks.packing import _texts

CHUNKS: Final = 2  # of held-out text


def main(name: str) -> None:
    """Compares what was predicted with what is."""
    gemma = gemma_mlx.load(resolve(name), mx.float32)
    began = time.perf_counter()
    found = measure(gemma.folder, calibration(gemma.processor))
    assert found is not None, "it is a decoder"
    print(f"{len(found.losses)} matrices measured on {found.tokens} tokens in {time.perf_counter() - began:.1f} s")
    guessed = known(list(found.losses), len(gemma.decoder.spec.layers)).losses
    chunks = _texts(gemma, name)[:: max(len(_texts(gemma, name)) // CHUNKS, 1)][:CHUNKS]
    clean = [gemma.logits(chunk) for chunk in chunks]
    mx.eval(clean)
    modules = dict(leaves(gemma.model))
    real, parts = {}, defaultdict(float)
    for path, cost in found.losses.items():
        module = modules[path]
        weight = module.weight
        module.weight = mx.dequantize(*mx.quantize(weight.astype(mx.bfloat16), 64, 4), 64, 4).astype(mx.float32)
        error: Any = (mx.square(module.weight - weight).sum() / mx.square(weight).sum()).item()
        losses = [
            full_divergence(logits, gemma.logits(chunk)).mean().item()
            for chunk, logits in zip(chunks, clean, strict=True)
        ]
        module.weight = weight
        real[path] = sum(losses) / len(losses)  # type: ignore[arg-type]
        parts[path.rpartition(".")[2]] += real[path] / error
        print(f"{path}: predicted {cost * error:.5f}, is {real[path]:.5f}", flush=True)
    for part, worth in parts.items():
        print(f"a relative squared error of 1 in all of {part} would cost {worth:.2f}")
    for what, losses_of in (("measured", found.losses), ("known", guessed)):
        predicted = [losses_of[path] for path in real]
        print(f"rank correlation of what is {what} with what is: {_correlation(predicted, list(real.values())):.3f}")


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of values without ties."""
    ranks = [
        {index: rank for rank, index in enumerate(sorted(range(len(one)), key=each.__getitem__))}
        for each in (one, other)
    ]
    n = len(one)
    return 1 - 6 * sum((ranks[0][index] - ranks[1][index]) ** 2 for index in range(n)) / (n * (n * n - 1))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEMO)
