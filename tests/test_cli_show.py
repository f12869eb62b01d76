"""What a checkpoint is, said in text and in JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.cli import show
from gemma_mlx.cli.app import main
from gemma_mlx.weights.hub import DEMO_FOLDER
from gemma_mlx.weights.load import inspect

GOLDENS = Path(__file__).parent / "goldens"
KEYS = [
    "model", "folder", "model_type", "slice", "weights", "bytes", "bits_per_weight", "memory_bytes", "table_bytes",
    "files", "spec", "runs", "encoder_runs", "stored", "packed_from", "grids", "unread", "text", "judgement",
]  # fmt: skip


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["show", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return show.describe("demo", inspect(DEMO_FOLDER))


def test_the_model_in_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "architecture  gemma3_text" in out
    assert "bits per weight" in out
    assert "<end_of_turn>" in out
    assert "head tied to it" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "demo", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == KEYS
    assert (
        found["bytes"] == sum(file["bytes"] for file in found["files"]) == sum(way["bytes"] for way in found["stored"])
    )
    assert found["bits_per_weight"] == pytest.approx(found["bytes"] * 8 / found["weights"])
    assert [run["first"] for run in found["runs"]] == [0, *(run["last"] + 1 for run in found["runs"][:-1])]
    assert found["runs"][-1]["last"] == len(found["spec"]["layers"]) - 1


def test_a_drafter(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(GOLDENS / "gemma4_assistant")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    words = " ".join(out.split())
    assert "drafts for a Gemma 4 that is 32 wide" in words
    assert "looks into 3 of 12 groups of words" in words
    assert "tokenizer its target's" in words
    assert out.count("of its target") == 4
    assert run(str(GOLDENS / "gemma4_unified_assistant"), "--json") == 0
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert (spec["target_dim"], spec["ordered"]) == (32, None)
    assert {layer["borrows_from"] for layer in spec["layers"]} == {"target"}


@pytest.mark.parametrize("columns", [40, 80])
def test_it_fits(columns: int, facts: dict[str, Any]) -> None:
    lines = show.drawn(facts, columns).splitlines()
    assert all(len(line) <= columns for line in lines if "/" not in line), "only a path may be longer"


def test_what_is_unusual_is_said(facts: dict[str, Any]) -> None:
    spec = facts["spec"] | {"logit_softcap": 30.0, "tied_head": False, "per_layer": {"vocab": 9000, "dim": 256}}
    spec |= {"altup": {"streams": 4, "active": 0, "scaled": True}}
    spec |= {"canvas": {"length": 256, "conditioning_dim": 2112}}
    rope = {"theta": 1e6, "scale": 0.125, "turning": 0.25, "span": 1.0}
    first = facts["runs"][0] | {"experts": {"count": 128, "top_k": 8, "mlp_dim": 704}}
    attention = first["attention"] | {"softcap": 50.0, "bias": True, "rope": rope}
    stored = [{"how": "affine, 4 bits, groups of 64", "bytes": 5, "modules": 3, "kinds": {"q_proj": 2, "h": 1}}]
    unusual = facts | {
        "spec": spec,
        "runs": [first | {"attention": attention}, first | {"borrows_from": 13, "sparsity": 0.95}],
        "unread": {"v.weight": "a tower", "v.bias": "a tower", "lm_head": "a copy"},
        "stored": [*stored, {"how": "F16", "bytes": 7, "modules": 1, "kinds": {"norm": 1}}],
    }
    text = show.drawn(unusual, None)
    for part in (
        "logits capped at 30",
        "head of its own",
        "256 wide of 9,000 tokens",
        "1,000,000 / 8, 25%",
        "8 of 128 x 704",
        "of layer 13",
        ", 95% cut",
        "4, of which each layer computes one",
        "256 tokens, written together",
        "cap",
        "bias",
        "v.weight and 1 more  a tower",
        "lm_head              a copy",
        "affine, 4 bits, groups of 64  5 bytes in 3 modules: 2 q_proj, h",
        "7 bytes in 1 module: norm",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("golden", "parts"),
    [
        ("embeddinggemma", [", no head", "vector        the mean over the tokens, mapped 40 -> 56 -> 36", ", 2 dense"]),
        ("embedding_gemma2", ["mapped 32 -> 36", "6 wide projected from the token's own", "sliding 9, both ways"]),
        ("paligemma", ["prompt        read both ways", "head tied to it"]),
    ],
)
def test_other_kinds_of_model(golden: str, parts: list[str]) -> None:
    folder = Path(__file__).parent / "goldens" / golden
    text = show.drawn(show.describe(golden, inspect(folder)), None)
    for part in parts:
        assert part in text


def test_a_bad_tokenizer_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(DEMO_FOLDER / name, tmp_path)
    assert run(str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "tokenizer     unusable: " in out
    assert "architecture  gemma3_text" in out


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "t5gemma",
            ("3 layers, 24 wide", "a vocabulary of 96 of its own", "sliding 13, both ways", "cross", "2 x 6 of 24"),
        ),
        ("t5gemma2", ("3 layers, 20 wide", "the same vocabulary", "full, both ways", "sliding 3, and the encoder's")),
    ],
)
def test_an_encoder_decoder(name: str, parts: tuple[str, ...]) -> None:
    facts = show.describe(name, inspect(GOLDENS / name))
    assert list(facts) == KEYS
    assert (len(facts["encoder_runs"]), len(facts["runs"])) == (2, 3)
    text = show.drawn(facts, None)
    for part in (*parts, "encoder:\n", "decoder:\n"):
        assert part in text
    narrow = show.drawn(facts, 40).splitlines()
    assert all(len(line) <= 40 for line in narrow if "/" not in line and "." not in line), "only a name may be longer"
