"""Calibration: layers one by one, what maps read, the methods, and a run that is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.errors import InputError, MemoryLimitError, UnsupportedModelError
from gemma_mlx.quantize.calibrate import run
from gemma_mlx.quantize.calibrate.awq import fold
from gemma_mlx.quantize.calibrate.bench import Bench, unpacked, weighted
from gemma_mlx.quantize.calibrate.gptq import gptq
from gemma_mlx.quantize.calibrate.gram import MOST_COLUMNS, Gram, chosen_rows, spans
from gemma_mlx.quantize.calibrate.memory import check_memory, memory_bytes
from gemma_mlx.quantize.calibrate.reading import windows
from gemma_mlx.quantize.calibrate.run import Calibration, calibrate
from gemma_mlx.quantize.calibrate.stage import Stage
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.formats import BITS_4, BITS_8
from gemma_mlx.quantize.pack import CALIBRATED, pack
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights.hub import resolve
from tests.benchmarks.calibrating import dialogues, divergence
from tests.test_quantize_traffic import PER_LAYER
from tests.test_structure import ROOT
from tests.tiny import DECODERS, write_tiny

CASES: Final = [*((kind, {}) for kind in DECODERS), ("gemma4_text", PER_LAYER)]
NAMES: Final = [*DECODERS, "gemma4_text with per-layer embeddings"]


def tokens(count: int = 4, length: int = 24, seed: int = 0) -> list[tuple[int, ...]]:
    """Windows of ids that every tiny model has."""
    draw = [mx.random.randint(3, 90, (length - 1,), key=mx.random.key(seed + index)) for index in range(count)]
    return [(2, *map(int, some.tolist())) for some in draw]  # type: ignore[union-attr,arg-type]


def correlated(rows: int, columns: int, seed: int = 0) -> mx.array:
    """Inputs whose columns are alike, and of unequal size."""
    keys = mx.random.split(mx.random.key(seed), 3)
    mixed = mx.random.normal((rows, columns // 4), key=keys[0]) @ mx.random.normal((columns // 4, columns), key=keys[1])
    return (mixed + mx.random.normal((rows, columns), key=keys[2])) * mx.linspace(0.1, 2.0, columns)


def gram_of(x: mx.array) -> Gram:
    """Of these inputs."""
    gram = Gram.empty(x.shape[1])
    gram.add(x)
    return gram


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=NAMES)
def test_layers_one_by_one_are_the_whole(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    write_tiny(tmp_path, kind, **changes)
    gemma, ids = gemma_mlx.load(tmp_path, mx.float32), mx.array(tokens())
    whole = gemma.logits(ids)
    model = gemma.decoder
    stage, lent, x = Stage(model), {}, None
    embedded = stage.embed(ids)
    last: list[mx.array] = []

    def listened(final: mx.array) -> mx.array:
        last.append(final)
        return final

    norm, model.model.norm = model.model.norm, listened
    for index in range(len(stage)):
        played = stage.play(index, embedded, x, lent)
        x = played.out
        if played.lent is not None:
            lent[index] = played.lent
    # What follows the layers in the last pass is what the architecture makes of the last one's output.
    assert mx.allclose(model.logits(norm(last[-1])), whole, rtol=1e-4, atol=1e-5)


def test_parts_of_wide_inputs_begin_with_groups() -> None:
    assert spans(MOST_COLUMNS) == [(0, MOST_COLUMNS)]
    for columns in (96, 6912, 15_360, 21_504):
        found = spans(columns)
        assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
        assert found[-1][1] == columns
        assert all(not start % 128 and stop - start <= MOST_COLUMNS for start, stop in found)


def test_the_error_of_outputs_is_known_without_the_inputs() -> None:
    x, change = correlated(100, 64), mx.random.normal((8, 64), key=mx.random.key(1))
    assert gram_of(x).error(change).item() == pytest.approx(mx.square(x @ change.T).sum().item(), rel=1e-4)


def test_experts_have_the_rows_that_were_sent_to_them() -> None:
    x = mx.arange(12.0).reshape(3, 1, 4)
    found = chosen_rows(x, mx.array([2, 0, 2]), range(1, 3))
    assert {expert: rows.tolist() for expert, rows in found.items()} == {2: [[0, 1, 2, 3], [8, 9, 10, 11]]}
    shared = chosen_rows(x[:, None], mx.array([[2, 1], [0, 2], [0, 1]]), range(1, 2))
    assert shared[1].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_rounding_in_order_makes_up_for_errors() -> None:
    weight, gram = mx.random.normal((48, 256), key=mx.random.key(2)), gram_of(correlated(1000, 256))
    nearest, counted, ordered = (
        gram.error(unpacked(packed, BITS_4) - weight).item()
        for packed in (
            pack(weight, BITS_4, "clip"),
            weighted(weight, gram, BITS_4, mx.bfloat16),
            gptq(weight, gram, BITS_4, mx.bfloat16),
        )
    )
    assert counted < nearest
    assert ordered < 0.5 * counted  # type: ignore[operator]


def test_rounding_in_order_is_rounding_where_nothing_is_alike() -> None:
    weight = mx.random.normal((16, 128), key=mx.random.key(3)).astype(mx.bfloat16)
    gram = Gram([1000 * mx.eye(128)], 1000)
    for how in (BITS_4, BITS_8):
        ordered = gptq(weight.astype(mx.float32), gram, how, mx.bfloat16)
        assert all(mx.array_equal(*pair) for pair in zip(ordered, pack(weight, how, "clip"), strict=True))


def test_what_was_never_read_does_no_harm() -> None:
    x = correlated(500, 128) * mx.where(mx.arange(128) < 64, 1.0, 0.0)
    weight = mx.random.normal((16, 128), key=mx.random.key(4))
    packed = gptq(weight, gram_of(x), BITS_4, mx.bfloat16)
    assert mx.abs(unpacked(packed, BITS_4) - weight)[:, 64:].max().item() < 1  # type: ignore[operator]


FOLDED: Final = {
    "gemma": {"input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"},
    "gemma3_text": {"input_layernorm", "self_attn.v_proj", "pre_feedforward_layernorm", "mlp.up_proj"},
    "gemma3n_text": {"altup.router_norm", "pre_feedforward_layernorm", "mlp.up_proj"},
    "gemma4_text": {
        "input_layernorm", "pre_feedforward_layernorm", "mlp.up_proj", "pre_feedforward_layernorm_2", "experts.up_proj",
    },
    "recurrent_gemma": {"temporal_pre_norm", "temporal_block.v_proj", "channel_pre_norm", "mlp_block.up_proj"},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=NAMES)
def test_a_fold_changes_nothing(
    kind: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny(tmp_path / "source", kind, **changes)
    folded: set[str] = set()

    def fold_alone(bench: Bench) -> None:
        before = bench.play(0).out
        mx.eval(before)
        weights = {path: module.weight for path, module in bench.maps().items()}
        folded.update(fold(bench))
        assert any(module.weight is not weights[path] for path, module in bench.maps().items())
        assert mx.abs(bench.play(0).out - before).max().item() < 1e-5 * mx.abs(before).max().item()  # type: ignore[operator]

    monkeypatch.setattr(run, "METHODS", {"awq": (fold_alone, int)})
    calibrate(plan(tmp_path / "source", method="awq"), tokens(), tmp_path / "store")
    assert folded
    if not changes and kind in FOLDED:
        assert folded <= FOLDED[kind]
        assert "pre_feedforward_layernorm" in folded or "pre_feedforward_layernorm" not in FOLDED[kind]


@pytest.mark.parametrize("method", CALIBRATED)
@pytest.mark.parametrize(("kind", "changes"), CASES, ids=NAMES)
def test_every_decoder_by_every_method(kind: str, changes: dict[str, Any], method: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, kind, **changes)
    made = plan(source, method=method, keep=["q_proj=3/32", "o_proj=bf16"])
    written = quantize(made, tmp_path / "made", calibration=Calibration(made, tokens(3)))
    assert written.nbytes == made.nbytes == plan(source, keep=["q_proj=3/32", "o_proj=bf16"]).nbytes
    gemma = gemma_mlx.load(written.folder, mx.float32)
    assert len(gemma.generate([2, 5, 7], max_tokens=1)) == 1
    before, after = gemma_mlx.load(source, mx.float32).logits(tokens(1, seed=9)), gemma.logits(tokens(1, seed=9))
    assert mx.abs(after - before).mean().item() < mx.abs(before).mean().item()  # type: ignore[operator]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]


def test_the_model_in_the_box_loses_less(tmp_path: Path) -> None:
    source = resolve("demo")
    teacher = gemma_mlx.load(source, mx.float32)
    text, judged = dialogues(teacher, 1, 8, 128), dialogues(teacher, 77, 6, 128)
    lost = {}
    for method in (None, "gptq"):  # the others take longer: tests/benchmarks/calibrating.py
        made = plan(source, recipe_name="uniform", clip=True, method=method)
        calibration = Calibration(made, text) if method else None
        written = quantize(made, tmp_path / str(method), calibration=calibration)
        lost[method] = written.nbytes, divergence(teacher, written.folder, judged)
    assert lost["gptq"][0] == lost[None][0]
    assert lost["gptq"][1] < 0.85 * lost[None][1], lost


class _StoppedError(Exception):
    """In the place of whatever ends a process."""


def _stop_at(steps: int) -> Callable[[str, int, int], None]:
    def tell(_: str, done: int, __: int) -> None:
        if done >= steps:
            raise _StoppedError

    return tell


@pytest.mark.parametrize(("kind", "method"), [("gemma3n_text", "gptq"), ("gemma2", "awq"), ("gemma3n_text", "dwq")])
def test_stopped_in_any_layer_it_comes_out_the_same(kind: str, method: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, kind)
    made = plan(source, method=method)
    whole = quantize(made, tmp_path / "whole", calibration=Calibration(made, tokens()))
    seen: list[int] = []
    for steps in (0, 500, 1000, 1700, 2500):
        calibration = Calibration(made, tokens())
        calibration.on_layer = _stop_at(steps)
        with pytest.raises(_StoppedError):
            quantize(made, tmp_path / "made", calibration=calibration)
    calibration = Calibration(made, tokens())
    calibration.on_layer = lambda _, done, __: seen.append(done)
    quantize(made, tmp_path / "made", calibration=calibration)
    assert seen[0] == 2000  # two layers were finished, and not packed again
    assert _content(tmp_path / "made") == _content(whole.folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source", "whole"]


def test_another_text_begins_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source)
    made = plan(source, method="gptq")
    calibration = Calibration(made, tokens())
    calibration.on_layer = _stop_at(1500)
    with pytest.raises(_StoppedError):
        quantize(made, tmp_path / "made", calibration=calibration)
    calibration = Calibration(made, tokens(seed=50))
    seen: list[int] = []
    calibration.on_layer = lambda _, done, __: seen.append(done)
    quantize(made, tmp_path / "made", calibration=calibration)
    assert seen[0] == 0


_CHILD = """
import sys, time
from pathlib import Path
from gemma_mlx.quantize.calibrate.run import Calibration
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from tests.test_quantize_calibrate import tokens
made = plan(Path(sys.argv[1]), method="gptq")
calibration = Calibration(made, tokens())
calibration.on_layer = lambda what, done, total: print(done, flush=True)
quantize(made, Path(sys.argv[2]), calibration=calibration)
"""


def test_killed_it_goes_on(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "made"
    write_tiny(source, num_hidden_layers=4)
    made = plan(source, method="gptq")
    whole = quantize(made, tmp_path / "whole", calibration=Calibration(made, tokens()))
    begun = []
    for lines in (12, 0):
        command = [sys.executable, "-c", _CHILD, str(source), str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
            assert child.stdout is not None
            told = [child.stdout.readline() for _ in range(lines)] if lines else child.stdout.readlines()
            begun.append(int(told[0]))
            if lines:
                child.send_signal(signal.SIGKILL)
    assert begun[1] > begun[0]
    assert _content(target) == _content(whole.folder)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_experts_that_hardly_anything_reaches_are_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, "gemma4_text", num_experts=8)
    made = plan(source, method="gptq")
    calibration, told = Calibration(made, tokens(2, 16)), list[str]()
    calibration.tell = told.append
    quantize(made, tmp_path / "made", calibration=calibration)
    assert calibration.blind
    (sentence,) = told
    assert sentence.startswith(f"{calibration.blind} of 72 matrices of experts were reached by fewer than 32 tokens")


def test_the_estimate_of_memory_is_not_exceeded(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, "gemma2", num_hidden_layers=1, hidden_size=256, intermediate_size=1024)
    text = tokens(4, 128)
    for method in CALIBRATED:
        made = plan(source, method=method)
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        calibrate(made, text, tmp_path / method)
        held, estimated = mx.get_peak_memory() - before, memory_bytes(made, text)
        assert estimated / 3 < held <= estimated, method


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    made = plan(tmp_path, method="dwq")
    check_memory(made, tokens(), None)
    check_memory(made, tokens(), memory_bytes(made, tokens()))
    with pytest.raises(MemoryLimitError, match=r"Calibrating takes 0\.\d\d GB, and 0\.00 GB are there"):
        check_memory(made, tokens(), 1000)


def test_only_layers_of_decoders_are_calibrated(tmp_path: Path) -> None:
    write_tiny(tmp_path / "source")
    write_tiny(tmp_path / "both", "t5gemma")
    for asked, says in (
        ({"method": "gtpq"}, "'gtpq' is no method; there are gptq, awq, dwq"),
        ({"method": "gptq", "mode": "mxfp4"}, "affine codes, and this plan has mxfp4"),
        ({"method": "gptq", "recipe_name": "bf16"}, "affine codes, and this plan has none"),
    ):
        with pytest.raises(InputError, match=says):
            plan(tmp_path / "source", **asked)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="a t5gemma is none"):
        plan(tmp_path / "both", method="gptq")
    made = plan(tmp_path / "source", method="awq")
    assert {one.method for one in made.decisions if one.how and ".layers." not in one.module} == {"clip"}
    with pytest.raises(InputError, match="was given no calibration"):
        quantize(made, tmp_path / "made")
    with pytest.raises(InputError, match="no text"):
        Calibration(made, [])


def test_text_is_read_in_windows_of_one_length(tmp_path: Path) -> None:
    source, file = resolve("demo"), tmp_path / "mine.txt"
    bos = windows(source)[0][0]
    own = windows(source, length=100, most=7)
    assert len(own) == 7
    assert {(len(window), window[0]) for window in own} == {(100, bos)}
    file.write_text("A sentence that I wrote. " * 40, encoding="utf-8")
    assert len(windows(source, file)) == 1
    file.write_text("Too short.", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds \d+ tokens, and calibration needs 64"):
        windows(source, file)
    with pytest.raises(InputError, match="cannot be read"):
        windows(source, tmp_path / "nothing")
