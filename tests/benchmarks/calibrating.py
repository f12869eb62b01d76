"""What calibration is worth: the model in the box, or any other, packed without a text and by each method.

    python -m tests.benchmarks.calibrating                    # the model in the box
    python -m tests.benchmarks.calibrating FOLDER             # another checkpoint
    python -m tests.benchmarks.calibrating --memory FOLDER    # what it holds at most, beside the estimate

Prints for recipes and methods the bits per weight and the mean Kullback-Leibler divergence of next tokens from those of
the checkpoint. The model in the box is calibrated with dialogues of the kind that it learned from, and judged by others
and by its held-out questions; another model with the project's texts for calibration, and judged by those for judging.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

import gemma_mlx
from gemma_mlx.demo.corpus import Corpus
from gemma_mlx.quantize.calibrate.memory import memory_bytes
from gemma_mlx.quantize.calibrate.reading import windows
from gemma_mlx.quantize.calibrate.run import Calibration, calibrate
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.pack import CALIBRATED
from gemma_mlx.quantize.plan import plan
from gemma_mlx.quantize.texts import passages
from gemma_mlx.quantize.texts import windows as read
from gemma_mlx.text.chat import Message
from gemma_mlx.weights.hub import resolve

HELD_OUT: Final = Path(gemma_mlx.__file__).parent / "demo" / "heldout.txt"
LENGTH: Final = 256
Windows = list[tuple[int, ...]]


def dialogues(model: gemma_mlx.Gemma, seed: int, count: int, length: int = LENGTH) -> Windows:
    """`count` windows of what the model in the box learned from."""
    corpus, tokens = Corpus(seed), []
    while len(tokens) < count * (length - 1):
        turns = [Message(turn["role"], turn["content"]) for turn in corpus.dialogue().messages()]  # type: ignore[arg-type]
        tokens += model.processor(turns).tokens[1:]
    return _cut(model, tokens, count, length)


def held_out(model: gemma_mlx.Gemma, count: int, length: int = LENGTH) -> Windows:
    """`count` windows of questions that it did not learn from, and their answers."""
    return _cut(model, model.processor.tokenizer.encode(HELD_OUT.read_text(encoding="utf-8")), count, length)


def _cut(model: gemma_mlx.Gemma, tokens: Sequence[int], count: int, length: int) -> Windows:
    bos, step = model.processor.tokenizer.bos_id, length - 1
    return [(bos, *tokens[first : first + step]) for first in range(0, step * count, step)]


def divergence(teacher: gemma_mlx.Gemma, folder: Path, texts: Windows) -> float:
    """Mean over all positions, in nats."""
    student, total = gemma_mlx.load(folder, mx.float32), 0.0
    for tokens in texts:
        before, after = (model.logits(list(tokens)) for model in (teacher, student))
        total += full_divergence(before, after).sum().item()  # type: ignore[operator]
    return total / sum(map(len, texts))


def ways(recipes: Sequence[str], methods: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is compared, each with the arguments of `plan`."""
    for recipe in recipes:
        yield f"--recipe {recipe}", {"recipe_name": recipe}
        yield f"--recipe {recipe} --clip", {"recipe_name": recipe, "clip": True}
        for method in methods:
            yield f"--recipe {recipe} --method {method}", {"recipe_name": recipe, "method": method}


def compare(
    source: Path, text: Windows, judged: dict[str, Windows], recipes: Sequence[str], methods: Sequence[str]
) -> None:
    """Prints the table."""
    teacher = gemma_mlx.load(source, mx.float32)
    print(f"calibrated with {sum(map(len, text)):,} tokens; judged by", end=" ")
    print(", ".join(f"{name} ({sum(map(len, some)):,})" for name, some in judged.items()))
    with tempfile.TemporaryDirectory() as folder:
        for number, (way, asked) in enumerate(ways(recipes, methods)):
            began = time.perf_counter()
            made = plan(source, **asked)
            calibration = Calibration(made, text) if made.calibrated else None
            written = quantize(made, Path(folder) / str(number), calibration=calibration)
            seconds = time.perf_counter() - began
            found = ", ".join(
                f"{name} {divergence(teacher, written.folder, some):.5f}" for name, some in judged.items()
            )
            print(f"{way}: {made.bits_per_weight:.2f} bits per weight, KL {found}, {seconds:.0f} s", flush=True)


def memory(source: Path, text: Windows) -> None:
    """Prints what MLX held at most, and what was estimated."""
    for method in CALIBRATED:
        made = plan(source, recipe_name="uniform", method=method)
        mx.clear_cache()
        before = mx.get_active_memory()  # of the model that judges
        mx.reset_peak_memory()
        with tempfile.TemporaryDirectory() as folder:
            calibrate(made, text, Path(folder) / "store")
        held, estimated = mx.get_peak_memory() - before, memory_bytes(made, text)
        print(f"{method}: held {held / 1e6:,.0f} MB, estimated {estimated / 1e6:,.0f} MB", flush=True)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--recipes", nargs="+", default=["uniform", "gemma"])
    parser.add_argument("--methods", nargs="+", default=CALIBRATED)
    parser.add_argument("--windows", type=int, default=32, help="of 256 tokens, to calibrate with")
    parser.add_argument("--judged", type=int, default=24, help="windows, to judge another model by")
    asked = parser.parse_args()
    if asked.folder is None:
        source = resolve("demo")
        model = gemma_mlx.load(source, mx.float32)
        text = dialogues(model, 1, asked.windows)
        judged = {"dialogues": dialogues(model, 77, 8), "held out": held_out(model, 8)}
    else:
        source = Path(asked.folder)
        text = windows(source, length=LENGTH, most=asked.windows)
        found = read(passages("judge"), gemma_mlx.load(source).processor, LENGTH)
        judged = {"the project's": [window.tokens for window in found[:: max(len(found) // asked.judged, 1)]]}
    if asked.memory:
        memory(source, text)
    else:
        compare(source, text, judged, asked.recipes, asked.methods)


if __name__ == "__main__":
    main()
