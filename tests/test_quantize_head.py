"""The head of a Gemma 3, written twice."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.errors import InputError
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from tests.test_quantize_plan import with_towers
from tests.tiny import write_tiny

HEAD, TABLE = "language_model.lm_head", "language_model.model.embed_tokens"


def _read(folder: Path) -> dict[str, mx.array]:
    found = mx.load(str(folder / "model.safetensors"))
    assert isinstance(found, dict)
    return found


def test_beside_towers_the_head_is_written_twice(tmp_path: Path) -> None:
    with_towers(tmp_path / "source")
    made = plan(tmp_path / "source")
    written = quantize(made, tmp_path / "made")
    arrays = _read(written.folder)
    for part in ("weight", "scales", "biases"):
        assert mx.array_equal(arrays[f"{HEAD}.{part}"], arrays[f"{TABLE}.{part}"])
    assert written.config["quantization"][HEAD] == written.config["quantization"][TABLE]
    assert made.nbytes == sum(array.nbytes for array in arrays.values())
    assert set(written.unread.values()) >= {"a copy of the embedding table"}
    assert {name for name in written.tensors if "head" in name} == set()  # the second is on the disk alone
    once = plan(tmp_path / "source", second_head=False)
    assert made.nbytes - once.nbytes == sum(arrays[f"{HEAD}.{part}"].nbytes for part in ("weight", "scales", "biases"))
    assert made.weights == once.weights
    logits = gemma_mlx.load(quantize(once, tmp_path / "once").folder, mx.float32).logits([2, 5, 7])
    assert mx.array_equal(logits, gemma_mlx.load(written.folder, mx.float32).logits([2, 5, 7]))


def test_without_towers_it_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source")
    assert not any("lm_head" in name for name in _read(quantize(plan(tmp_path / "source"), tmp_path / "made").folder))
    made = plan(tmp_path / "source", recipe_name="uniform", mode="nvfp4", second_head=True)
    names = _read(quantize(made, tmp_path / "twice").folder).keys()
    assert {name for name in names if "lm_head" in name} == {"lm_head.weight", "lm_head.scales"}
    plain = plan(tmp_path / "source", recipe_name="bf16", second_head=True)
    assert all(len(one.outputs) == 1 for one in plain.decisions)  # mlx-vlm makes the head of it by itself


def test_no_other_model_has_two(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source", "gemma2")
    with pytest.raises(InputError, match="this is a gemma2, which it reads without one"):
        plan(tmp_path / "source", second_head=True)
