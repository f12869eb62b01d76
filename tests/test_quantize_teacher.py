"""What a teacher said: captured once, kept, found again, and made anew when anything about it changed."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.processor import Processor
from gemma_mlx.quantize import teacher as teaching
from gemma_mlx.quantize.divergence import Said, divergence, full_divergence
from gemma_mlx.quantize.judge import Task
from gemma_mlx.quantize.reading import read
from gemma_mlx.quantize.teacher import Capture, capture, key, load, packed, sampled, save, unpacked
from gemma_mlx.quantize.texts import Window
from gemma_mlx.weights.hub import resolve
from gemma_mlx.weights.load import inspect
from tests.tiny import write_tiny

WINDOWS = (Window("english", (2, 5, 7, 9, 11)), Window("code", (2, 8, 3, 4)))


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    folder = tmp_path_factory.mktemp("teacher")
    write_tiny(folder)
    told: list[tuple[int, int]] = []
    made = capture(gemma_mlx.load(folder, mx.float32), WINDOWS, lambda *each: told.append(each))
    assert told == [(0, 9), (5, 9), (9, 9)]
    return made


def test_a_capture_is_what_was_said(captured: Capture) -> None:
    assert [len(one.top) for one in captured.said] == [4, 3]
    assert len(captured.layers) == 3
    assert captured.layers[0].shape[0] == 96
    for said in captured.said:
        assert said.ids.shape == said.log_p.shape == (len(said.top), 96)
        assert mx.exp(said.log_p).sum(axis=-1).tolist() == pytest.approx([1.0] * len(said.top))


def test_it_is_kept_and_found_again(captured: Capture, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kept.safetensors"
    assert load(path) is None
    save(path, packed(captured))
    found = load(path)
    assert found is not None
    again = unpacked(found)
    for one, other in zip(captured.said, again.said, strict=True):
        assert all(mx.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert all(mx.array_equal(*pair) for pair in zip(captured.layers, again.layers, strict=True))
    assert [path.name for path in path.parent.iterdir()] == ["kept.safetensors"]
    path.write_bytes(path.read_bytes()[:1000])
    assert load(path) is None, "what was cut short is captured anew"


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(teaching, "KEPT_BYTES", 9000)
    arrays = {"vectors": mx.zeros((1000,))}
    for index, name in enumerate(("a", "b", "c")):
        save(tmp_path / f"{name}.safetensors", arrays)
        os.utime(tmp_path / f"{name}.safetensors", (index + 1, index + 1))
        if name == "b":
            assert load(tmp_path / "a.safetensors") is not None  # which makes it the newest
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]


def test_the_key_changes_with_what_it_stands_for(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    checkpoint = inspect(tmp_path)
    first = key(checkpoint, WINDOWS)
    assert key(inspect(tmp_path), WINDOWS) == first
    assert key(checkpoint, WINDOWS[:1]) != first
    os.utime(tmp_path / "model.safetensors", (1, 1))
    assert key(inspect(tmp_path), WINDOWS) != first


@pytest.mark.parametrize("windows", [1, 3, 50, 96, 97, 500])
def test_places_are_spread_over_all_windows(windows: int) -> None:
    places = sampled(windows)
    assert len(places) == windows
    assert 48 <= sum(map(len, places)) <= 96
    assert all(0 < place < 1 for each in places for place in each)


def test_how_near_the_bound_is_on_the_model_in_the_box() -> None:
    """Between two models, over 256 of 2048 tokens: the figure of docs/guides/compare.md."""
    gemma = gemma_mlx.load(resolve("demo"), mx.float32)
    task = Task.of(quick=True)
    kept = total = 0.0
    for window in task.windows(Processor(gemma.folder), 4096)[::3]:
        (part,) = read(gemma, window.tokens)
        noise = mx.random.normal(part.logits.shape, key=mx.random.key(len(window.tokens)))
        said = capture(gemma, [window]).said[0]
        kept += divergence(Said(*said), part.logits + 0.5 * noise).sum().item()
        total += full_divergence(part.logits, part.logits + 0.5 * noise).sum().item()
    assert 0.8 * total < kept <= total
