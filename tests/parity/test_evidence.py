"""The key that `gemma quantize` adds to config.json, as transformers sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mlx.quantize.card import write_evidence
from gemma_mlx.weights.load import inspect
from tests.test_quantize_card import FOUND
from tests.tiny import write_tiny


@pytest.mark.reference
def test_transformers_leaves_it_alone(tmp_path: Path) -> None:
    from transformers import AutoConfig

    write_tiny(tmp_path, "gemma3_text")
    write_evidence(tmp_path, "Made.", FOUND)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == inspect(tmp_path).match.spec.dim
