"""How near the divergence from a teacher's likeliest tokens is to the full one, on the model in the box.

    python -m tests.benchmarks.bound

Prints for texts it was trained for and others, for 4 and 8 bits, and for 16 to 1024 kept tokens of 2048, which part of
the full divergence is seen.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path

import mlx.core as mx

import gemma_mlx
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import divergence, full_divergence, said
from gemma_mlx.quantize.judge import Task
from gemma_mlx.quantize.plan import plan
from gemma_mlx.quantize.reading import read
from gemma_mlx.quantize.texts import read_passages
from gemma_mlx.weights.hub import resolve


def main() -> None:
    """Prints the table."""
    source = resolve("demo")
    teacher = gemma_mlx.load(source, mx.float32)
    own = read_passages(source / "heldout.txt")
    tasks = (Task.of(own, "heldout.txt"), Task.of(quick=True))
    cases = product(tasks, (4, 8))
    with tempfile.TemporaryDirectory() as folder:
        for number, (task, bits) in enumerate(cases):
            made = quantize(plan(source, recipe_name="uniform", bits=bits), Path(folder) / str(number))
            student = gemma_mlx.load(made.folder, mx.float32)
            chosen = task.windows(teacher.processor, teacher.spec.context)[:12]
            full, covered = 0.0, 0.0
            part = dict.fromkeys((16, 64, 256, 1024), 0.0)
            for window in chosen:
                for one, other in zip(read(teacher, window.tokens), read(student, window.tokens), strict=True):
                    full += full_divergence(one.logits, other.logits).sum().item()
                    for k in part:
                        kept = said(one.logits, one.following, k)
                        part[k] += divergence(kept, other.logits).sum().item()
                        covered += mx.exp(kept.log_p).sum().item() if k == 256 else 0.0
            tokens = sum(len(window.tokens) - 1 for window in chosen)
            shares = ", ".join(f"{k}: {value / full:.1%}" for k, value in part.items())
            print(f"{task.name}, {bits} bits: {shares}; 256 tokens hold {covered / tokens:.1%} of what it expects")


if __name__ == "__main__":
    main()
