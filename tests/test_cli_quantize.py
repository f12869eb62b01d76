"""`gemma quantize`: the plan, the writing, and what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.weights.hub import resolve
from gemma_mlx.weights.load import inspect
from tests.running import run
from tests.test_quantize_plan import on_lattice
from tests.tiny import edit_tensors, write_tiny


def test_the_plan_is_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    code, out, err = run(capsys, "quantize", "demo", "--dry-run", "--json")
    planned = json.loads(out)
    assert (code, err, planned["folder"]) == (0, "", None)
    code, out, err = run(capsys, "quantize", "demo", "--to", str(target), "--no-judge", "--json")
    assert (code, err) == (0, "")
    written = json.loads(out)
    assert written["folder"] == str(target)
    assert planned == written | {"folder": None, "fits": planned["fits"], "decisions": planned["decisions"]}
    assert planned["fits"] == {"context": 4096, "comfortable_gb": 8, "tight_gb": 8}
    assert planned["aim"] is None
    assert inspect(target).nbytes == written["bytes"]
    assert sum(group["bytes"] for group in written["groups"]) == written["bytes"]
    assert sum(one["bytes"] for one in planned["decisions"]) == written["bytes"]
    assert len(planned["decisions"]) == written["tensors"]
    assert (target / "tokenizer.model").exists()
    code, out, _ = run(capsys, "show", str(target), "--json")
    assert json.loads(out)["bits_per_weight"] == pytest.approx(written["bits_per_weight"])


def test_the_plan_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "quantize", "demo", "--dry-run", "--clip", "--keep", "o_proj=bf16", "--mode", "affine")
    assert "bits per weight" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "6 bits / 64" in rows["embed_tokens"]
    assert rows["fits"].split(None, 1)[1] == "a Mac with 8 GB, with 4,096 tokens"
    assert "4 bits / 64, clipped" in rows["mlp.gate_proj"]
    assert rows["self_attn.o_proj"].split()[1:4] == ["0-5", "6", "bf16"]


def test_trained_for_4_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path)
    edit_tensors(tmp_path, on_lattice)
    _, out, _ = run(capsys, "quantize", str(tmp_path), "--dry-run")
    assert "trained for Q4_0" in out
    assert "4 bits / 32, exact" in out
    _, out, _ = run(capsys, "quantize", str(tmp_path), "--dry-run", "--json")
    exact = [group["errors"] for group in json.loads(out)["groups"] if group["method"] == "lattice"]
    assert exact
    assert all(errors["lattice"] <= 0.003 < errors["plain"] for errors in exact)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("demo",), "There is no folder to write to"),
        (("demo", "--to", "."), "exists already"),
        (("demo", "--to", "x", "--recipe", "gema"), "'gema' is no recipe"),
        (("demo", "--to", "x", "--bits", "7"), "--bits is 7"),
        (("demo", "--to", "x", "--mode", "q4_k"), "'q4_k' is no mode"),
        (("demo", "--to", "x", "--keep", "v_prj=8"), "finds no module"),
        (("demo", "--to", "x", "--recipe", "qat"), "No weights of"),
        (("demo", "--to", "x", "--target-size", "6"), "cannot be reached"),
        (("demo", "--to", "x", "--target-size", "6 G"), "'6 G' is no size"),
        (("demo", "--to", "x", "--target-size", "6GB", "--target-bits", "4"), "one of them"),
        (("demo", "--to", "x", "--target-bits", "4", "--bits", "4"), "so does --bits"),
        (("demo", "--to", "x", "--target-bits", "4", "--recipe", "uniform"), "so does --recipe uniform"),
    ],
)
def test_what_cannot_be_done(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "quantize", *arguments)
    assert (code, out) == (1, "")
    assert says in err
    assert "hint: " in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_keeps_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gemma_mlx.weights import write as writing

    written: list[Any] = []
    honest = writing._write

    def stopped(*arguments: Any) -> None:
        written.append(arguments)
        if len(written) == 9:
            raise KeyboardInterrupt
        honest(*arguments)

    monkeypatch.setattr(writing, "_write", stopped)
    target = tmp_path / "made"
    code, out, err = run(capsys, "quantize", "demo", "--to", str(target), "--no-judge")
    assert (code, out) == (130, "")
    assert "The same command goes on where it was" in err
    assert [path.name for path in tmp_path.iterdir()] == [".made.partial"]
    assert json.loads((tmp_path / ".made.partial" / writing.JOURNAL).read_text())["done"] > 0
    code, _, _ = run(capsys, "quantize", "demo", "--to", str(target), "-q", "--no-judge")
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_target_is_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    asked = ("quantize", "demo", "--target-bits", "4.6", "--no-measure", "--json")
    code, out, err = run(capsys, *asked, "--to", str(target))
    assert (code, err) == (0, "")
    written = json.loads(out)
    assert written["bytes"] == inspect(target).nbytes <= written["aim"]["bytes"]
    assert (written["aim"]["sensitivity"], written["aim"]["tokens"]) == ("known", 0)
    _, out, _ = run(capsys, *asked, "--dry-run")
    planned = json.loads(out)
    matrices = [one for one in planned["decisions"] if one["packing"] is not None]
    assert sum(one["predicted_loss"] for one in matrices) == pytest.approx(planned["aim"]["predicted_loss"])
    assert all(one["sensitivity"] > 0 for one in matrices)


def test_what_is_measured_is_remembered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gemma_mlx.quantize import sensitivity
    from gemma_mlx.quantize.sensitivity import Sensitivity

    runs = []

    def measured(*_: object) -> Sensitivity:
        runs.append(1)
        return Sensitivity(losses=dict.fromkeys(inspect(resolve("demo")).quantization, 0.5), tokens=384)

    monkeypatch.setattr(sensitivity, "measure", measured)
    monkeypatch.setattr(sensitivity, "_folder", lambda: tmp_path)
    for _ in range(2):
        _, out, err = run(capsys, "quantize", "demo", "--target-size", "2MB", "--dry-run")
        assert err == ""
        told = " ".join(out.split())
        assert "target 2.0 MB; predicted loss" in told
        assert "nats, measured on 384 tokens" in told
    assert runs == [1]


def test_what_cannot_be_measured_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path, "t5gemma")
    code, _, err = run(capsys, "quantize", str(tmp_path), "--target-bits", "8", "--dry-run")
    assert code == 0
    assert "cannot be measured" in err


def test_for_a_mac(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("quantize", "demo", "--no-measure", "--dry-run", "--json", "--context", "1024")
    _, out, _ = run(capsys, *asked, "--fit", "MacBook Air M4 16")
    told = json.loads(out)
    assert {group["packing"]["bits"] for group in told["groups"] if group["packing"]} == {8}
    assert told["fits"]["context"] == 1024
    code, _, err = run(capsys, *asked, "--fit", "Lisa")
    assert code == 1
    assert "hint: " in err
