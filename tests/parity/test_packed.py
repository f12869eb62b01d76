"""Checkpoints that others packed give the logits that `transformers`, and compressed-tensors beside it, gave for them.

Max |d logits| <= 1e-4 of their range, activation grids included: whole, in chunks, a token at a time, in a padded
batch, with the table of per-layer embeddings on the disk and in memory, and after `gemma quantize --recipe exact`.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.nn.grid import GridLinear
from gemma_mlx.quantize.convert import quantize as write
from gemma_mlx.quantize.plan import plan
from tests.parity.test_goldens import CHUNKS, GOLDENS, LENGTHS, Golden, assert_equal, in_chunks

PACKED = ("gemma4_mobile", "gemma4_w4a16", "gemma4_mobile_ct")


@pytest.fixture(scope="module", params=PACKED)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.mark.parametrize("length", LENGTHS)
def test_whole_pass(golden: Golden, length: int) -> None:
    assert_equal(golden.gemma.logits(golden.tokens[:, :length]), golden.logits[:, :length])


@pytest.mark.parametrize("chunk", CHUNKS)
def test_in_chunks(golden: Golden, chunk: int) -> None:
    assert_equal(in_chunks(golden.model, golden.tokens, chunk), golden.logits)


@pytest.mark.parametrize("chunk", [3, 16])
def test_left_padded_batch_of_two(golden: Golden, chunk: int) -> None:
    whole = golden.gemma.logits(golden.batch, padding=golden.padding)
    cached = in_chunks(golden.model, golden.batch, chunk, mx.array(golden.padding))
    for row, columns in enumerate(golden.padding):
        assert_equal(whole[row, columns:], golden.batch_logits[row, columns:])
        assert_equal(cached[row, columns:], golden.batch_logits[row, columns:])


@pytest.mark.parametrize("name", PACKED)
def test_the_table_on_the_disk_and_in_memory(name: str) -> None:
    golden = Golden(name)
    here = gemma_mlx.load(GOLDENS / name, mx.float32, per_layer="memory")
    assert (here.per_layer, golden.gemma.per_layer) == ("memory", "disk")
    assert mx.array_equal(here.logits(golden.tokens), golden.gemma.logits(golden.tokens))


@pytest.mark.parametrize("name", PACKED)
def test_repacked_for_mlx_it_is_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    golden = Golden(name)
    made = plan(GOLDENS / name, recipe_name="exact")
    checkpoint = write(made, tmp_path / "mlx")
    assert sum(tensor.nbytes for tensor in checkpoint.tensors.values()) == made.nbytes
    assert checkpoint.quantization == golden.gemma.checkpoint.quantization
    assert all(tensor.made is None for tensor in checkpoint.tensors.values())
    again = gemma_mlx.load(tmp_path / "mlx", mx.float32)
    assert again.checkpoint.repacked.method == golden.gemma.checkpoint.repacked.method
    assert mx.array_equal(again.logits(golden.tokens), golden.gemma.logits(golden.tokens))
    tokens = golden.tokens[0].tolist()
    assert again.generate(tokens, max_tokens=5) == golden.gemma.generate(tokens, max_tokens=5)
    twice = write(plan(tmp_path / "mlx", recipe_name="exact"), tmp_path / "twice")
    assert twice.nbytes == checkpoint.nbytes
    assert gemma_mlx.load(tmp_path / "twice", mx.float32).grids == golden.gemma.grids


@pytest.mark.parametrize("name", ["gemma4_mobile", "gemma4_mobile_ct"])
def test_without_grids_the_logits_are_others(name: str) -> None:
    """A check of the goldens: their grids matter; and of the switch."""
    golden = Golden(name)
    without = gemma_mlx.load(GOLDENS / name, mx.float32, grids=False)
    assert (without.grids, golden.gemma.grids) == (False, True)
    assert without.fingerprint != golden.gemma.fingerprint
    assert not any(isinstance(module, GridLinear) for module in without.model.modules())
    spread = (golden.logits.max() - golden.logits.min()).item()
    assert mx.abs(without.logits(golden.tokens) - golden.logits).max().item() > 0.1 * spread
