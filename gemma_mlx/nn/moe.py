"""Mixture of experts: a router sends each token to a few of many small feed-forward blocks."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Integer

from gemma_mlx.nn.mlp import gelu_gate
from gemma_mlx.nn.norm import Norms
from gemma_mlx.spec import ExpertsSpec

# Tokens from which on it pays to sort them by expert, so that each expert's weights are read once.
SORT_FROM = 64


class Router(nn.Module):
    """Which experts a token goes to, and how much each of them counts.

    softmax over all experts, the `top_k` largest made to sum to 1, then scaled expert by expert. Of experts with equal
    scores the first are taken, on every back end, as JAX does, from which Gemma comes; torch states no rule.
    """

    def __init__(self, dim: int, spec: ExpertsSpec, norms: Norms) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, spec.count, bias=False)
        self.scale = mx.ones((dim,))
        self.per_expert_scale = mx.ones((spec.count,))
        self._norm = norms.bare()
        self._top_k, self._root = spec.top_k, dim**-0.5

    def __call__(self, x: Float[mx.array, "B L dim"]) -> tuple[Integer[mx.array, "B L k"], Float[mx.array, "B L k"]]:
        """The experts' indices and weights."""
        # Scores with their sign turned: of equals, MLX sorts the first to the front.
        negated = self.proj(self._norm(x) * self.scale * mx.array(-self._root, x.dtype))
        chosen = mx.stop_gradient(mx.argpartition(negated, kth=self._top_k - 1, axis=-1)[..., : self._top_k])
        # The softmax over the chosen scores is the softmax over all, made to sum to 1 over the chosen.
        weights = mx.softmax(-mx.take_along_axis(negated, chosen, axis=-1).astype(mx.float32), axis=-1)
        return chosen, (weights * self.per_expert_scale[chosen]).astype(x.dtype)


class ExpertLinear(nn.Module):
    """One bias-free linear map for each expert, [E out in]."""

    def __init__(self, experts: int, dim: int, out: int) -> None:
        super().__init__()
        self.weight = mx.zeros((experts, out, dim))

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """Rows x [..., 1, in] through the maps that `experts` [...] names."""
        return mx.gather_mm(x, self.weight.swapaxes(-1, -2), rhs_indices=experts, sorted_indices=sorted_indices)

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> QuantizedExpertLinear:
        """The same maps with packed weights; `nn.quantize` calls it."""
        if quantize_input:
            raise ValueError("Experts quantize their weights only.")
        return QuantizedExpertLinear(self.weight, group_size, bits, mode)


class QuantizedExpertLinear(nn.Module):
    """`ExpertLinear` with packed weights, as `mx.quantize` packs them."""

    def __init__(self, weight: mx.array, group_size: int | None, bits: int | None, mode: str) -> None:
        super().__init__()
        self.weight, self.scales, *biases = mx.quantize(weight, group_size, bits, mode=mode)
        self.biases = biases[0] if biases else None
        self.group_size, self.bits, self.mode = group_size, bits, mode

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        """Rows x [..., 1, in] through the maps that `experts` [...] names."""
        return mx.gather_qmm(
            x, self.weight, self.scales, self.biases, rhs_indices=experts, transpose=True,
            group_size=self.group_size, bits=self.bits, mode=self.mode, sorted_indices=sorted_indices,
        )  # fmt: skip


class Experts(nn.Module):
    """The experts' feed-forward blocks: down(gelu(gate(x)) · up(x)), weighted and summed over a token's experts."""

    def __init__(self, dim: int, spec: ExpertsSpec) -> None:
        super().__init__()
        self.gate_proj = ExpertLinear(spec.count, dim, spec.mlp_dim)
        self.up_proj = ExpertLinear(spec.count, dim, spec.mlp_dim)
        self.down_proj = ExpertLinear(spec.count, spec.mlp_dim, dim)

    def __call__(
        self, x: Float[mx.array, "B L dim"], chosen: Integer[mx.array, "B L k"], weights: Float[mx.array, "B L k"]
    ) -> Float[mx.array, "B L dim"]:
        """Feeds each position through its chosen experts."""
        if chosen.size < SORT_FROM:
            out = self._feed(mx.expand_dims(x, (-2, -3)), chosen, sorted_indices=False).squeeze(-2)  # [B L k dim]
        else:
            k, experts = chosen.shape[-1], chosen.flatten()
            order = mx.argsort(experts)
            rows = x.reshape(-1, 1, x.shape[-1])[order // k]  # [B·L·k 1 dim], by expert
            out = self._feed(rows, experts[order], sorted_indices=True)[mx.argsort(order)].reshape(*chosen.shape, -1)
        return (out * weights[..., None]).sum(axis=-2)

    def _feed(self, x: mx.array, experts: mx.array, sorted_indices: bool) -> mx.array:
        gate = self.gate_proj(x, experts, sorted_indices)
        return self.down_proj(gelu_gate(gate, self.up_proj(x, experts, sorted_indices)), experts, sorted_indices)
