"""200 damaged checkpoints: a sentence each, no traceback, no hang, no memory above what the files take."""

from __future__ import annotations

import gc
import shutil
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from random import Random

import mlx.core as mx
import pytest

from gemma_mlx.errors import GemmaError
from gemma_mlx.gemma import load
from gemma_mlx.weights.header import read_header
from gemma_mlx.weights.load import materialize
from tests.damage import CASES, Case, write_bases
from tests.tiny import edit_config, edit_tensors

SECONDS = 2.0


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_bases(folder)
    for base in ("plain", "packed", "eyes"):  # imports and compiles what the first load does
        _open(folder / base)
    gc.collect()
    return folder


def _open(folder: Path) -> mx.array:
    """What a command does before it can answer: everything that reads a file."""
    gemma = load(folder)
    prompt = gemma.processor("Hello")
    materialize(gemma.model)
    return gemma.logits(prompt.tokens)


def _resident_bytes() -> int:
    """Most memory that this process ever had."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_there_are_200() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 200


@pytest.mark.parametrize("base", ["plain", "packed", "eyes"])
def test_the_good_ones_load(bases: Path, base: str) -> None:
    assert mx.isfinite(_open(bases / base)).all().item()


def test_a_control_token_without_a_row_is_no_damage(bases: Path, tmp_path: Path) -> None:
    """The text-only Gemma 3 are published so: <image_soft_token> is entry 262,144 of a table with as many rows."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(bases / "plain", folder)
    last = load(folder).processor.tokenizer
    assert last.vocab_size - 1 in last.control_tokens.values()
    edit_config(folder, vocab_size=last.vocab_size - 1)
    edit_tensors(
        folder,
        lambda arrays: arrays.update(
            {"model.embed_tokens.weight": arrays["model.embed_tokens.weight"][: last.vocab_size - 1]}
        ),
    )
    assert mx.isfinite(_open(folder)).all().item()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_damaged(case: Case, bases: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(bases / case.base, folder)
    case.damage(folder, Random(zlib.crc32(case.name.encode())))
    most = sum(path.stat().st_size for path in (bases / case.base).iterdir())
    gc.collect()
    mx.reset_peak_memory()
    before, resident = mx.get_active_memory(), _resident_bytes()
    traced = CASES.index(case) % 5 == 0  # which costs five times the time
    if traced:
        tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(GemmaError) as caught:
        _open(folder)
    seconds = time.perf_counter() - started
    taken = mx.get_peak_memory() - before + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = caught.value
    assert error.message.endswith((".", "!", "?")), error.message
    assert len(error.message) < 700, error.message
    assert error.message.isprintable(), "what is in a file must not reach the terminal raw"
    assert error.hint, f"no hint: {error.message}"
    assert seconds < SECONDS * (5 if traced else 1)
    assert taken < most, f"{taken:,} bytes were allocated for files of {most:,}"
    assert _resident_bytes() - resident < 16 << 20  # what no counter of ours sees


@pytest.mark.parametrize("number", range(12))
def test_a_bit_among_the_weights_cannot_be_seen(number: int, bases: Path, tmp_path: Path) -> None:
    """safetensors has no checksum: the model loads and answers a little wrong, and nothing crashes."""
    base = ("plain", "packed", "eyes")[number % 3]
    folder = tmp_path / "checkpoint"
    shutil.copytree(bases / base, folder)
    random = Random(number)
    for path in sorted(folder.glob("model*.safetensors")):
        content = bytearray(path.read_bytes())
        start = min(tensor.start for tensor in read_header(path).values())
        content[random.randrange(start, len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(content)
    assert _open(folder).shape[-1] > 0
