"""From a name to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx import device
from gemma_mlx.cli import opening
from gemma_mlx.errors import InputError, MemoryLimitError, ModelNotFoundError
from gemma_mlx.quantize.admission import Admission
from gemma_mlx.quantize.memory import Kernels
from gemma_mlx.weights import hub
from tests.hub import TINY, Hub, online, server
from tests.test_weights_hub_embedders import install

__all__ = ["online", "server"]

CPU = Kernels(backend="cpu", itemsize=4)


def test_a_name_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert opening.chosen("x/y") == "x/y"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_name_a_sentence_says_what_is_taken(
    quiet: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "default", lambda _role, _fits: ("x/y", "x/y is the newest."))
    assert opening.chosen(None, quiet=quiet) == "x/y"
    assert capsys.readouterr() == ("", "" if quiet else "x/y is the newest.\n")


def test_without_a_name_the_estimator_says_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    install(tmp_path, "google/gemma-2b-it", "gemma")
    damaged = install(tmp_path, "google/gemma-3-1b-it", "gemma3_text")
    assert opening.chosen(None) == "google/gemma-3-1b-it"
    (damaged / "model.safetensors").write_bytes(b"<html>")
    assert opening.chosen(None) == "google/gemma-2b-it", "a damaged one is passed over"
    monkeypatch.setenv("GEMMA_MEMORY_LIMIT", "1MB")
    assert opening.chosen(None) == hub.DEMO
    assert "None of the 2 Gemmas on this machine fits into its memory" in capsys.readouterr().err


def test_found(tmp_path: Path) -> None:
    assert opening.found("demo") == ("demo", hub.DEMO_FOLDER)
    with pytest.raises(ModelNotFoundError):
        opening.found(str(tmp_path / "none"))


def test_a_session_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from gemma_mlx.session import Session

    asked: dict[str, Any] = {}

    def opened(name: str, **more: Any) -> str:
        more["on_progress"]("weights", 0, 1)
        asked.update(more, name=name)
        return "session"

    monkeypatch.setattr(Session, "open", opened)
    assert opening.open_session("demo", system="s", force=True, temperature=0) == "session"  # type: ignore[comparison-overlap]
    del asked["on_progress"]
    assert asked.pop("memory").force
    assert asked == {"name": "demo", "system": "s", "temperature": 0}


def test_a_model_that_is_not_here_is_fetched_as_pull_fetches_it(
    online: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "ASK_ABOVE_BYTES", 1000)
    with pytest.raises(InputError, match="nobody is here to say yes") as caught:
        opening.found(TINY)
    assert caught.value.hint == f"gemma pull {TINY} --yes"
    monkeypatch.setattr(opening, "ASK_ABOVE_BYTES", 10**9)
    name, folder = opening.found(TINY)
    assert (name, folder) == (TINY, hub.resolve(TINY))
    assert "Fetched and verified" in capsys.readouterr().err
    assert opening.found(TINY, quiet=True) == (TINY, folder)
    assert capsys.readouterr() == ("", "")


def test_a_model_too_large_for_the_machine_says_so(
    online: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(device.device(), limit_bytes=1000)
    monkeypatch.setattr(device, "device", lambda: small)
    opening.found(TINY)
    assert "It needs 0.00 GB, and there are 0.00 GB." not in (told := capsys.readouterr().err)
    assert "It needs " in told, "the estimator's sentence"


def test_a_model_is_loaded() -> None:
    assert opening.open_model("demo").checkpoint.match.model_type == "gemma3_text"


def test_what_is_changed_is_said_unless_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMMA_MEMORY_LIMIT", "1MB")
    told = r"demo takes .* MB, .* of it for weights, and [\d.]+ .?B are there for it"
    with pytest.raises(MemoryLimitError, match=told):
        opening.open_model("demo")
    assert opening.open_model("demo", force=True).name == "demo"
    assert "(--force)" in capsys.readouterr().err
    opening.open_model("demo", force=True, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_lengths_that_fit_and_do_not() -> None:
    gemma = opening.open_model("demo")
    assert opening.fitting(gemma, [(200, 20), (600, 20)], None) == (512, None)
    assert opening.fitting(gemma, [(600, 20)], 8) == (512, 8)
    weights = gemma.subject.weights
    gemma.memory = Admission(weights + 8_000_000, CPU, in_use=lambda: 0)
    chunk, _ = opening.fitting(gemma, [(200, 20), (600, 20)], None)
    assert chunk < 512
    with pytest.raises(MemoryLimitError):
        opening.fitting(gemma, [(200, 20), (3_000, 900)], None)
