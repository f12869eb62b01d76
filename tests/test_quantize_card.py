"""The evidence inside a checkpoint: a card that keeps what it was, a key that other programs leave alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx_lm.utils
import pytest

from gemma_mlx.config import EVIDENCE
from gemma_mlx.quantize.card import BEGIN, END, TAGS, card, evidence, write_evidence
from gemma_mlx.weights.load import inspect
from tests.tiny import write_tiny

FOUND: dict[str, Any] = {
    "teacher": "gemma-3-4b-it",
    "student": "made",
    "measure": "tokens",
    "texts": "judge",
    "window": 512,
    "top_k": 256,
    "kinds": [
        {
            "kind": "all", "count": 8839, "kl_mean": 0.10469, "kl_p999": 1.126, "same_top": 0.58468,
            "perplexity_teacher": 12.34, "perplexity_student": 13.5,
        }
    ],
    "layers": [0.1, 0.2],
    "computed": "gemma 0.1.0, MLX 0.32.4, float32",
}  # fmt: skip
VECTORS = FOUND | {
    "measure": "vectors",
    "kinds": [{"kind": "all", "count": 47, "distance_mean": 0.012, "distance_max": 0.034, "same_nearest": 0.95}],
}
SOURCE = """---
license: gemma
tags:
- conversational
- 'mlx'
base_model: google/gemma-3-4b-pt
extra_gated_prompt: >-
  To access Gemma,
  read this: first
library_name: transformers
---

# Gemma 3

What Google says.
"""


def test_the_source_s_card_is_kept() -> None:
    made = card(SOURCE, "Made of it.", FOUND, "google/gemma-3-4b-it")
    front, body = made.removeprefix("---\n").split("\n---\n", 1)
    assert front.splitlines() == [
        "license: gemma",
        "base_model: google/gemma-3-4b-it",
        "extra_gated_prompt: >-",
        "  To access Gemma,",
        "  read this: first",
        "library_name: mlx",
        "base_model_relation: quantized",
        "tags:",
        "- conversational",
        "- mlx",
        "- gemma-mlx",
        "- quantized",
    ]
    assert body.startswith("\n# Gemma 3\n\nWhat Google says.\n\n" + BEGIN)
    assert "Made of it." in body
    assert "| all | 8,839 | 0.1 | 1.1 | 58.5% | 12.34 | 13.5 |" in body
    assert "256 likeliest tokens" in body
    assert body.endswith(f"\n\n{END}\n")


def test_what_was_there_of_ours_is_replaced() -> None:
    once = card(SOURCE, "Once.", None, None)
    assert "base_model: google/gemma-3-4b-pt" in once
    twice = card(once, "Twice.", FOUND, None)
    assert (once.count(BEGIN), twice.count(BEGIN), twice.count("Once.")) == (1, 1, 0)
    assert card(twice, "Once.", None, None) == once


@pytest.mark.parametrize("before", ["", "---\n---\n", "---\ntags: [mlx, gemma-mlx]\n---\n"])
def test_a_card_of_nothing(before: str) -> None:
    made = card(before, "Made.", None, None)
    tags = "".join(f"- {tag}\n" for tag in TAGS)
    assert made == f"---\nlibrary_name: mlx\ntags:\n{tags}---\n\n{BEGIN}\n\n## Quantized\n\nMade.\n\n{END}\n"


def test_a_card_without_metadata() -> None:
    made = card("# Mine\n\n---\n\nText.\n", "Made.", None, None)
    assert made.startswith("---\nlibrary_name: mlx\n")
    assert "---\n\n# Mine\n\n---\n\nText.\n\n<!--" in made


def test_vectors_are_told_as_what_they_are() -> None:
    made = card("", "Made.", VECTORS, None)
    assert "| all | 47 | 0.012 | 0.034 | 95.0% |" in made
    assert "1 - cosine" in made
    assert "KL" not in made


def test_it_is_written_into_a_checkpoint_that_still_loads(tmp_path: Path) -> None:
    write_tiny(tmp_path, "gemma2")
    before = json.loads((tmp_path / "config.json").read_text())
    write_evidence(tmp_path, "Made.", FOUND)
    config = inspect(tmp_path).config
    assert evidence(config) == FOUND
    assert {key: value for key, value in config.items() if key != EVIDENCE} == before
    assert "Made." in (tmp_path / "README.md").read_text()
    model, read = mlx_lm.utils.load_model(tmp_path)
    assert read[EVIDENCE]["judgement"] == FOUND
    assert model.model_type == "gemma2"
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_evidence(tmp_path, "Made.", FOUND)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files, "nothing depends on when"
    write_evidence(tmp_path, "Made.", None)
    assert evidence(inspect(tmp_path).config) is None
    assert json.loads((tmp_path / "config.json").read_text()) == before


@pytest.mark.parametrize("value", [None, 3, {}, {"judgement": None}, {"judgement": {"kinds": []}}])
def test_what_is_no_evidence(value: object) -> None:
    assert evidence({EVIDENCE: value}) is None
