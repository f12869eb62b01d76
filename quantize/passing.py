"""What passes while a model computes: the arrays of one pass that nobody keeps, beside its attention scores.

On the CPU back end they were measured (tests/benchmarks/peaks.py), on Metal they are bounded by published peaks. The
evaluator allocates about a hundred operations ahead of the one that runs, so that what so many neighbouring
operations make is there together: in a layer without experts its scores and its feed-forward; in one with
experts, whose router alone is some twenty operations, either the one or the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderSpec, ExpertsSpec, LayerSpec, StackSpec

if TYPE_CHECKING:
    from gemma_mlx.quantize.memory import Kernels

# Fitted so that no measurement lies above: multiples of the largest tensor of scores, of a feed-forward's hidden
# activations, of the widest row of a position, and of a position's residual stream.
CPU_SCORES: Final = 1.25
CPU_HIDDEN: Final = 5.0
CPU_WIDTH: Final = 4.0
CPU_STREAM: Final = 7.0  # in layers with experts, where it is not covered by the hidden activations
CPU_FLOOR: Final = 3 << 20
CPU_ENCODER: Final = 1 << 20  # more, of models that make vectors: packed ones lay up to 0.6 MB above the estimate
# Of a token's experts: gate, up and their product; and what is gathered for them, leaves them and is put in order.
EXPERTS_HIDDEN, EXPERTS_WIDTH = 3.0, 4.0
DENSE_BESIDE: Final = 3.0  # hidden activations of the dense feed-forward beside the experts
LOGITS: Final = 4  # arrays of the last position's logits, in float32
# Arrays of the logits of a part of a canvas, in float32: capped, divided, noise, entropies, likelihoods.
CANVAS_LOGITS: Final = 8
CANVAS_ROWS: Final = 64  # positions in a part, as `generate.diffusion.ROWS` says

# On Metal it hardly depends on the model (ten command buffers are in flight, each closed at about 40 MB): an upper
# bound for mlx-lm's published peaks on M3 Pro to M5 Max.
METAL_FLOOR: Final = 0.25e9
METAL_CHUNK: Final = 0.85e9


def passing(spec: StackSpec, batch: int, queries: int, scores: int, kernels: Kernels) -> int:
    """Bytes of what passes while `queries` positions of each sequence go through all layers, without the scores.

    Args:
        spec: of the layers.
        batch: sequences.
        queries: positions of each of them.
        scores: bytes of the largest tensor of scores.
        kernels: of the machine.
    """
    positions = batch * queries
    if kernels.backend == "metal":
        return int(METAL_FLOOR + METAL_CHUNK * min(1.0, positions / 1024) ** 0.6)
    logits = LOGITS * batch * spec.vocab * 4  # after the layers, when their arrays are gone
    floor = CPU_FLOOR + (CPU_ENCODER if isinstance(spec, EncoderSpec) else 0)
    return floor + max(_on_cpu(spec, positions, scores, kernels), logits)


def _on_cpu(spec: StackSpec, positions: int, scores: int, kernels: Kernels) -> int:
    """The arrays of neighbouring operations in the layer that has the largest."""
    altup = spec.altup if isinstance(spec, DecoderSpec) else None
    small = 2 * len(spec.layers) * spec.per_layer.dim if spec.per_layer else 0
    streams = (altup.streams if altup else 1) * spec.dim
    widest = max([streams, *(attention.heads * attention.head_dim for attention in spec.attentions)])
    hidden = max(layer.mlp_dim for layer in spec.layers)
    item = kernels.itemsize * positions
    around = int((CPU_SCORES - 1) * scores + item * (CPU_WIDTH * widest + small))
    experts = _largest_experts(spec)
    if experts is None:
        return around + int(item * CPU_HIDDEN * hidden)
    asked = experts.top_k * (EXPERTS_HIDDEN * experts.mlp_dim + EXPERTS_WIDTH * spec.dim)
    return max(
        around + int(item * CPU_STREAM * spec.dim),
        int(item * (asked + DENSE_BESIDE * hidden + small)) - scores,
    )


def _largest_experts(spec: StackSpec) -> ExpertsSpec | None:
    found = [layer.experts for layer in spec.layers if isinstance(layer, LayerSpec) and layer.experts]
    return max(found, key=lambda experts: experts.top_k * experts.mlp_dim) if found else None


def filling(spec: DecoderSpec, batch: int, length: int, scores: int, kernels: Kernels) -> int:
    """The same while a canvas is filled: its layers first, and then the logits of a part of its positions."""
    logits = CANVAS_LOGITS * min(length, CANVAS_ROWS) * spec.vocab * 4 * batch - scores
    floor = int(METAL_FLOOR) if kernels.backend == "metal" else CPU_FLOOR
    return max(passing(spec, batch, length, scores, kernels), floor + logits)


def drafting(spec: DrafterSpec, batch: int, kernels: Kernels) -> int:
    """The same while a drafter proposes a token; an ordered head gathers the rows of the tokens it looks at."""
    ordered = spec.ordered
    rows = ordered.top_k * spec.vocab // ordered.centroids if ordered else 0
    return passing(spec, batch, 1, 0, kernels) + batch * rows * spec.dim * kernels.itemsize
