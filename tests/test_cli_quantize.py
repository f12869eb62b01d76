"""`gemma quantize`: the plan, the writing, and what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.cli.app import main
from gemma_mlx.cli.quantize import _layers
from gemma_mlx.weights.load import inspect
from tests.test_quantize_plan import on_lattice
from tests.tiny import edit_tensors, write_tiny


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err


def test_the_plan_is_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "made"
    code, out, err = _run(capsys, "quantize", "demo", "--dry-run", "--json")
    planned = json.loads(out)
    assert (code, err, planned["folder"]) == (0, "", None)
    code, out, err = _run(capsys, "quantize", "demo", "--to", str(target), "--no-judge", "--json")
    assert (code, err) == (0, "")
    written = json.loads(out)
    assert written["folder"] == str(target)
    assert planned == written | {"folder": None, "decisions": planned["decisions"]}
    assert inspect(target).nbytes == written["bytes"]
    assert sum(group["bytes"] for group in written["groups"]) == written["bytes"]
    assert sum(one["bytes"] for one in planned["decisions"]) == written["bytes"]
    assert len(planned["decisions"]) == written["tensors"]
    assert (target / "tokenizer.model").exists()
    code, out, _ = _run(capsys, "show", str(target), "--json")
    assert json.loads(out)["bits_per_weight"] == pytest.approx(written["bits_per_weight"])


def test_the_plan_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(capsys, "quantize", "demo", "--dry-run", "--clip", "--keep", "o_proj=bf16", "--mode", "affine")
    assert "bits per weight" in out
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "8 bits / 64" in rows["embed_tokens"]
    assert "4 bits / 64, clipped" in rows["mlp.gate_proj"]
    assert rows["self_attn.o_proj"].split()[1:4] == ["0-5", "6", "bf16"]


def test_trained_for_4_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path)
    edit_tensors(tmp_path, on_lattice)
    _, out, _ = _run(capsys, "quantize", str(tmp_path), "--dry-run")
    assert "trained for Q4_0" in out
    assert "4 bits / 32, exact" in out
    _, out, _ = _run(capsys, "quantize", str(tmp_path), "--dry-run", "--json")
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
    code, out, err = _run(capsys, "quantize", *arguments)
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
    code, out, err = _run(capsys, "quantize", "demo", "--to", str(target), "--no-judge")
    assert (code, out) == (130, "")
    assert "The same command goes on where it was" in err
    assert [path.name for path in tmp_path.iterdir()] == [".made.partial"]
    assert json.loads((tmp_path / ".made.partial" / writing.JOURNAL).read_text())["done"] > 0
    code, _, _ = _run(capsys, "quantize", "demo", "--to", str(target), "-q", "--no-judge")
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_layers_are_written_short() -> None:
    assert _layers((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert _layers(()) == ""
    assert _layers((3,)) == "3"
