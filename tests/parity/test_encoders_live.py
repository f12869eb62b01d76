"""`transformers` run live beside our encoders: other orders of layers, windows, lengths, widths, and bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("torch", reason="the reference suite needs torch: make reference")
pytest.importorskip("transformers", reason="the reference suite needs transformers: make reference")

import torch

from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.weights.load import load
from gemma_mlx.weights.save import save_checkpoint
from tests.goldens import make_encoder_goldens as making
from tests.goldens import tiny
from tests.parity.test_encoders import ENCODERS, assert_equal

pytestmark = pytest.mark.reference

S, F = tiny.SLIDING, tiny.FULL


def both(name: str, folder: Path, dense: list[torch.Tensor], **changes: Any) -> tuple[Any, Encoder]:
    """The reference model, and ours loaded from what it saved."""
    reference = tiny.build(name, **changes)
    making.save(folder, reference, dense)
    model = load(folder, dtype=mx.float32).model
    assert isinstance(model, Encoder)
    return reference, model


def to_mlx(tensor: torch.Tensor) -> mx.array:
    return mx.array(tensor.float().numpy())


@pytest.mark.parametrize("order", [[S, S, S, F], [F, S, S, F], [S, F, F, F], [F, F, F, F]])
@pytest.mark.parametrize("window", [2, 3, 6, 12, 200])
@pytest.mark.parametrize("name", ENCODERS)
def test_layers_and_windows(name: str, window: int, order: list[str], tmp_path: Path) -> None:
    dense = making.maps(name)
    changes = {"layer_types": order, "num_hidden_layers": len(order), "sliding_window": window}
    reference, model = both(name, tmp_path, dense, **changes)
    for length in (1, 2, 3, 6, 7, 13, 60):
        ids = tiny.tokens(length, tiny.VOCAB, seed=length)
        assert_equal(model(mx.array(ids.numpy())), to_mlx(making.vectors(reference, dense, ids, [length])))


@pytest.mark.parametrize("lengths", [[16, 1], [3, 16, 5, 12], [16, 16]])
@pytest.mark.parametrize("name", ENCODERS)
def test_batches(name: str, lengths: list[int], tmp_path: Path) -> None:
    dense = making.maps(name)
    reference, model = both(name, tmp_path, dense)
    ids = tiny.tokens(16, tiny.VOCAB, rows=len(lengths))
    ours = model(mx.array(ids.numpy()), mx.array(lengths))
    assert_equal(ours, to_mlx(making.vectors(reference, dense, ids, lengths)))


def test_published_widths_need_no_folders(tmp_path: Path) -> None:
    """dim -> 4 dim -> dim follows from config.json, so one file may hold everything."""
    generator = torch.Generator().manual_seed(0)
    dense = [torch.randn(size, generator=generator) * 0.1 for size in ((160, 40), (40, 160))]
    reference, model = both("embeddinggemma", tmp_path / "folders", dense)
    config = load(tmp_path / "folders").checkpoint.config
    save_checkpoint(tmp_path / "file", model, config, dtype=mx.float32)
    again = load(tmp_path / "file", dtype=mx.float32).model
    ids = tiny.tokens(30, tiny.VOCAB)
    for ours in (model, again):
        assert isinstance(ours, Encoder)
        assert_equal(ours(mx.array(ids.numpy())), to_mlx(making.vectors(reference, dense, ids, [30])))


@pytest.mark.parametrize("name", ENCODERS)
def test_bfloat16_is_as_close_as_the_reference_in_bfloat16(name: str, tmp_path: Path) -> None:
    """In bfloat16 neither is exact; ours may be no further from float32 than half as much again as the reference's."""
    dense = making.maps(name)
    reference, _ = both(name, tmp_path, dense)
    ids, lengths = tiny.tokens(64, tiny.VOCAB, rows=4), [64, 30, 50, 12]
    exact = making.vectors(reference, dense, ids, lengths).numpy()
    low = [weight.bfloat16() for weight in dense]
    theirs = making.vectors(reference.bfloat16(), low, ids, lengths).float().numpy()
    model = load(tmp_path, dtype=mx.bfloat16).model
    assert isinstance(model, Encoder)
    ours = np.array(model(mx.array(ids.numpy()), mx.array(lengths)))
    assert np.sqrt(((ours - exact) ** 2).mean()) <= 1.5 * np.sqrt(((theirs - exact) ** 2).mean())
