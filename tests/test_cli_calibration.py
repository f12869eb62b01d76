"""What `gemma quantize --method` says, takes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import run


def test_a_calibrated_plan_says_what_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("What is the capital of France? Paris. " * 20, encoding="utf-8")
    code, out, err = run(
        capsys, "quantize", "demo", "--method", "gptq", "--text", str(text), "--dry-run", "--json"
    )  # fmt: skip
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["calibration"]["method"] == "gptq"
    assert told["calibration"]["memory_bytes"] > 1e6
    assert {group["method"] for group in told["groups"] if group["layers"]} == {"gptq"}
    code, out, _ = run(capsys, "quantize", "demo", "--method", "awq", "--text", str(text), "--dry-run")
    assert f"awq, {told['calibration']['tokens']} tokens, at most" in out
    assert "4 bits / 64, awq" in out
    code, out, _ = run(capsys, "quantize", "demo", "--dry-run", "--json")
    assert json.loads(out)["calibration"] is None


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, says in (
        (("--text", "mine.txt"), "nothing is calibrated"),
        (("--method", "gguf"), "'gguf' is no method"),
        (("--method", "dwq", "--text", str(tmp_path / "none.txt")), "cannot be read"),
    ):
        code, out, err = run(capsys, "quantize", "demo", "--to", str(tmp_path / "made"), *arguments)
        assert (code, out) == (1, "")
        assert says in err
    monkeypatch.setenv("GEMMA_MEMORY_LIMIT", "1MB")
    code, _, err = run(capsys, "quantize", "demo", "--to", str(tmp_path / "made"), "--method", "dwq")
    assert code != 0
    assert "Calibrating takes" in err
    assert list(tmp_path.iterdir()) == []
