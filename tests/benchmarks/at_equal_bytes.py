"""How far quantizing takes a model from itself: by mlx_lm.convert, and by this package in as many bytes or fewer.

    python -m tests.benchmarks.at_equal_bytes
    python -m tests.benchmarks.at_equal_bytes --json --models larger
    python -m tests.benchmarks.at_equal_bytes --quick    # without what runs the model: measured targets and gptq

Of the model in the box and of the larger one (tests/larger): the bits per weight, counted from the files, and the mean
Kullback-Leibler divergence of the next tokens from those of the bf16 checkpoint. Every model is judged by 1,250
tokens: every 24th window of the texts to judge by, and 3 windows of the box's questions that no training showed. What
is measured for a target (384 tokens) and read by gptq (2,048) is of the texts to calibrate on, which share no sentence
with these; the larger model was trained on them, and the box was not. Beside each of mlx_lm.convert's ways stands the
best of ours that has no more bytes, and the part of its divergence that is left.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

import gemma_mlx
from gemma_mlx import demo
from gemma_mlx.quantize.calibrate.reading import windows as calibration
from gemma_mlx.quantize.calibrate.run import Calibration
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.divergence import full_divergence
from gemma_mlx.quantize.plan import Plan, plan
from gemma_mlx.quantize.target import Aim, plan_for
from gemma_mlx.quantize.texts import passages, windows
from gemma_mlx.weights.load import inspect
from tests.larger import PATH as LARGER

MODELS: Final = {"box": demo.PATH, "larger": LARGER}
HELD_OUT: Final = demo.PATH / "heldout.txt"
LENGTH, EVERY, QUESTIONS = 256, 24, 3  # tokens of a window; which of the texts' windows; windows of questions
READ: Final = 8  # windows that gptq reads
PEER: Final[dict[str, dict[str, Any]]] = {
    "4 bits, groups of 64": {"q_bits": 4, "q_group_size": 64},
    "4 bits, groups of 32": {"q_bits": 4, "q_group_size": 32},
    "8 bits, groups of 64": {"q_bits": 8, "q_group_size": 64},
}
FIRST: Final = next(iter(PEER))  # at whose bytes all is tried
# Flags -> arguments of `plan`.
OURS: Final[dict[str, dict[str, Any]]] = {
    "--recipe uniform --clip": {"recipe_name": "uniform", "clip": True},
    "--recipe uniform --method gptq": {"recipe_name": "uniform", "method": "gptq"},
    "--recipe gemma": {},
    "--recipe uniform --bits 8 --clip": {"recipe_name": "uniform", "bits": 8, "clip": True},
}
# Flags beside a size, which is the bytes of one of the peer's ways -> arguments of `Aim` and `plan_for`.
EVERYWHERE: Final[dict[str, dict[str, Any]]] = {
    "--clip --no-measure": {"clip": True, "measured": False},
    "--clip": {"clip": True},
}
AT_4_BITS: Final[dict[str, dict[str, Any]]] = {
    "--no-measure": {"measured": False},
    "": {},
    "--method gptq": {"method": "gptq"},
}


class Judge:
    """Compares checkpoints with one of bf16."""

    def __init__(self, source: Path) -> None:
        teacher = gemma_mlx.load(source, mx.float32)
        tokens = teacher.processor.tokenizer.encode(HELD_OUT.read_text(encoding="utf-8"))
        questions = [
            [teacher.start, *tokens[first : first + LENGTH - 1]]
            for first in range(0, QUESTIONS * (LENGTH - 1), LENGTH - 1)
        ]
        self._texts: list[Sequence[int]] = [
            *(window.tokens for window in windows(passages("judge"), teacher.processor, LENGTH)[::EVERY]),
            *questions,
        ]
        self._wanted = [teacher.logits(list(text)) for text in self._texts]
        mx.eval(self._wanted)

    def divergence(self, folder: Path) -> float:
        """Mean of all positions, in nats."""
        student = gemma_mlx.load(folder, mx.float32)
        total = sum(
            full_divergence(logits, student.logits(list(text))).sum().item()
            for text, logits in zip(self._texts, self._wanted, strict=True)
        )
        return total / sum(map(len, self._texts))


def _converted(source: Path, target: Path, asked: dict[str, Any]) -> None:
    from mlx_lm.convert import convert

    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(source), str(target), quantize=True, dtype="bfloat16", **asked)


def _ours(source: Path, target: Path, asked: dict[str, Any]) -> None:
    _write(plan(source, **asked), target)


def _aimed(source: Path, target: Path, asked: dict[str, Any]) -> None:
    aim = Aim(nbytes=asked["nbytes"], measured=asked.get("measured", True))
    rest = {key: value for key, value in asked.items() if key not in ("nbytes", "measured")}
    _write(plan_for(source, aim, **rest).plan, target)


def _write(made: Plan, target: Path) -> None:
    text = calibration(made.checkpoint.folder, length=LENGTH, most=READ) if made.calibrated else ()
    quantize(made, target, calibration=Calibration(made, text) if text else None)


def is_quick(asked: dict[str, Any]) -> bool:
    """Whether a way packs weights without running the model."""
    return "method" not in asked and ("nbytes" not in asked or asked.get("measured") is False)


def rows(source: Path, folder: Path, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """What each way makes of a checkpoint: who, how, bytes, bits and divergence."""
    judge = Judge(source)
    numbers = count()

    def row(who: str, how: str, make: Callable[..., None], asked: dict[str, Any]) -> dict[str, Any]:
        target = folder / str(next(numbers))
        make(source, target, asked)
        made = inspect(target)
        found = {"bytes": made.nbytes, "bits_per_weight": made.bits_per_weight, "kl": judge.divergence(target)}
        return {"who": who, "how": how, **found}

    for how, asked in OURS.items():
        if not quick or is_quick(asked):
            yield row("gemma", how, _ours, asked)
    for theirs, asked in PEER.items():
        yield (peer := row("mlx-lm", theirs, _converted, asked))
        ways = EVERYWHERE | (AT_4_BITS if theirs == FIRST else {})
        for flags, more in ways.items():
            how = f"--target-size {peer['bytes'] / 1e6:.3f}MB {flags}".rstrip()
            aimed = {"nbytes": peer["bytes"], **more}
            if not quick or is_quick(aimed):
                yield row("gemma", how, _aimed, aimed)


def best(ways: Sequence[dict[str, Any]], nbytes: int) -> dict[str, Any] | None:
    """Of our ways with no more bytes, the nearest to the source."""
    fit = [way for way in ways if way["who"] == "gemma" and way["bytes"] <= nbytes]
    return min(fit, key=lambda way: way["kl"], default=None)


def main() -> None:
    """Prints every way of quantizing each model, and the comparison."""
    parser = argparse.ArgumentParser(description="KL at equal bytes, beside mlx_lm.convert.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name, source in ((name, MODELS[name]) for name in arguments.models):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = []
            for way in rows(source, Path(folder), quick=arguments.quick):
                found[name].append(way)
                if not arguments.json:
                    shown = f"{way['bits_per_weight']:.2f} bits  KL {way['kl']:.5f}"
                    print(f"{name}: {way['who']:6} {way['how']:44} {shown}", flush=True)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, ways in found.items():
        for way in ways:
            if way["who"] == "mlx-lm" and (ours := best(ways, way["bytes"])) is not None:
                print(f"{name}: {way['how']} -> {ours['how']}: {ours['kl'] / way['kl']:.2f} of the divergence")


if __name__ == "__main__":
    main()
