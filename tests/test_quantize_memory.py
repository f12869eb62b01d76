"""What a model takes: weights and caches to the byte, measured peaks, and peaks published for Macs."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Final, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from gemma_mlx import catalog, registry
from gemma_mlx.cache import kv
from gemma_mlx.cache.decoder import DecoderCache
from gemma_mlx.errors import UnsupportedModelError
from gemma_mlx.generate import diffusion
from gemma_mlx.models.diffusion_gemma import CanvasDecoder
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.quantize.memory import Draft, Kernels, Use, estimate, held, source_bytes, weight_bytes
from gemma_mlx.quantize.passing import CANVAS_LOGITS, CANVAS_ROWS
from gemma_mlx.spec import AttentionSpec, DecoderSpec, DrafterSpec, EncoderDecoderSpec, Rope
from gemma_mlx.weights.quantized import Quantization
from tests.benchmarks import peaks
from tests.tiny import KINDS, tiny_config, tiny_model

AFFINE: Final = {bits: Quantization(mode="affine", bits=bits, group_size=64) for bits in (4, 6, 8)}
MXFP4: Final = Quantization(mode="mxfp4", bits=4, group_size=32)
NVFP4: Final = Quantization(mode="nvfp4", bits=4, group_size=16)
ON_CPU: Final = Kernels(backend="cpu", itemsize=4)


class Published(NamedTuple):
    """A peak that somebody measured on a Mac with mlx-lm, in GB."""

    model: str
    how: Quantization
    generation: int
    mlx: tuple[int, ...]
    prompt: int
    measured: float


M5: Final = (17, (0, 32, 0))
# mlx-lm on an M5 Max, an M4 Pro and M3 Ultras: weights, 128 tokens of answer, chunks of 2048.
PUBLISHED: Final = (
    *(Published("gemma-4-E2B", AFFINE[4], *M5, *row) for row in ((128, 2.81), (512, 3.25), (2048, 3.52))),
    *(Published("gemma-4-E2B", AFFINE[8], *M5, *row) for row in ((128, 5.16), (512, 5.59), (2048, 5.84))),
    *(Published("gemma-4-E4B", AFFINE[4], *M5, *row) for row in ((128, 4.46), (512, 4.94), (2048, 5.09))),
    *(Published("gemma-4-E4B", AFFINE[6], *M5, *row) for row in ((128, 6.32), (512, 6.77), (2048, 6.96))),
    *(Published("gemma-4-26B-A4B", AFFINE[4], *M5, *row) for row in ((128, 14.41), (512, 14.76), (2048, 15.47))),
    *(Published("gemma-4-26B-A4B", AFFINE[6], *M5, *row) for row in ((128, 20.65), (512, 21.06), (2048, 21.78))),
    *(Published("gemma-4-31B", AFFINE[4], *M5, *row) for row in ((128, 17.66), (512, 18.30), (2048, 20.17))),
    *(Published("gemma-4-31B", AFFINE[6], *M5, *row) for row in ((128, 25.32), (512, 25.87), (2048, 27.84))),
    Published("gemma-4-26B-A4B", AFFINE[4], 17, (0, 31, 1), 20_480, 17.65),
    Published("gemma-4-31B", MXFP4, 17, (0, 31, 1), 20_480, 24.17),
    Published("gemma-4-26B-A4B", AFFINE[4], 16, (0, 32, 0), 2048, 15.74),
    Published("gemma-4-12B", NVFP4, 15, (0, 32, 3), 65_536, 13.919),
    Published("gemma-4-12B", NVFP4, 15, (0, 32, 4), 65_536, 10.290),
)


def built(name: str) -> tuple[DecoderSpec, nn.Module]:
    network = catalog.find(name).network
    assert network is not None
    match = registry.match(network.config)
    return match.spec, match.architecture.build(match.spec)


def nbytes(model: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(model.parameters()))


@pytest.mark.parametrize("how", [None, *AFFINE.values(), MXFP4, NVFP4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_to_the_byte(kind: str, how: Quantization | None) -> None:
    model = tiny_model(tiny_config(kind, head_dim=64))

    def chosen(_: str, columns: int) -> Quantization | None:
        return how if how is not None and columns % how.group_size == 0 else None

    predicted = weight_bytes(model, chosen, itemsize=4)
    if how is not None:
        nn.quantize(
            model,
            how.group_size,
            how.bits,
            mode=how.mode,
            class_predicate=lambda path, module: (
                hasattr(module, "to_quantized") and chosen(path, module.weight.shape[-1]) is not None
            ),
        )
    assert predicted == nbytes(model)


@pytest.mark.parametrize(("prompt", "chunk", "answer"), [(5, 512, 0), (700, 512, 3), (700, 100, 300), (1100, 256, 40)])
@pytest.mark.parametrize("kind", KINDS)
def test_caches_to_the_byte(kind: str, prompt: int, chunk: int, answer: int) -> None:
    spec = registry.match(tiny_config(kind, num_hidden_layers=3)).spec
    cache = DecoderCache.empty(spec)
    for start in range(0, prompt, chunk):
        _fill(cache, spec, min(chunk, prompt - start))
    expected = held(spec, Use(prompt=prompt, chunk=chunk, marks=1), 4)
    assert expected.pop("marks") == cache.snapshot().nbytes
    assert sum(expected.values()) == cache.nbytes
    for _ in range(answer):
        _fill(cache, spec, 1)
    expected = held(spec, Use(prompt=prompt, chunk=chunk, answer=answer, marks=0), 4)
    assert sum(expected.values()) == cache.nbytes


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text", "gemma4_text", "vaultgemma"])
def test_packed_caches_to_the_byte(kind: str, bits: int) -> None:
    spec = registry.match(tiny_config(kind, num_hidden_layers=3, head_dim=64)).spec
    assert isinstance(spec, DecoderSpec)
    cache = DecoderCache.empty(spec, kv_bits=bits)
    for length in (256, 256, 188, 1, 1):
        _fill(cache, spec, length)
    expected = held(spec, Use(prompt=700, chunk=256, answer=2, kv_bits=bits, marks=0), 4)
    assert sum(expected.values()) == cache.nbytes


def _fill(cache: DecoderCache, spec: DecoderSpec, length: int) -> None:
    """Adds so many rows to every layer."""
    for index, layer in zip(spec.owners, cache.layers, strict=True):
        attention = getattr(spec.layers[index], "attention", None)
        if attention is None:
            recurrence = spec.layers[index].recurrence
            state = mx.zeros((1, recurrence.width))
            layer.update(length, mx.zeros((1, recurrence.taps - 1, recurrence.width)), state)
        else:
            rows = mx.zeros((1, attention.kv_heads, length, attention.head_dim))
            layer.update(rows, rows)
    mx.eval(cache.arrays())


@pytest.mark.parametrize(
    ("name", "full", "slot"),
    [
        ("gemma-4-E2B", 6_144, 12_288),
        ("gemma-4-12B", 16_384, 327_680),
        ("gemma-4-26B-A4B", 20_480, 204_800),
        ("gemma-4-31B", 81_920, 819_200),
    ],
)
def test_published_bytes_of_a_token(name: str, full: int, slot: int) -> None:
    spec, _ = built(name)
    kernels = Kernels(backend="metal")
    one, two = (estimate(spec, 0, Use(prompt=prompt, chunk=256, marks=0), kernels) for prompt in (4096, 8192))
    assert two.kv_full - one.kv_full == 4096 * full
    window = max(window for window in spec.windows if window)
    rows = window - 1 + 64 + 256  # as SlidingCache says
    assert two.kv_sliding == rows * slot


@pytest.mark.parametrize(("context", "gigabytes"), [(4096, 0.40), (8192, 0.48), (32_768, 0.99), (131_072, 3.00)])
def test_what_ollama_reports_for_26b(context: int, gigabytes: float) -> None:
    """Its rings hold window + 512 rows; ours hold 63 more for chunks of 512."""
    spec, _ = built("gemma-4-26B-A4B")
    memory = estimate(spec, 0, Use(prompt=context, chunk=512, marks=0), Kernels(backend="metal"))
    assert (memory.kv_full + memory.kv_sliding - 63 * 204_800) / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_peaks_published_for_macs() -> None:
    over = []
    for row in PUBLISHED:
        spec, model = built(row.model)
        weights = weight_bytes(model, lambda _path, _columns, how=row.how: how)  # type: ignore[misc]
        kernels = Kernels(backend="metal", generation=row.generation, mlx=row.mlx)
        use = Use(prompt=row.prompt, answer=128, chunk=2048, marks=0)
        over.append(estimate(spec, weights, use, kernels).peak / 1e9 - row.measured)
    assert min(over) >= -0.1
    assert statistics.mean(over) <= 0.4


def test_peaks_measured_here() -> None:
    found = list(peaks.cases(("gemma2", "gemma3_text", "recurrent_gemma"), (100_000,), ((100, 512), (400, 128))))
    errors = [case.error for case in found]
    assert len(found) == 9
    assert min(errors) >= 0, min(found, key=lambda case: case.error)
    assert max(errors) <= 0.15, max(found, key=lambda case: case.error)


def attention(
    head_dim: int, *, heads: int = 8, window: int | None = None, softcap: float | None = None
) -> AttentionSpec:
    return AttentionSpec(
        heads=heads, kv_heads=1, head_dim=head_dim, scale=1.0, rope=Rope(theta=1e4), window=window, softcap=softcap
    )


@pytest.mark.parametrize(
    ("kernels", "block", "queries", "keys", "rows"),
    [
        (Kernels(backend="metal"), attention(128), 512, 4096, 0),
        (Kernels(backend="metal"), attention(128, softcap=50.0), 512, 4096, 512),
        (Kernels(backend="metal"), attention(256), 2048, 2048, 0),  # the first chunk
        (Kernels(backend="metal"), attention(256), 2048, 4096, 2048),  # the second
        (Kernels(backend="metal"), attention(256, window=512), 2048, 2048, 2048),  # cut by the window
        (Kernels(backend="metal", generation=17), attention(256, window=512), 2048, 2559, 0),
        (Kernels(backend="metal", generation=17), attention(256), 512, 4096, 512),
        (Kernels(backend="metal", generation=17, mlx=(0, 32, 1)), attention(256), 2048, 4096, 2048),
        (Kernels(backend="metal"), attention(512), 2048, 65_536, 256),
        (Kernels(backend="metal", mlx=(0, 32, 3)), attention(512), 2048, 65_536, 2048),
        (Kernels(backend="metal", generation=17), attention(512, heads=16), 2048, 65_536, 0),
        (Kernels(backend="metal", generation=17), attention(512, heads=8), 2048, 65_536, 2048),
        (Kernels(backend="metal"), attention(256), 1, 65_536, 0),
        (Kernels(backend="metal"), attention(512), 1, 65_536, 1),
        (Kernels(backend="cpu"), attention(64), 512, 512, 512),
    ],
)  # fmt: skip
def test_which_scores_are_held(kernels: Kernels, block: AttentionSpec, queries: int, keys: int, rows: int) -> None:
    assert kernels.rows_of_scores(block, queries, keys) == rows


def test_kernels_for_wide_heads_know_causal_masks() -> None:
    kernels = Kernels(backend="metal")
    assert kernels.rows_of_scores(attention(256), 2048, 2048, both_ways=True) == 2048
    assert kernels.rows_of_scores(attention(128), 2048, 2048, both_ways=True) == 0


@pytest.mark.parametrize("name", ["embeddinggemma-300m", "embeddinggemma-2"])
def test_encoders_read_at_once_and_keep_nothing(name: str) -> None:
    spec, _ = built(name)
    whole, chunked = (
        estimate(spec, 0, Use(prompt=2048, chunk=chunk), Kernels(backend="metal")) for chunk in (2048, 512)
    )
    assert whole == chunked
    assert whole.cache == 0
    heads = max(block.heads for block in spec.attentions)
    assert whole.scores == heads * 2048 * 2048 * 2


def test_packed_keys_and_values_are_smaller() -> None:
    spec, _ = built("gemma-4-31B")
    plain, packed = (
        estimate(spec, 0, Use(prompt=131_072, kv_bits=bits), Kernels(backend="metal")) for bits in (None, 8)
    )
    assert packed.kv_full == plain.kv_full * 8.5 / 16
    assert packed.kv_sliding == plain.kv_sliding


@pytest.mark.parametrize("kind", ["t5gemma", "t5gemma2"])
def test_what_an_encoder_read_to_the_byte(kind: str) -> None:
    model = tiny_model(tiny_config(kind))
    assert isinstance(model, EncoderDecoder)
    memory = model.read(mx.array([[3, 5, 7, 9, 11]] * 2))
    use = Use(prompt=5, answer=3, batch=2, marks=0)
    assert source_bytes(model.spec, use, 4) == sum(array.nbytes for array in memory.arrays())
    cache = model.make_cache()
    cache.memory = model.read(mx.array([[3, 5, 7]]))
    for token in (2, 8, 9):
        mx.eval(model(model.embed(mx.array([[token]])), cache, last=1), cache.arrays())
    told = estimate(model.spec, 7, Use(prompt=3, answer=2, marks=0), ON_CPU)
    assert told.weights == 7
    assert told.cache == cache.nbytes


def test_an_encoder_reads_at_once_and_its_layers_are_not_the_decoders() -> None:
    spec, _ = built("t5gemma-9b-2b-ul2")
    assert isinstance(spec, EncoderDecoderSpec)
    metal = Kernels(backend="metal")
    one, other = (estimate(spec, 0, Use(prompt=4096, chunk=chunk), metal) for chunk in (512, 4096))
    assert one == other
    heads = max(attention.heads for attention in spec.encoder.attentions)
    assert one.scores == heads * 4096 * 4096 * 2  # capped scores are never fused
    assert one.source == 4096 * sum(2 * layer.cross.kv_heads * layer.cross.head_dim * 2 for layer in spec.layers)  # type: ignore[union-attr]
    answered = estimate(spec, 0, Use(prompt=128, answer=8000), metal)
    assert answered.kv_full > 0
    assert answered.source == one.source * 128 // 4096


def test_a_canvas_stands_beside_the_text() -> None:
    spec, _ = built("diffusiongemma-26B-A4B-it")
    assert isinstance(spec, DecoderSpec)
    plain, metal = replace(spec, canvas=None), Kernels(backend="metal")
    for prompt in (1000, 8192):
        reading, both = (estimate(each, 0, Use(prompt=prompt, marks=0), metal) for each in (plain, spec))
        assert both.peak >= reading.peak
    short = estimate(spec, 0, Use(prompt=100, marks=0), metal)
    assert short.scores == 16 * 256 * (100 + 256) * 2
    assert short.working >= CANVAS_LOGITS * 64 * spec.vocab * 4  # float32, 64 positions at a time
    long = estimate(spec, 0, Use(prompt=100, answer=1000, marks=0), metal)
    rows = kv.rows_held(100 + 4 * 256) - kv.rows_held(100 + 256)  # three canvases were read, the fourth stands beside
    assert long.kv_full - short.kv_full == rows * 20_480
    assert CANVAS_ROWS == diffusion.ROWS


def test_the_rows_of_a_canvas_to_the_byte() -> None:
    model = tiny_model(tiny_config("diffusion_gemma", sliding_window=64, vocab_size=20_000))
    assert isinstance(model, CanvasDecoder)
    cache = model.make_cache()
    mx.eval(model(model.embed(mx.array([[3] * 250])), cache, last=1), cache.arrays())
    mx.eval(model.fill(mx.array([[5] * 16]), cache), cache.arrays())
    told = estimate(model.spec, 0, Use(prompt=250, marks=0), ON_CPU)
    assert told.cache == cache.nbytes


def test_a_drafter_is_a_part_of_what_its_target_takes() -> None:
    target, _ = built("gemma-4-E2B")
    drafter, model = built("gemma-4-E2B-it-assistant")
    assert isinstance(drafter, DrafterSpec)
    use, metal = Use(prompt=4096, answer=100), Kernels(backend="metal")
    alone = estimate(target, 1000, use, metal)
    both = estimate(target, 1000, use, metal, draft=Draft(spec=drafter, weights=weight_bytes(model)))
    assert both == replace(alone, drafter=weight_bytes(model))  # no keys and values, and no higher peak
    with pytest.raises(UnsupportedModelError, match="a part of what that one does"):
        estimate(drafter, 1000, use, metal)


def test_other_kinds_measured_here() -> None:
    found = list(peaks.cases(("t5gemma2", "embedder", "drafter"), (60_000,), ((300, 128),)))
    found += list(peaks.cases(("gemma4_text",), (20_000,), ((300, 256),)))
    errors = [case.error for case in found if case.estimated.weights >= 2e7]
    assert len(errors) >= 4
    assert min(errors) >= 0, min(found, key=lambda case: case.error)
    assert max(errors) <= 0.15, max(found, key=lambda case: case.error)
