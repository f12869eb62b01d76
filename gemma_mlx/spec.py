"""What a Gemma is made of, as data.

An architecture file reads a checkpoint's config.json into these frozen specs; modules, caches, the memory estimate,
`gemma show` and the docs read nothing else. Every number is explicit, so two layers that compute the same are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding, NeoX pairing: dimension i rotates with i + head_dim / 2.

    Attributes:
        theta: wavelength base (config `rope_theta`).
        scale: factor on the positions; linear scaling by 8 is 1 / 8.
        turning: the fraction of the pairs that rotate, the fastest ones; the others stand still (Gemma 4's
            "proportional" RoPE, config `partial_rotary_factor`).
        span: the fraction of a head, from its first dimension on, that is rotated as if it were a whole head; the rest
            carries no position (RecurrentGemma, config `partial_rotary_factor`).
    """

    theta: float
    scale: float = 1.0
    turning: float = 1.0
    span: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One attention block.

    Attributes:
        heads: query heads H.
        kv_heads: key and value heads K; H is a multiple of K.
        head_dim: D, independent of the model's width.
        scale: factor on q·k (config `query_pre_attn_scalar` ** -0.5, which need not be head_dim ** -0.5).
        rope: rotation of queries and keys; None where neither carries a position.
        window: a query at position q sees the keys in (q - window, q]; None sees all before it.
        ahead: how many keys behind its own position a query sees as well: 0 in a decoder; None sees all.
        softcap: c in c·tanh(score / c), applied after the scale and before the mask.
        qk_norm: whether queries and keys pass an RMS norm before the rotation.
        v_norm: whether values pass an RMS norm without a weight.
        keys_as_values: whether values are the projected keys, before norm and rotation (config `attention_k_eq_v`).
        bias: whether q, k, v and o have biases (config `attention_bias`).
        out_bias: whether o has one, where it differs from the others.
        source_dim: width of what keys and values are made of, where it is not the layer's own input but what an encoder
            made of the prompt.
        merged: whether queries look, besides, at what an encoder made of the prompt, through the same projections: its
            keys are normed and not rotated, and one softmax is over both.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    ahead: int | None = 0
    softcap: float | None = None
    qk_norm: bool = False
    v_norm: bool = False
    keys_as_values: bool = False
    bias: bool = False
    out_bias: bool | None = None
    source_dim: int | None = None
    merged: bool = False


@dataclass(frozen=True, kw_only=True)
class ExpertsSpec:
    """Sparse feed-forward beside the dense one.

    Attributes:
        count: experts in a layer (config `num_experts`).
        top_k: how many of them a token goes to (config `top_k_experts`).
        mlp_dim: width of each one's GeGLU (config `moe_intermediate_size`).
    """

    count: int
    top_k: int
    mlp_dim: int


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """One decoder layer: attention, then a GeGLU of width `mlp_dim`.

    Attributes:
        borrows_from: index of the layer whose keys and values this one attends to; None where it has its own, "target"
            where they are those of another model (see `DrafterSpec`).
        experts: the sparse part of the feed-forward, where there is one.
        sparsity: the fraction of the gate's values that are cut to 0, were they normally distributed; 0 cuts none
            (config `activation_sparsity_pattern`).
        laurel_rank: rank of a residual branch beside attention; None where there is none.
        cross: attention to what an encoder made of the prompt, between attention and the feed-forward.
    """

    attention: AttentionSpec
    mlp_dim: int
    borrows_from: int | Literal["target"] | None = None
    experts: ExpertsSpec | None = None
    sparsity: float = 0.0
    laurel_rank: int | None = None
    cross: AttentionSpec | None = None


@dataclass(frozen=True, kw_only=True)
class RecurrenceSpec:
    """A real-gated linear recurrent unit behind a short causal convolution (Griffin, arXiv 2402.19427, section 2.4).

    Attributes:
        width: of the state (config `lru_width`).
        heads: blocks on the diagonal of the gates' matrices (config `num_attention_heads`).
        taps: positions the convolution sees, its own included (config `conv1d_width`).
    """

    width: int
    heads: int
    taps: int


@dataclass(frozen=True, kw_only=True)
class RecurrentLayerSpec:
    """One decoder layer that keeps a state of constant size where others keep keys and values.

    Attributes:
        recurrence: what stands where others attend.
        mlp_dim: width of the GeGLU behind it.
        borrows_from: None, as it has nothing to borrow and nothing to lend.
    """

    recurrence: RecurrenceSpec
    mlp_dim: int
    borrows_from: ClassVar[None] = None


@dataclass(frozen=True, kw_only=True)
class PerLayerSpec:
    """Per-layer embeddings: every layer adds a small embedding of the token that is its own.

    Attributes:
        vocab: rows of the table (config `vocab_size_per_layer_input`); 0 where there is none, and the small embedding
            is a projection of the token's own.
        dim: width for one layer (config `hidden_size_per_layer_input`).
    """

    vocab: int
    dim: int


@dataclass(frozen=True, kw_only=True)
class AltUpSpec:
    """Alternating updates: a residual stream of several parts, of which each layer computes one and predicts the rest.

    Attributes:
        streams: how many parts (config `altup_num_inputs`).
        active: index of the one that layers compute (config `altup_active_idx`).
        scaled: whether what a layer computed is scaled before its per-layer embedding is added (config
            `altup_correct_scale`).
    """

    streams: int
    active: int = 0
    scaled: bool = True


@dataclass(frozen=True, kw_only=True)
class CanvasSpec:
    """How a decoder writes many tokens at once: on a canvas that it makes less noisy step by step.

    Attributes:
        length: positions it was trained to fill together (config `canvas_length`).
        conditioning_dim: width of the GeGLU through which a step learns what the step before it expected.
    """

    length: int
    conditioning_dim: int


@dataclass(frozen=True, kw_only=True)
class StackSpec:
    """Token embeddings, layers, a norm: what decoders and encoders share.

    Attributes:
        vocab: rows of the embedding table.
        dim: width of the residual stream.
        layers: one spec per layer, in order.
        context: positions the model was trained for (config `max_position_embeddings`).
        embed_scale: factor on the token embeddings, sqrt(dim) in every Gemma.
        norm_eps: epsilon of every RMS norm.
        norm_offset: what is added to the stored norm weights: 1 up to Gemma 3, 0 since.
        per_layer: per-layer embeddings, where there are any.
    """

    vocab: int
    dim: int
    layers: tuple[LayerSpec | RecurrentLayerSpec, ...]
    context: int
    embed_scale: float
    norm_eps: float
    norm_offset: float = 1.0
    per_layer: PerLayerSpec | None = None

    @cached_property
    def attentions(self) -> tuple[AttentionSpec, ...]:
        """The attention of each layer that has one."""
        return tuple(layer.attention for layer in self.layers if isinstance(layer, LayerSpec))

    @cached_property
    def distinct_attentions(self) -> frozenset[AttentionSpec]:
        """Those of them that differ."""
        return frozenset(self.attentions)

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """The keys each layer sees: its window, None for all of them, 0 where it has a recurrence instead."""
        return tuple(layer.attention.window if isinstance(layer, LayerSpec) else 0 for layer in self.layers)

    @cached_property
    def reaches(self) -> tuple[tuple[int | None, int | None], ...]:
        """(window, ahead) of each layer that attends."""
        return tuple((attention.window, attention.ahead) for attention in self.attentions)

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Indices of the layers that have keys and values, or a state, of their own; only these have a cache."""
        return tuple(index for index, layer in enumerate(self.layers) if layer.borrows_from is None)

    def runs(self) -> Iterator[tuple[int, int, LayerSpec | RecurrentLayerSpec]]:
        """Yields (first, last, spec) for each run of equal neighbouring layers."""
        first = 0
        for index in range(1, len(self.layers) + 1):
            if index == len(self.layers) or self.layers[index] != self.layers[first]:
                yield first, index - 1, self.layers[first]
                first = index

    def as_configured(self) -> StackSpec:
        """Without what the files decide and config.json does not: how the embedding scale is rounded."""
        return replace(self, embed_scale=0.0)


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(StackSpec):
    """A whole decoder.

    Attributes:
        altup: how the residual stream is divided, where it is.
        logit_softcap: c in c·tanh(logits / c).
        tied_head: whether the embedding table is the output head, as in every published Gemma.
        canvas: how it writes, where it does not write one token after the other.
        prompt_both_ways: whether the tokens of a prompt see each other, in every layer; what follows is causal.
    """

    altup: AltUpSpec | None = None
    logit_softcap: float | None = None
    tied_head: bool = True
    canvas: CanvasSpec | None = None
    prompt_both_ways: bool = False

    @property
    def reader(self) -> StackSpec:
        """The layers that read a prompt: these, unless an encoder does."""
        return self

    def room(self, prompt: int) -> int:
        """How many tokens the answer to a prompt of so many may have; below 1 where the prompt does not fit."""
        return self.context - prompt

    def as_configured(self) -> DecoderSpec:
        """As `StackSpec` has it, and without whether the files hold a head of its own."""
        return replace(self, embed_scale=0.0, tied_head=True)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderSpec(DecoderSpec):
    """A decoder that looks at what an encoder made of the prompt, in every layer.

    All fields but these are the decoder's.

    Attributes:
        encoder: the layers that read the prompt, both ways; nothing stands behind their norm.
        shared_table: whether the encoder embeds with the decoder's table.
        unscaled_token: id of a token whose embedding is stored apart and not scaled, in both (T5Gemma 2's end of a
            picture, config `eoi_token_index`).
    """

    encoder: StackSpec
    shared_table: bool = False
    unscaled_token: int | None = None

    @property
    def reader(self) -> StackSpec:
        """The encoder."""
        return self.encoder

    def room(self, prompt: int) -> int:
        """As `DecoderSpec` has it: prompt and answer have a context each, and the answer begins with one token."""
        return self.context - 1 if prompt <= self.encoder.context else self.encoder.context - prompt

    def as_configured(self) -> EncoderDecoderSpec:
        """As `DecoderSpec` has it, in the encoder too."""
        return replace(self, embed_scale=0.0, tied_head=True, encoder=self.encoder.as_configured())


@dataclass(frozen=True, kw_only=True)
class DenseSpec:
    """A linear map without an activation, behind the mean of an encoder.

    Attributes:
        inputs: width of what it is given.
        outputs: width of what it gives.
        bias: whether it adds one; the published ones do not.
    """

    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(StackSpec):
    """An encoder that makes one vector of a text: layers that see both ways, the mean over the tokens, linear maps.

    Attributes:
        dense: the maps behind the mean, in order. The vector is what leaves the last of them, or the mean itself.
    """

    dense: tuple[DenseSpec, ...] = ()

    @property
    def embedding_dim(self) -> int:
        """Width of the vector."""
        return self.dense[-1].outputs if self.dense else self.dim


@dataclass(frozen=True, kw_only=True)
class OrderedHeadSpec:
    """A head that computes the logits of a part of the vocabulary: of the tokens around the nearest centroids.

    Attributes:
        centroids: groups of equal size into which the vocabulary is ordered (config `num_centroids`).
        top_k: how many of them are looked into (config `centroid_intermediate_top_k`).
    """

    centroids: int
    top_k: int


@dataclass(frozen=True, kw_only=True)
class DrafterSpec(DecoderSpec):
    """A small network that proposes the next tokens of a larger one, its target, out of what the target has read.

    Its layers have no keys and values: each attends to those of the target's last layer of its kind. It reads no text,
    so that its embedding table is a head alone and `embed_scale` is 1; embeddings are the target's.

    The position it computes for is the one behind the target's keys. A layer's `window` counts that position, as
    everywhere: window - 1 keys before it are seen.

    Attributes:
        target_dim: width of the target's residual stream (config `backbone_hidden_size`).
        ordered: the head's order, where it has one; else it computes all logits.
    """

    target_dim: int
    ordered: OrderedHeadSpec | None = None
