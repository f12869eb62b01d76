"""What an error of a matrix costs: all of them in one pass, as one at a time would say it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.quantize import sensitivity
from gemma_mlx.quantize.sensitivity import Sensitivity, fingerprint, known, measure, probed
from gemma_mlx.weights.hub import resolve
from gemma_mlx.weights.load import inspect, load
from gemma_mlx.weights.quantized import leaves
from tests.tiny import write_tiny

TOKENS = [2, *(7 * index % 89 + 3 for index in range(23))]
_GEMMA3N = {
    "num_kv_shared_layers": 1,
    "num_hidden_layers": 6,
    "sliding_window_pattern": 2,
    "intermediate_size": [96] * 6,
    "activation_sparsity_pattern": [0.9, *[0.0] * 5],
}
DEMO = ("tokenizer.model", "tokenizer_config.json")


def _one_at_a_time(folder: Path, path: str) -> float:
    """Divergence for a relative squared error of 1, of the whole model with one matrix packed."""
    model = load(folder, dtype=mx.float32).model
    assert isinstance(model, Decoder)
    ids = mx.array([TOKENS])

    def said() -> mx.array:
        logits = model(model.embed(ids))
        return logits - mx.logsumexp(logits, axis=-1, keepdims=True)

    clean = said()
    module = dict(leaves(model))[path]
    weight = module.weight
    module.weight = probed(weight)
    error = mx.square(module.weight - weight).sum() / mx.square(weight).sum()
    loss: float = (mx.exp(clean) * (clean - said())).sum(axis=-1).mean().item()  # type: ignore[assignment]
    return loss / error.item()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {}),
        ("gemma3n_text", _GEMMA3N),
        ("gemma4_text", {}),
        ("recurrent_gemma", {}),
        ("gemma", {"tie_word_embeddings": False}),
    ],
)
def test_one_pass_says_what_one_at_a_time_says(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_tiny(tmp_path, kind, **changes)
    reports: list[tuple[str, int, int]] = []
    found = measure(tmp_path, TOKENS, lambda *report: reports.append(report))
    assert found is not None
    assert found.tokens == len(TOKENS)
    paths = list(found.losses)
    assert any(path.endswith("down_proj") for path in paths)
    for path in [*paths[:6], *paths[-3:]]:
        if path == "model.embed_tokens_per_layer" or (path == "model.embed_tokens" and "lm_head" in paths):
            continue  # of a table that is only looked up, only the rows that the text asks for are packed
        assert found.losses[path] == pytest.approx(_one_at_a_time(tmp_path, path), rel=0.02, abs=1e-5), path
    assert [done for _, done, _ in reports] == list(range(reports[-1][2] + 1))


def test_of_a_long_text_as_much_is_read_as_the_rows_leave_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path)
    monkeypatch.setattr(sensitivity, "ROWS_BYTES", 24 * 64 * 4 * 100)
    found = measure(tmp_path, [5] * 300)
    assert found is not None
    assert found.tokens == 100


def test_it_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = tmp_path / "model", tmp_path / "kept"
    write_tiny(model, vocab_size=2048)
    for name in DEMO:
        shutil.copy(resolve("demo") / name, model)
    first = sensitivity.of(inspect(model), folder=kept)
    assert first is not None
    assert first.tokens > 300
    shutil.copytree(model, tmp_path / "copy")
    monkeypatch.setattr(sensitivity, "measure", None)  # would fail
    assert sensitivity.of(inspect(tmp_path / "copy"), folder=kept) == first
    (file,) = kept.iterdir()
    assert json.loads(file.read_text())["tokens"] == first.tokens


def test_what_is_damaged_is_measured_again(tmp_path: Path) -> None:
    checkpoint = inspect(resolve("demo"))
    file = tmp_path / f"{fingerprint(checkpoint)}.json"
    for text in ("", "[]", '{"losses": 3}', '{"losses": {"a": "x"}, "tokens": 1}'):
        file.write_text(text)
        assert sensitivity._kept(file) is None
    file.write_text('{"losses": {"a": 1}, "tokens": 5}')
    assert sensitivity.of(checkpoint, folder=tmp_path) == Sensitivity(losses={"a": 1.0}, tokens=5)


@pytest.mark.parametrize("kind", ["t5gemma", "diffusion_gemma", "gemma3_text"])
def test_what_cannot_be_measured(kind: str, tmp_path: Path) -> None:
    write_tiny(tmp_path, kind)  # without a tokenizer
    assert sensitivity.of(inspect(tmp_path), folder=tmp_path / "kept") is None


def test_another_model_is_another_question(tmp_path: Path) -> None:
    write_tiny(tmp_path / "one")
    write_tiny(tmp_path / "other")
    assert fingerprint(inspect(tmp_path / "one")) != fingerprint(inspect(tmp_path / "other"))


def test_what_is_known_adds_up_whatever_the_layers() -> None:
    for layers in (3, 26, 62):
        paths = [f"model.layers.{index}.self_attn.v_proj" for index in range(layers)]
        losses = known([*paths, "model.embed_tokens"], layers).losses
        assert sum(losses[path] for path in paths) == pytest.approx(1.9)
        assert losses[paths[0]] == pytest.approx(2 * losses[paths[-1]])
        assert losses["model.embed_tokens"] == 5.0


def test_the_order_of_what_matters_in_the_model_in_the_box() -> None:
    """That which is measured on one text holds on another: docs/guides/quantize.md has the whole comparison."""
    gemma = gemma_mlx.load("demo")
    text = gemma.processor.tokenizer.encode("Q: What is the capital of France?\nA: Paris lies on the Seine.", bos=True)
    found = measure(gemma.folder, text[:24])
    assert found is not None
    assert len(found.losses) == 43
    losses = found.losses
    layer = [{path.rpartition(".")[2]: losses[path] for path in losses if f".{index}." in path} for index in (0, 5)]
    assert losses["model.embed_tokens"] > max(*layer[0].values(), *layer[1].values())
    assert sum(layer[0].values()) > 1.5 * sum(layer[1].values())
