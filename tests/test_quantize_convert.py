"""Every format of every architecture: the bytes that were planned, and a model that loads here and in mlx-lm."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx_lm.models.cache import make_prompt_cache

import gemma_mlx
from gemma_mlx.errors import GemmaError, InputError
from gemma_mlx.quantize import convert as converting
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.formats import BITS_8
from gemma_mlx.quantize.pack import relative_error
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights import write as writing
from gemma_mlx.weights.load import inspect, load, named_parameters
from gemma_mlx.weights.quantized import FIXED
from gemma_mlx.weights.write import JOURNAL
from tests.test_quantize_plan import on_lattice, with_towers
from tests.tiny import KINDS, edit_config, edit_tensors, write_tiny

TOKENS = [2, 5, 77, 31, 9, 60, 8]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny checkpoint of every architecture, in bfloat16."""
    folder = tmp_path_factory.mktemp("sources")
    mx.random.seed(1)  # whichever test comes first
    for kind in KINDS:
        write_tiny(folder / kind, kind, hidden_size=128, intermediate_size=[128] * 3 if "3n" in kind else 128)
    return folder


def _named(asked: Any) -> str:
    return asked if isinstance(asked, str) else "-".join(map(str, asked.values())) or "gemma"


@pytest.mark.parametrize("kind", KINDS)
def test_8_bits_are_nearly_the_same(tmp_path: Path, sources: Path, kind: str) -> None:
    written = quantize(plan(sources / kind, recipe_name="uniform", bits=8, group_size=32), tmp_path / "made")
    before, after = gemma_mlx.load(sources / kind, mx.float32), gemma_mlx.load(written.folder, mx.float32)
    more = {"decoder_tokens": [2, 7, 9]} if kind.startswith("t5") else {}
    logits, made = before.logits(TOKENS, **more), after.logits(TOKENS, **more)
    # Of random experts, a few tokens choose others.
    assert mx.square(logits - made).mean().item() < 0.1**2 * mx.square(logits).mean().item()


# Kind -> changes under which mlx-lm computes as the reference does: it knows no window before Gemma 3 (so the prompt is
# shorter than one), and takes sizes from elsewhere than the files say.
PEER: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "gemma3": {},
    "gemma4_text": {
        "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    },
    "recurrent_gemma": {"head_dim": 16, "num_key_value_heads": 1, "partial_rotary_factor": 0.5},
    "gemma3n": {
        "num_hidden_layers": 5,
        "intermediate_size": [128, 64, 96, 64, 96],
        "activation_sparsity_pattern": [0.9, 0.0, 0.5, 0.0, 0.0],
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    },
}
# What it demands of a Gemma 3n's config.json beside.
PEER_3N = {"altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0, "rope_scaling": None}


def _peer_logits(folder: Path) -> mx.array:
    """With a cache: without one its layers that borrow keys and values compute some that nothing was trained with."""
    model, _ = mlx_lm.utils.load_model(folder)
    model.set_dtype(mx.float32)
    return model(mx.array([TOKENS]), cache=make_prompt_cache(model))


def _lend(arrays: dict[str, mx.array]) -> None:
    """Keys and values of the layers that borrow them, which published files hold and mlx-lm demands."""
    for name in [name for name in arrays if ".layers.2.self_attn." in name]:
        if name.split(".")[-2] in ("k_proj", "v_proj", "k_norm"):
            arrays |= {name.replace("layers.2", f"layers.{layer}"): arrays[name] for layer in (3, 4)}


PEER_FORMATS: list[dict[str, Any]] = [
    {},
    {"clip": True, "keep": ["up_proj=3/32", "o_proj=bf16"]},
    {"recipe_name": "uniform", "bits": 6, "group_size": 32},
    *({"recipe_name": "uniform", "mode": mode} for mode in FIXED),
]
# mlx-lm computes Gemma 1's GELU by an approximation; a Gemma 3n has four streams of everything to sum.
PEER_MOST = {"gemma": 3e-4, "gemma3n": 5e-6}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (kind, asked)
        for kind in PEER
        for asked in PEER_FORMATS
        # Embeddings out of MX codes are bfloat16 in mlx-lm, and a Gemma 3n's magnitudes are then summed in it: 2 %.
        if not (kind == "gemma3n" and "mode" in asked)
    ],
    ids=_named,
)
def test_mlx_lm_gives_the_same_logits(tmp_path: Path, kind: str, asked: dict[str, Any]) -> None:
    write_tiny(tmp_path / "source", kind, **PEER[kind])
    if kind == "gemma3":
        edit_config(tmp_path / "source", vocab_size=96)
    if kind == "gemma3n":
        text = json.loads((tmp_path / "source" / "config.json").read_text(encoding="utf-8"))["text_config"]
        edit_config(tmp_path / "source", text_config=text | PEER_3N)
        edit_tensors(tmp_path / "source", _lend)
    written = quantize(plan(tmp_path / "source", **asked), tmp_path / "made")
    ours = gemma_mlx.load(written.folder, mx.float32).logits(TOKENS)
    most = PEER_MOST.get(kind, 2e-6)
    assert mx.abs(_peer_logits(written.folder) - ours).max().item() < most * mx.abs(ours).max().item()


def test_mlx_lm_reads_a_gemma4_with_towers(tmp_path: Path) -> None:
    """As it is published: other wrappers, gate and up of all experts fused, towers beside it."""
    source = tmp_path / "source"
    write_tiny(source, "gemma4_text", **PEER["gemma4_text"])
    text = json.loads((source / "config.json").read_text())

    def publish(arrays: dict[str, mx.array]) -> None:
        for name in list(arrays):
            arrays[name.replace("model.", "model.language_model.", 1)] = arrays.pop(name)
        for name in [name for name in arrays if name.endswith(".switch_glu.gate_proj.weight")]:
            experts = name.removesuffix(".switch_glu.gate_proj.weight")
            pair = [arrays.pop(f"{experts}.switch_glu.{one}_proj.weight") for one in ("gate", "up")]
            arrays[f"{experts}.gate_up_proj"] = mx.concatenate(pair, axis=1)
            arrays[f"{experts}.down_proj"] = arrays.pop(f"{experts}.switch_glu.down_proj.weight")
        arrays["model.vision_tower.encoder.layers.0.mlp.up_proj.linear.weight"] = mx.ones((8, 64))

    edit_tensors(source, publish)
    (source / "config.json").write_text(json.dumps({"model_type": "gemma4", "vocab_size": 96, "text_config": text}))
    written = quantize(plan(source), tmp_path / "made")
    ours = gemma_mlx.load(written.folder, mx.float32).logits(TOKENS)
    assert mx.abs(_peer_logits(written.folder) - ours).max().item() < 2e-6 * mx.abs(ours).max().item()
    assert written.config["quantization"]["vision_tower.encoder.layers.0.mlp.up_proj.linear"]["bits"] == 8


def test_towers_come_along(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with_towers(source)
    before = mx.load(str(source / "model.safetensors"))
    written = quantize(plan(source), tmp_path / "made")
    made = mx.load(str(written.folder / "model.safetensors"))
    assert isinstance(before, dict)
    assert isinstance(made, dict)
    tower = "vision_tower.vision_model.encoder.layers.0.mlp"
    weight, scales, biases = (made[f"{tower}.fc1.{name}"] for name in ("weight", "scales", "biases"))
    dense = before[f"model.{tower}.fc1.weight"]
    assert relative_error(dense, [weight, scales, biases], BITS_8) < 0.01
    assert made[f"{tower}.fc1.bias"].dtype == mx.bfloat16
    assert {name.removesuffix(".weight") for name in made if "vision" in name and ".fc1." not in name} == {
        f"{tower}.fc2", "vision_tower.vision_model.embeddings.position_embedding",
    }  # fmt: skip


def test_the_same_as_mlx_lm_makes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, vocab_size=2048, torch_dtype="bfloat16")
    edit_config(source, torch_dtype="bfloat16")
    model, config = mlx_lm.utils.load_model(source)
    model, config = mlx_lm.utils.quantize_model(model, config, 64, 4)
    mlx_lm.utils.save_model(tmp_path / "peer", model)
    written = quantize(plan(source, recipe_name="uniform"), tmp_path / "made")
    theirs, ours = (mx.load(str(folder / "model.safetensors")) for folder in (tmp_path / "peer", written.folder))
    assert isinstance(theirs, dict)
    assert isinstance(ours, dict)
    assert theirs.keys() == ours.keys()
    assert all(mx.array_equal(array, ours[name]) for name, array in theirs.items())
    assert written.config["quantization"] == config["quantization"]


def test_weights_trained_for_4_bits_answer_as_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, vocab_size=512, hidden_size=256, intermediate_size=512)
    edit_tensors(source, on_lattice)
    before = gemma_mlx.load(source, mx.float32)
    exact = gemma_mlx.load(quantize(plan(source), tmp_path / "exact").folder, mx.float32)
    keep = ["embed_tokens=8"]
    plain = plan(source, recipe_name="uniform", bits=4, group_size=32, keep=keep)
    rounded = gemma_mlx.load(quantize(plain, tmp_path / "plain").folder, mx.float32)
    far: dict[str, float] = {"exact": 0.0, "plain": 0.0}
    for seed in range(8):
        tokens = mx.random.randint(0, 512, (16,), key=mx.random.key(seed)).tolist()
        logits = before.logits(tokens)
        for name, made in (("exact", exact), ("plain", rounded)):
            far[name] += mx.square(made.logits(tokens) - logits).mean().item()
        assert mx.array_equal(exact.logits(tokens)[0, -1].argmax(), logits[0, -1].argmax())
    assert far["exact"] < far["plain"] / 10


def test_float32_is_written_in_16_bits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, "gemma3", dtype=mx.float32)
    config = json.loads((source / "config.json").read_text())
    edit_config(source, text_config=config["text_config"] | {"torch_dtype": "float32"}, torch_dtype="float32")
    written = quantize(plan(source), tmp_path / "made")
    assert {tensor.dtype for tensor in written.tensors.values()} == {"BF16", "U32"}
    assert (written.config["dtype"], written.config["text_config"]["torch_dtype"]) == ("bfloat16", "bfloat16")
    assert "torch_dtype" not in written.config


def test_parts_of_tensors_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    write_tiny(source, "gemma4_text")
    whole = quantize(plan(source, clip=True), tmp_path / "whole")
    monkeypatch.setattr(converting, "PART_BYTES", 1000)
    parts = quantize(plan(source, clip=True), tmp_path / "parts")
    assert _content(whole.folder) == _content(parts.folder)


def test_several_files_and_what_stands_beside_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source, "gemma2", shard_bytes=60_000)
    along = ("tokenizer.json", "chat_template.jinja", "generation_config.json", "preprocessor_config.json")
    for name in (*along, "README.md"):
        (source / name).write_text(name)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    written = quantize(plan(source), tmp_path / "new" / "made", shard_bytes=30_000)
    names = {path.name for path in written.folder.iterdir()}
    files = {name for name in names if name.endswith(".safetensors")}
    assert len(files) > 2
    assert names - files == {"config.json", "model.safetensors.index.json", "1_Pooling", *along}
    assert (written.folder / "1_Pooling" / "config.json").read_text() == "{}"
    named_parameters(load(written.folder).model)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_CHILD = """
import sys
from pathlib import Path
from gemma_mlx.quantize.convert import quantize
from gemma_mlx.quantize.plan import plan
from gemma_mlx.weights import write
write.KEPT_BYTES = 4000
def tell(what, done, total):
    print(done, flush=True)
    sys.stdin.readline()
quantize(plan(Path(sys.argv[1]), clip=True), Path(sys.argv[2]), on_progress=tell, shard_bytes=40_000)
"""
KILLS = 10


def test_killed_at_any_moment_it_goes_on_and_comes_out_the_same(tmp_path: Path) -> None:
    """Somewhere in the work that follows one of ten tensors; KILL_SEED repeats what a run has printed."""
    seed = int(os.environ.get("KILL_SEED") or random.SystemRandom().randrange(10**6))
    print(f"KILL_SEED={seed}")
    draw = random.Random(seed)
    source, target = tmp_path / "source", tmp_path / "made"
    write_tiny(source, "gemma3_text", num_hidden_layers=6)
    before = _content(source)
    steps: list[int] = []
    made = plan(source, clip=True)
    whole = quantize(made, tmp_path / "whole", shard_bytes=40_000, on_progress=lambda _, done, __: steps.append(done))
    begun: list[int] = []
    for moment in sorted(draw.sample(steps[:-2], KILLS)):
        begun.append(_killed(source, target, moment, draw.uniform(0, 0.004)))
        assert not target.exists()
        with pytest.raises(GemmaError):
            inspect(tmp_path / ".made.partial")
    begun.append(_killed(source, target, None, 0))
    assert begun == sorted(begun)
    assert begun[0] == 0 < begun[-1]  # it went on, and not from the beginning
    assert len(set(begun)) > KILLS // 2
    assert _content(target) == _content(whole.folder)
    assert _content(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source", "whole"]


def _killed(source: Path, target: Path, moment: int | None, seconds: float) -> int:
    """Where a run began, in bytes; it is killed so many seconds after it had done `moment` bytes, if at all."""
    command = [sys.executable, "-c", _CHILD, str(source), str(target)]
    begun = None
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        for line in child.stdout:
            begun = int(line) if begun is None else begun
            child.stdin.write("\n")
            child.stdin.flush()
            if moment is not None and int(line) >= moment:
                time.sleep(seconds)
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == (0 if moment is None else -signal.SIGKILL)
    assert begun is not None
    return begun


def _stop_half_way(_: str, done: int, total: int) -> None:
    if done > total // 2:
        raise KeyboardInterrupt


def test_another_plan_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "made"
    write_tiny(source)
    monkeypatch.setattr(writing, "KEPT_BYTES", 1)
    with pytest.raises(KeyboardInterrupt):
        quantize(plan(source), target, on_progress=_stop_half_way)
    journal = json.loads((tmp_path / ".made.partial" / JOURNAL).read_text())
    assert journal["done"] > 0
    told: list[int] = []
    written = quantize(plan(source, bits=6), target, on_progress=lambda _, done, __: told.append(done))
    assert told[0] == 0
    assert {how.bits for how in written.quantization.values() if how} == {6, 8}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "source"]


def test_a_full_disk_leaves_the_source_and_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "made"
    write_tiny(source)
    before = _content(source)
    monkeypatch.setattr(writing, "KEPT_BYTES", 1)
    calls = iter(range(1000))
    honest = os.pwrite

    def full(*arguments: Any) -> int:
        if next(calls) > 20:
            raise OSError(28, "No space left on device")
        return honest(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(InputError, match="could not be written: No space left on device") as caught:
            quantize(plan(source), target)
    assert "Run the same command to go on" in str(caught.value.hint)
    assert not target.exists()
    told: list[int] = []
    quantize(plan(source), target, on_progress=lambda _, done, __: told.append(done))
    assert told[0] > 0
    assert _content(source) == before
    whole = quantize(plan(source), tmp_path / "whole")
    assert _content(target) == _content(whole.folder)


def test_room_is_looked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "source")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with pytest.raises(InputError, match="needs 0.1 GB of disk, and .* has 0.0 GB left"):
        quantize(plan(tmp_path / "source"), tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_tiny(source)
    before = _content(source)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for target, says in ((source, "exists already"), (tmp_path / "link", "exists already"), (source / "4", "lies in")):
        with pytest.raises(InputError, match=says):
            quantize(plan(source), target)
    assert _content(source) == before


def test_two_do_not_write_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "made"
    write_tiny(source)

    def another(_: str, done: int, __: int) -> None:
        if done == 0:
            with pytest.raises(InputError, match="Another process is writing"):
                quantize(plan(source), target)

    began = time.perf_counter()
    quantize(plan(source), target, on_progress=another)
    assert time.perf_counter() - began < 30
