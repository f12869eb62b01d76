"""What passes while a model computes; the constants are measured by tests/benchmarks/peaks.py."""

from __future__ import annotations

from typing import Final

from gemma_mlx import registry
from gemma_mlx.quantize.memory import Kernels
from gemma_mlx.quantize.passing import CANVAS_LOGITS, CPU_FLOOR, filling, passing
from gemma_mlx.spec import DecoderSpec, StackSpec
from tests.tiny import tiny_config

ON_CPU: Final = Kernels(backend="cpu", itemsize=4)
METAL: Final = Kernels(backend="metal")


def spec(kind: str, **changes: object) -> StackSpec:
    return registry.match(tiny_config(kind, **changes)).spec


def test_experts_and_scores_are_not_there_together() -> None:
    """In layers without experts they are: a wider feed-forward adds to what passes, whatever the scores are."""
    few, many = (spec("gemma4_text", moe_intermediate_size=size) for size in (64, 1024))
    scores = 1 << 30
    assert passing(few, 1, 512, scores, ON_CPU) == passing(many, 1, 512, scores, ON_CPU)
    assert passing(few, 1, 512, 0, ON_CPU) < passing(many, 1, 512, 0, ON_CPU)
    few, many = (spec("gemma4_text", enable_moe_block=False, intermediate_size=size) for size in (64, 1024))
    assert passing(few, 1, 512, scores, ON_CPU) < passing(many, 1, 512, scores, ON_CPU)


def test_on_metal_it_is_bounded_by_the_chunk() -> None:
    one = spec("gemma3_text")
    sizes = [passing(one, 1, queries, 0, METAL) for queries in (1, 128, 512, 1024, 4096)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == sizes[-2] == int(1.1e9)


def test_a_canvas_makes_logits_of_a_part_of_it() -> None:
    canvas = spec("diffusion_gemma", vocab_size=50_000)
    assert isinstance(canvas, DecoderSpec)
    assert filling(canvas, 1, 256, 0, ON_CPU) == CPU_FLOOR + CANVAS_LOGITS * 64 * 50_000 * 4
    assert filling(canvas, 1, 16, 0, ON_CPU) == CPU_FLOOR + CANVAS_LOGITS * 16 * 50_000 * 4
