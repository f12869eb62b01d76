"""From a name to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.cli import opening
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.weights import hub


def test_a_name_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert opening.chosen("x/y") == "x/y"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_without_a_name_a_sentence_says_what_is_taken(
    quiet: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def default(limit_bytes: int | None) -> tuple[str, Path, str]:
        return "x/y", Path(), "x/y is the newest."

    monkeypatch.setattr(hub, "default_model", default)
    assert opening.chosen(None, quiet=quiet) == "x/y"
    assert capsys.readouterr() == ("", "" if quiet else "x/y is the newest.\n")


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
    assert opening.open_session("m", system="s", temperature=0) == "session"  # type: ignore[comparison-overlap]
    del asked["on_progress"]
    assert asked == {"name": "m", "system": "s", "temperature": 0}


def test_a_model_is_loaded() -> None:
    assert opening.open_model("demo").checkpoint.match.model_type == "gemma3_text"
