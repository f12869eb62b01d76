"""`transformers` run live beside us on checkpoints packed for phones, and compressed-tensors where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

pytest.importorskip("torch", reason="the reference suite needs torch: make reference")
pytest.importorskip("transformers", reason="the reference suite needs transformers: make reference")

import torch

import gemma_mlx
from tests.goldens import tiny, tiny_packed
from tests.parity.test_goldens import assert_equal, in_chunks

pytestmark = pytest.mark.reference

WITH_COMPRESSED = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="needs the package compressed-tensors"
)


def _same(reference: Any, folder: Path) -> None:
    gemma = gemma_mlx.load(folder, mx.float32)
    for length in (1, 5, 16):
        ids = tiny.tokens(length, tiny.VOCAB, seed=length)
        expected, ours = mx.array(tiny.logits(reference, ids).numpy()), mx.array(ids.numpy())
        assert_equal(gemma.logits(ours), expected)
        assert_equal(in_chunks(gemma.model, ours, 3), expected)
    ids = tiny.tokens(9, tiny.VOCAB, seed=5)
    with torch.no_grad():
        text = reference.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert gemma.generate(ids[0].tolist(), max_tokens=20) == text[0, 9:].tolist()


@pytest.mark.parametrize(("steps", "dtype"), [(True, torch.float32), (False, torch.float32), (False, torch.bfloat16)])
def test_for_phones(steps: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    _same(tiny_packed.write_mobile(tmp_path, steps=steps, dtype=dtype), tmp_path)


# The roots of these widths bfloat16, in which tables are published, holds exactly. Where activations are rounded, wider
# sums come to lie halfway between two steps now and then, where the order in which they are summed decides.
@WITH_COMPRESSED
@pytest.mark.parametrize(
    ("config", "hidden"), [(tiny_packed.W4A16, 64), (tiny_packed.W4A16, 256), (tiny_packed.MOBILE_CT, 64)]
)
def test_compressed(config: dict[str, Any], hidden: int, tmp_path: Path) -> None:
    _same(tiny_packed.write_compressed(tmp_path, config, hidden=hidden), tmp_path)
