"""What a token reads, computes and launches, counted against arrays, MLX's graphs and published figures."""

from __future__ import annotations

import csv
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import gemma_mlx
from gemma_mlx import catalog, registry
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.drafter import Drafter
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.quantize.memory import weight_bytes
from gemma_mlx.quantize.traffic import CHUNK, Traffic, traffic
from gemma_mlx.weights.quantized import Quantization
from tests.benchmarks.speed_points import DATA, bits_per_weight, models
from tests.tiny import DECODERS, tiny_config, tiny_model

PER_LAYER: Final[dict[str, Any]] = {
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "hidden_size_per_layer_input": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_hidden_layers": 6,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 90,
}
DENSE: Final[dict[str, Any]] = {"enable_moe_block": False}
CASES: Final = [*((kind, {}) for kind in DECODERS), ("gemma4_text", DENSE), ("gemma4_text", PER_LAYER)]
# Operations that only say how to look at memory, or that order other operations.
FREE: Final = {
    "Broadcast", "Depends", "ExpandDims", "Flatten", "NumberOfElements", "Reshape", "Slice", "Split", "Squeeze",
    "StopGradient", "Transpose", "Unflatten",
}  # fmt: skip
SAMPLING: Final = 5
GOLDENS: Final = Path(__file__).parent / "goldens"
with (DATA / "points.csv").open(encoding="utf-8", newline="") as _file:
    GEMMAS: Final = [row for row in csv.DictReader(_file) if row["model"].startswith("gemma")]


def _model(kind: str, **changes: Any) -> Decoder:
    model = tiny_model(tiny_config(kind, **changes))
    assert isinstance(model, Decoder)
    return model


def _kernels(folder: Path, *arrays: mx.array) -> Counter[str]:
    """The operations that would run to evaluate the arrays, by name."""
    mx.export_to_dot(str(folder / "graph.dot"), *arrays)
    text = (folder / "graph.dot").read_text(encoding="utf-8")
    return Counter(name for name in re.findall(r'label ="([^"]+)", shape=rectangle', text) if name not in FREE)


def _as_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU the fast operations are made of others; one of each stands in for the kernel that it is on a GPU."""
    monkeypatch.setattr(mx.fast, "rms_norm", lambda x, weight, eps: mx.erf(x))
    monkeypatch.setattr(mx.fast, "rope", lambda x, **_: mx.erfinv(x))
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda q, k, v, **_: mx.arctanh(mx.depends([q], [k, v])[0])
    )


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_launches_are_those_of_the_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    _as_kernels(monkeypatch)
    model = _model(kind, **changes)
    cache = model.make_cache()
    mx.eval(model(model.embed(mx.array([[1, 2, 3]])), cache, last=1), cache.arrays())
    step = model(model.embed(mx.array([[1]])), cache, last=1)
    graph = _kernels(tmp_path, step, *cache.arrays())
    assert traffic(model.spec, model).launches - SAMPLING == graph.total(), graph


@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_packing_changes_bytes_and_no_counts(kind: str, changes: dict[str, Any]) -> None:
    model = _model(kind, **changes)
    counted = traffic(model.spec, model)
    assert counted.weight_bytes == 4 * (counted.packable + counted.plain)
    nn.quantize(
        model,
        group_size=32,
        bits=4,
        class_predicate=lambda _, module: hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0,
    )
    packed = traffic(model.spec, model)
    same = ("packable", "packable_read", "plain", "prefilled", "routed", "reaches", "state_bytes")
    assert [getattr(packed, name) for name in same] == [getattr(counted, name) for name in same]
    assert packed.weight_bytes == sum(array.nbytes for _, array in tree_flatten(model.parameters()))


def test_another_format() -> None:
    """A float32 scale and bias for each 32 weights make 4 bits 6."""
    model = _model("gemma3_text")
    before = traffic(model.spec, model)
    nn.quantize(model, group_size=32, bits=4)
    after = traffic(model.spec, model)
    told = before.at(6)
    assert told.weight_bytes - 2 * told.plain == after.weight_bytes - 4 * after.plain
    assert told.read_bytes == told.weight_bytes
    assert (told.launches, told.packable) == (before.launches, before.packable)


def test_experts_count_by_share() -> None:
    model = _model("gemma4_text")
    counted = traffic(model.spec, model)
    experts = sum(array.size for layer in model.model.layers for _, array in tree_flatten(layer.experts.parameters()))
    assert counted.routed == experts * 2 // 4
    assert counted.packable_read == counted.packable - experts // 2
    assert counted.read_bytes == counted.weight_bytes - 4 * experts / 2
    assert counted.routed_bytes == 4 * counted.routed


def test_tables_that_are_looked_up_are_not_read() -> None:
    model = _model("gemma4_text", **PER_LAYER)
    counted = traffic(model.spec, model)
    table = model.model.embed_tokens_per_layer.weight.size
    assert counted.packable - counted.packable_read == table
    head = model.model.embed_tokens.weight.size
    borrowers = sum(
        array.size
        for layer in model.model.layers[4:]
        for _, array in tree_flatten(layer.parameters())
        if array.ndim > 1
    )
    assert counted.prefilled == counted.packable_read - head - borrowers


@pytest.mark.parametrize("row", GEMMAS, ids=lambda row: f"{row['model']}-{row['mode']}{row['bits']}-{row['context']}")
def test_bytes_are_those_of_the_published_points(row: dict[str, str]) -> None:
    """Counted by another program from published configs: weights to 0.1 %, keys and values to 2 %."""
    counted: Traffic = models()[row["model"]]["traffic"].at(bits_per_weight(row))
    assert counted.read_bytes / 1e9 == pytest.approx(float(row["weight_gb_read"]), rel=1e-3)
    assert counted.kv_bytes(int(row["context"])) / 1e9 == pytest.approx(float(row["kv_gb_read"]), rel=0.02)


def network(name: str) -> catalog.Network:
    found = catalog.find(name).network
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["gemma-4-E2B", "gemma-4-26B-A4B", "gemma-3-27b-pt", "recurrentgemma-2b"])
def test_counting_evaluates_nothing(name: str) -> None:
    match = registry.match(network(name).config)
    model = match.architecture.build(match.spec)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    started = time.perf_counter()
    counted = traffic(match.spec, model)
    assert time.perf_counter() - started < 1.0  # 0.01 s on a quiet machine
    assert mx.get_peak_memory() - before < 1 << 20
    scalars = sum(path.endswith("layer_scalar") for path, _ in tree_flatten(model.parameters()))
    assert counted.packable + counted.plain == network(name).parameters.language + scalars


@pytest.mark.parametrize("name", ["gemma-4-E2B", "gemma-4-26B-A4B", "gemma-2-2b", "recurrentgemma-2b"])
def test_the_memory_estimate_counts_the_same_bytes(name: str) -> None:
    match = registry.match(network(name).config)
    model = match.architecture.build(match.spec)
    counted = traffic(match.spec, model)
    four = Quantization(mode="affine", bits=4, group_size=64)
    assert counted.at(16).weight_bytes == weight_bytes(model)
    assert counted.at(4.5).weight_bytes == weight_bytes(model, lambda _, __: four)


def test_e2b() -> None:
    """Of 4.63 billion parameters a step reads 2.28, and a prompt meets 0.58 in 15 layers."""
    match = registry.match(network("gemma-4-E2B").config)
    counted = traffic(match.spec, match.architecture.build(match.spec))
    assert (round(counted.packable_read / 1e9, 2), round(counted.prefilled / 1e9, 2)) == (2.28, 0.58)
    assert sum(reach.layers for reach in counted.reaches) == 35
    assert sum(reach.prefilled for reach in counted.reaches) == 15
    # 28 sliding layers of 1 KiB a token and a window of 512, and 7 full ones of 2 KiB
    assert counted.kv_bytes(8192) == 28 * 1024 * 512 + 7 * 2048 * 8192
    assert counted.kv_bytes(8192, 8.5) == counted.kv_bytes(8192) * 8.5 / 16


def test_a_state_does_not_grow() -> None:
    model = _model("recurrent_gemma")
    counted = traffic(model.spec, model)
    width, taps = 64, 4
    assert counted.state_bytes == 2 * width * (4 + 2 * (taps - 1))
    assert counted.kv_bytes(10_000) == counted.kv_bytes(8)


def test_wide_heads_are_fused_late() -> None:
    counted = models()["gemma4-31b"]["traffic"].at(4.5)
    short, long = counted.step(1023), counted.step(4096)
    full = next(reach for reach in counted.reaches if reach.attention.window is None)
    row = full.layers * full.row_numbers() * 2
    assert (short.late_kv_bytes, long.late_kv_bytes) == ((1023 * row, 1023 * row), (1023 * row, 4096 * row))
    assert long.unfused_kv_bytes == 0
    assert counted.step(4096, fused=False).unfused_kv_bytes == 4096 * row
    assert models()["gemma4-12b"]["traffic"].step(4096).unfused_kv_bytes > 0  # 16 queries to a key
    assert long.nbytes == counted.read_bytes + counted.kv_bytes(4096)


def test_a_prompt_is_read_in_the_chunks_of_the_loop() -> None:
    assert Options().chunk == CHUNK


def test_a_prompt() -> None:
    counted = models()["gemma4-26b-a4b"]["traffic"].at(4.5)
    one, two = counted.prompt(2048), counted.prompt(4096)
    assert one.sparse
    assert one.width == 2816
    assert one.weight_bytes + one.once_bytes == counted.weight_bytes
    assert (one.chunks, counted.prompt(2048, 2048).chunks, counted.prompt(2049, 2048).chunks) == (4, 1, 2)
    assert 2 * one.flops < two.flops < 2.2 * one.flops
    assert 2 * counted.prefilled * 2048 < one.flops
    assert 2 * one.scores < two.scores


@pytest.mark.parametrize("how", [None, Quantization(mode="affine", bits=4, group_size=64)], ids=str)
@pytest.mark.parametrize(("kind", "changes"), CASES)
def test_every_matrix_in_its_own_way(kind: str, changes: dict[str, Any], how: Quantization | None) -> None:
    """The same bytes as the memory estimate has, and as one format for all matrices."""
    config = tiny_config(kind, **changes)
    spec, model = registry.match(config).spec, tiny_model(config)

    def fitting(_path: str, columns: int) -> Quantization | None:
        return how if how is None or columns % how.group_size == 0 else None

    counted = traffic(spec, model)
    stored = counted.stored(fitting)
    assert stored.weight_bytes == weight_bytes(model, fitting)
    if how is None:
        same = counted.at(16)
        assert (stored.read_bytes, stored.routed_bytes) == pytest.approx((same.read_bytes, same.routed_bytes))
    assert counted.stored(fitting, 4).weight_bytes == weight_bytes(model, fitting, 4)


@pytest.mark.parametrize("kind", ["t5gemma", "t5gemma2"])
def test_an_encoder_reads_and_a_decoder_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    _as_kernels(monkeypatch)
    model = tiny_model(tiny_config(kind))
    assert isinstance(model, EncoderDecoder)
    cache = model.make_cache()
    cache.memory = model.read(mx.array([[3, 5, 7]]))
    mx.eval(model(model.embed(mx.array([[2]])), cache, last=1), cache.arrays())
    graph = _kernels(tmp_path, model(model.embed(mx.array([[1]])), cache, last=1), *cache.arrays())
    counted = traffic(model.spec, model)
    assert counted.launches - SAMPLING == graph.total(), graph
    sizes = {name: array.size for name, array in tree_flatten(model.parameters())}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder.") and "proj" in name)
    source = sum(size for name, size in sizes.items() if "cross_attn.k_proj" in name or "cross_attn.v_proj" in name)
    merged = sum(
        size
        for name, size in sizes.items()
        if kind == "t5gemma2" and name.startswith("model.") and ("k_proj" in name or "v_proj" in name)
    )
    assert counted.prefilled == encoder + source + merged
    table = sizes.get("encoder.embed_tokens.weight", 0)
    assert counted.packable - counted.packable_read == encoder + source + table
    # what the encoder found, beside the decoder's own keys and values
    rows = sum(2 * 2 * 32 for _ in model.spec.layers)
    assert counted.kv_bytes(6) == 2 * (6 * rows + 6 * rows)
    assert counted.prompt(100, 10).chunks == 1


def test_a_draft_reads_a_part_of_its_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _as_kernels(monkeypatch)
    target, drafter = (gemma_mlx.load(GOLDENS / name, mx.float32).model for name in ("gemma4_e", "gemma4_assistant"))
    assert isinstance(target, Decoder)
    assert isinstance(drafter, Drafter)
    cache = target.make_cache()
    mx.eval(target(target.embed(mx.array([[1, 2, 3]])), cache, last=1), cache.arrays(), drafter.parameters())
    drafts = drafter.propose(mx.zeros((1, 1, target.spec.dim)), mx.array([3]), drafter.borrow(target, cache), 1)
    counted = traffic(drafter.spec, drafter)
    assert abs(counted.launches - _kernels(tmp_path, drafts).total()) <= 2
    table = drafter.model.embed_tokens.weight.size
    assert counted.packable - counted.packable_read == table - table * 3 // 12
    assert counted.kv_bytes(3) > 0  # the target's
    assert counted.state_bytes == 0


def test_a_step_over_a_canvas() -> None:
    match = registry.match(network("diffusiongemma-26B-A4B-it").config)
    counted = traffic(match.spec, match.architecture.build(match.spec)).at(16)
    step = counted.canvas(8192, 256)
    head = 2 * 262_144 * 2816
    conditioning = 2 * 3 * 2816 * 2112
    assert step.weight_bytes == pytest.approx(counted.chunk_bytes + conditioning + 8 * head)
    assert step.flops > counted.prompt(256).flops + 2 * 2 * 256 * head / 2
    assert counted.canvas(1 << 17, 256).flops > step.flops
    assert step.chunks == 1
    assert step.sparse


def test_each_chunk_reads_what_it_needs() -> None:
    """E2B: not the table of per-layer embeddings; the head, and layers that borrow, once."""
    match = registry.match(network("gemma-4-E2B").config)
    counted = traffic(match.spec, match.architecture.build(match.spec)).at(16)
    one, four = counted.prompt(512, 512), counted.prompt(2048, 512)
    assert (one.chunks, four.chunks, counted.prompt(2048, 2048).chunks) == (1, 4, 1)
    assert one.weight_bytes == four.weight_bytes == counted.chunk_bytes
    table = 2 * sum(matrix.numbers for matrix in counted.matrices if matrix.kind == "looked up")
    assert counted.chunk_bytes + counted.once_bytes == counted.weight_bytes - table
    assert counted.once_bytes > 2 * 262_144 * 1536
