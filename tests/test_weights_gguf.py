"""A checkpoint as llama.cpp writes it computes what it computes in the Hugging Face layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import gemma_mlx
from tests import gguf_files

GOLDENS = Path(__file__).parent / "goldens"
# What GGUF files cannot say, and llama.cpp takes for granted: scores are divided by the root of a head's width.
_AS_LLAMA_CPP = {"query_pre_attn_scalar": 12}


def source(name: str, folder: Path, **changes: Any) -> Path:
    """A golden's checkpoint, its config changed."""
    shutil.copytree(GOLDENS / name, folder, ignore=shutil.ignore_patterns("reference"))
    config = json.loads((folder / "config.json").read_text())
    if "query_pre_attn_scalar" in config:
        config |= _AS_LLAMA_CPP
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def logits(path: Path) -> mx.array:
    gemma = gemma_mlx.load(path, mx.float32)
    tokens = mx.array([[2, *range(5, 5 + 40, 3), 11, 60, 79]])
    return gemma.logits(tokens)


@pytest.mark.parametrize(
    "name", ["gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_e", "gemma4_dense", "gemma4_moe"]
)
def test_float32_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    folder = source(name, tmp_path / "source")
    file = gguf_files.converted(folder, tmp_path / "model.gguf")
    found, wanted = logits(file), logits(folder)
    # 1 was added to the norms' weights in float32 and is taken off again, which rounds the smallest of them.
    assert mx.abs(found - wanted).max().item() <= 1e-5 * mx.abs(wanted).max().item()
