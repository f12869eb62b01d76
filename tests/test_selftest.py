"""The checks pass here, find an operation that was broken on purpose, and cover what the networks call."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from gemma_mlx import device
from gemma_mlx.errors import GemmaError
from gemma_mlx.selftest import attending, drawing, elements, model, packed
from gemma_mlx.selftest.check import EXACT, Check, Note, Outcome, Pair, Tolerance, run
from gemma_mlx.selftest.numbers import codes, decoded, e4m3, normal
from gemma_mlx.selftest.suite import suite
from gemma_mlx.weights.hub import DEMO_FOLDER
from gemma_mlx.weights.quantized import Quantization

LIBRARY = Path(model.__file__).parent.parent
# What only rearranges, makes, stores, counts, or combines element by element.
ELEMENTARY = set(
    """abs array arange broadcast_to contiguous depends expand_dims ones repeat stack stop_gradient zeros zeros_like
    exp expm1 finfo issubdtype linalg.norm logaddexp maximum minimum sigmoid sqrt square tanh
    eval async_eval clear_cache default_device export_to_dot get_active_memory get_peak_memory reset_peak_memory
    load save_safetensors random.key random.randint""".split()
)
NAMES = {check.name: check for check in suite()}


def outcome(name: str) -> Outcome:
    (found,) = run([NAMES[name]])
    return found


def test_everything_is_right_here() -> None:
    failed = [found for found in run(suite()) if not found.passed]
    assert failed == []


def test_names_are_stable_and_different() -> None:
    names = [check.name for check in suite()]
    assert len(set(names)) == len(names)
    assert all(check.name.startswith(check.group) or check.group == "quantize" for check in suite())
    for check in suite():
        assert check.meaning.endswith(".")
        assert check.allowed.reason
    quick = suite(quick=True)
    assert {check.group for check in quick} < {check.group for check in suite()}
    assert 0 < len(quick) < len(suite()) / 2


def test_there_is_a_check_for_each_format_and_head_size() -> None:
    for name in ("quantized/affine-3-128", "quantized/mxfp4", "quantized/mxfp8", "quantized/nvfp4", "experts/nvfp4"):
        assert name in NAMES
    assert sum(name.startswith("quantized/affine") for name in NAMES) == 18
    for head_dim in (64, 128, 256, 512):
        assert f"attention/{head_dim}/decode" in NAMES
    large = {check.name for check in elements.checks(mx.bfloat16, large=True)}
    assert "matmul/bfloat16/model" in large - set(NAMES)


def _calls(folder: Path) -> Iterator[str]:
    """Every function of mlx.core that is named in the folder: "mx.fast.rope"."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := ast.unparse(node)).startswith("mx."):
                thing: Any = mx
                for part in name.split(".")[1:]:
                    thing = getattr(thing, part, None)
                if callable(thing) and not isinstance(thing, type) and thing is not mx.fast:
                    yield name


@pytest.mark.parametrize("folder", ["nn", "models", "cache", "generate", "weights"])
def test_what_the_networks_call_is_covered(folder: str) -> None:
    covered = {name for check in NAMES.values() for name in check.covers} | {f"mx.{name}" for name in ELEMENTARY}
    used = set(_calls(LIBRARY / folder))
    assert used - covered == set(), f"{folder}/ computes with what no check covers: add one to gemma_mlx/selftest"
    if folder == "nn":
        assert {"mx.fast.rope", "mx.fast.rms_norm", "mx.gather_qmm", "mx.quantized_matmul"} <= used


def test_what_is_covered_is_called() -> None:
    """A check may not claim an operation that it does not call."""
    sources = "".join(path.read_text(encoding="utf-8") for path in LIBRARY.rglob("*.py") if "cli" not in path.parts)
    for name in {name for check in NAMES.values() for name in check.covers}:
        spelled = {"mx.take": "table(", "mx.matmul": " @ ", "mx.slice_update": "buffer[:, :,"}.get(name, name)
        assert spelled in sources, name


def spoiled(function: Callable[..., mx.array], how: Callable[[mx.array], mx.array]) -> Callable[..., Any]:
    return lambda *arguments, **keywords: how(function(*arguments, **keywords))


@pytest.mark.parametrize(
    ("where", "operation", "check", "others"),
    [
        (mx.fast, "rms_norm", "norm/rms", "rope/full/near"),
        (mx.fast, "rope", "rope/proportional/far", "norm/rms"),
        (mx.fast, "scaled_dot_product_attention", "attention/256/decode", "attention/256/capped"),
        (mx, "quantized_matmul", "quantized/affine-4-64", "experts/mxfp4"),
        (mx, "gather_qmm", "experts/mxfp4", "experts/plain"),
        (mx, "gather_mm", "experts/plain", "experts/affine-4-64"),
        (mx, "dequantize", "quantized/nvfp4", "experts/nvfp4"),
        (mx, "softmax", "softmax/vocabulary", "order/top"),
        (mx, "logsumexp", "softmax/vocabulary", "cumsum/vocabulary"),
        (mx, "cumsum", "cumsum/vocabulary", "order/sorted"),
        (mx, "conv1d", "recurrence/scan", "norm/rms"),
    ],
)
def test_a_broken_operation_is_found(
    monkeypatch: pytest.MonkeyPatch, where: Any, operation: str, check: str, others: str
) -> None:
    whole = getattr(where, operation)
    # One part in five too large: plausible numbers, as a faulty kernel gives.
    monkeypatch.setattr(where, operation, spoiled(whole, lambda y: y * 1.2))
    found = outcome(check)
    assert not found.passed
    assert found.error is not None
    assert found.error > found.allowed
    assert found.meaning == NAMES[check].meaning
    assert outcome(others).passed


def test_a_model_computed_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mx.fast.rope
    monkeypatch.setattr(mx.fast, "rope", lambda x, **keywords: whole(x, **(keywords | {"offset": 0})))
    assert not outcome("model/demo").passed


@pytest.mark.parametrize(("value", "said"), [(mx.nan, "no numbers"), (mx.inf, "infinite")])
def test_a_nan_or_infinity_fails(monkeypatch: pytest.MonkeyPatch, value: float, said: str) -> None:
    whole = mx.fast.rms_norm

    def one_bad(*arguments: Any, **keywords: Any) -> mx.array:
        y = whole(*arguments, **keywords)
        y[0, 0] = value
        return y

    monkeypatch.setattr(mx.fast, "rms_norm", one_bad)
    found = outcome("norm/rms")
    assert (found.passed, found.error) == (False, None)
    assert found.problem is not None
    assert said in found.problem


@pytest.mark.parametrize("error", [RuntimeError("[x] No\nimplementation"), ValueError("bad"), GemmaError("no demo")])
def test_an_operation_that_refuses_fails(error: Exception) -> None:
    def refuse() -> Iterator[Pair]:
        raise error

    (found,) = run([replace(NAMES["norm/rms"], cases=refuse)])
    assert not found.passed
    assert found.problem == " ".join(str(error).split())


def _check(found: list[float], right: list[float], allowed: Tolerance, note: Note | None = None) -> Check:
    return Check(
        name="n", group="g", covers=(), cases=lambda: [(mx.array(found), np.array(right))], allowed=allowed,
        meaning="m.", note=note,
    )  # fmt: skip


def test_errors_are_shares_of_the_largest() -> None:
    (found,) = run([_check([1.0, 5.0], [2.0, 5.0], Tolerance(value=0.2, reason="r"))])
    assert (found.passed, found.error, found.meaning) == (True, pytest.approx(0.2), None)
    (found,) = run([_check([1.0, 5.0], [2.0, 5.0], Tolerance(value=0.19, reason="r"))])
    assert (found.passed, found.meaning) == (False, "m.")
    (found,) = run([_check([1.0], [1.0, 5.0], EXACT)])
    assert found.problem == "the shape is (1,) instead of (2,)"


def test_a_note_is_told_of_what_passed_narrowly() -> None:
    note = Note(limit=0.1, text="TF32")
    loose = Tolerance(value=0.5, reason="r")
    told = [_check([value], [1.0], loose, note) for value in (1.0, 0.8, 0.2)]
    assert [found.note for found in run(told)] == [None, "TF32", None]


def test_bfloat16_is_rounded_as_mlx_rounds() -> None:
    array, values = normal(64, 64, dtype=mx.bfloat16)
    exact, _ = normal(64, 64, dtype=mx.float32)
    assert (np.array(exact.astype(mx.bfloat16).astype(mx.float32)) == values).all()
    assert (np.array(array.astype(mx.float32)) == values).all()
    assert len(np.unique(normal(40, 640, dtype=mx.float32)[1])) > 25_000


@pytest.mark.parametrize("how", packed.FORMATS, ids=packed.name)
def test_codes_are_read_as_mlx_reads_them(how: Quantization) -> None:
    matrix = packed.packed(how, 8, 256, dtype=mx.float32)
    ours = matrix.right(np.arange(8))
    table = mx.dequantize(
        matrix.weight, matrix.scales, matrix.biases, how.group_size, how.bits, mode=how.mode, dtype=mx.float32
    )
    assert np.abs(np.array(table) - ours).max() <= 1e-6 * np.abs(ours).max()


def test_codes_and_small_floats() -> None:
    assert codes(np.array([[0x87654321]], np.uint32), 4).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert e4m3(np.array([0x00, 0x01, 0x08, 0x38, 0xB8, 0x7E])).tolist() == [0, 2.0**-9, 2.0**-6, 1, -1, 448]
    word, scale = np.array([[0x0000_00F7]], np.uint32), np.array([[128]], np.uint8)
    assert decoded(word, scale, None, bits=4, group=8, mode="mxfp4")[0, :3].tolist() == [12, -12, 0]


def test_the_expected_logits_are_those_of_the_model_in_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails because the model was trained anew: `selftest.model.write_expected()`."""
    assert (DEMO_FOLDER / "model.safetensors").exists()
    found = outcome("model/demo")
    assert found.passed
    assert found.error is not None
    assert found.error < 2e-5
    logits = list(model.logits_of_demo(mx.float32))
    assert len(logits) == len(model.CHUNKS)
    assert sum(model.CHUNKS) == len(model.TOKENS) > 64
    assert np.ptp(np.array(logits[-1])) > 1
    monkeypatch.setattr(model, "EXPECTED", tmp_path / "expected.json")
    model.write_expected()
    assert outcome("model/demo").error == found.error


def test_sizes_of_models_are_right_too() -> None:
    """The cases that only a GPU is given, where the CPU can compute them in a moment."""
    large = {check.name: check for check in packed.checks(mx.float32, large=True)}
    for found in run([large["experts/affine-4-64"], large["experts/plain"]]):
        assert found.passed, found


def test_a_gpu_is_tested_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "compute_dtype", lambda: mx.bfloat16)
    monkeypatch.setattr(device, "backend", lambda: "metal")
    checks = {check.name: check for check in suite()}
    assert set(NAMES) < set(checks)
    assert checks["norm/rms"].allowed.value == pytest.approx(3 * 2.0**-8, rel=1e-2)
    assert "bfloat16" in checks["norm/rms"].allowed.reason
    note = checks["matmul/float32/model"].note
    assert note is not None
    assert "MLX_ENABLE_TF32" in note.text
    for found in run([checks[name] for name in ("norm/rms", "rope/full/far", "gate/gelu", "attention/256/decode")]):
        assert found.passed or found.name.startswith("attention"), found  # its longest is the GPU's alone


def test_float32_products_of_11_bits_are_noted() -> None:
    """As GPUs round their factors: to 10 bits behind the first."""
    precise, short = (
        [normal(*shape, dtype=mx.float32, seed=seed)[1] for seed, shape in ((1, (16, 2048)), (2, (640, 2048)))]
        for _ in range(2)
    )
    for values in short:
        mantissa, exponent = np.frexp(values)
        values[:] = np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)
    checks = {check.name: check for check in elements.checks(mx.bfloat16, large=True)}
    check = checks["matmul/float32/model"]
    pair = mx.array((short[0] @ short[1].T).astype(np.float32)), precise[0] @ precise[1].T
    (found,) = run([replace(check, cases=lambda: [pair])])
    assert found.passed
    assert found.note is not None


def test_capped_attention_and_caches_are_checked() -> None:
    names = {check.name for check in attending.checks(mx.float32, large=False)}
    assert {"attention/256/capped", "cache/growing", "cache/sliding"} <= names
    assert {check.name for check in drawing.checks(mx.float32)} >= {"order/top", "random/draws"}
