"""Whether there is memory: the order in which a prompt is made to fit, what is said, and what is refused."""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx import catalog, registry
from gemma_mlx.admission import Plan, Reading, Subject
from gemma_mlx.cache.quantized import GROUP
from gemma_mlx.errors import MemoryLimitError
from gemma_mlx.quantize.admission import ANSWER, CHUNKS, LEAST_ANSWER, Admission
from gemma_mlx.quantize.machine import kernels_here
from gemma_mlx.quantize.memory import Kernels, Use, estimate
from tests.tiny import tiny_config, write_tiny

METAL: Final = Kernels(backend="metal", generation=16)
CPU: Final = Kernels(backend="cpu", itemsize=4)
GB: Final = 10**9


def subject(name: str = "gemma3:27b", bits: float = 4.5) -> Subject:
    network = catalog.find(name).network
    assert network is not None
    match = registry.match(dict(network.config))
    weights = int(network.parameters.language * bits / 8)
    return Subject(name=name, model_type=match.model_type, spec=match.spec, weights=weights, itemsize=2)


def reading(tokens: int, **changes: Any) -> Reading:
    asked = Reading(tokens=tokens, answer=200, chunk=512, whole=False, kv_bits=None, held=0)
    return replace(asked, **changes)


def asked(limit: float | None, **changes: Any) -> tuple[Admission, list[str]]:
    told: list[str] = []
    more = {"kernels": METAL, "in_use": lambda: 0} | changes
    return Admission(None if limit is None else int(limit), tell=told.append, **more), told


def peak(model: Subject, **use: Any) -> int:
    return estimate(model.spec, model.weights, Use(**{"answer": 200} | use), replace(METAL, itemsize=2)).peak


def test_what_fits_is_left_as_it_is() -> None:
    admission, told = asked(100 * GB)
    plan = admission.read(subject(), reading(30_000))
    assert (plan.chunk, plan.kv_bits, plan.answer, plan.marks) == (512, None, 200, 1 << 30)
    assert told == []


def test_what_does_not_say_its_memory_lets_everything_in() -> None:
    admission, told = asked(None)
    admission.load(subject())
    assert admission.read(subject(), reading(30_000)) == Plan(chunk=512, kv_bits=None, answer=200)
    assert told == []


@pytest.mark.parametrize("chunk", CHUNKS)
def test_first_smaller_chunks(chunk: int) -> None:
    model = subject()
    admission, told = asked(peak(model, prompt=30_000, chunk=chunk))
    plan = admission.read(model, reading(30_000))
    assert (plan.chunk, plan.kv_bits, plan.answer, plan.least_marks) == (chunk, None, 200, 2)
    assert len(told) == 1
    assert f"prompts are read {chunk} tokens at a time instead of 512" in told[0]


def test_then_packed_keys_and_values_with_the_largest_chunk_that_fits() -> None:
    model = subject()
    least = peak(model, prompt=100_000, chunk=64)
    limit = peak(model, prompt=100_000, chunk=512, kv_bits=8)
    assert limit < least
    admission, told = asked(limit)
    plan = admission.read(model, reading(100_000))
    assert (plan.chunk, plan.kv_bits, plan.answer, plan.least_marks) == (512, 8, 200, 2)
    assert told == [f"To stay within {limit / 1e9:.2f} GB, keys and values are kept in 8 bits."]


def test_then_no_marks_and_then_a_shorter_answer() -> None:
    model = subject()
    limit = peak(model, prompt=20_000, chunk=64, kv_bits=8, marks=0, answer=7_000)
    admission, told = asked(limit)
    plan = admission.read(model, reading(20_000, answer=9_000))
    assert (plan.chunk, plan.kv_bits, plan.least_marks) == (64, 8, 0)
    assert plan.answer is not None
    assert 7_000 - 256 < plan.answer < 9_000  # caches grow in steps
    assert peak(model, prompt=20_000, chunk=64, kv_bits=8, marks=0, answer=plan.answer) <= limit
    assert peak(model, prompt=20_000, chunk=64, kv_bits=8, marks=0, answer=plan.answer + 256) > limit
    assert f"prompt and answer end at {20_000 + plan.answer:,} tokens of a context of 131,072" in told[0]
    assert "an earlier turn is read anew when it is changed" in told[0]


def test_at_last_a_refusal_in_one_sentence_with_numbers_and_a_model_that_fits() -> None:
    model = subject()
    needed = peak(model, prompt=20_000, chunk=64, kv_bits=8, marks=0, answer=LEAST_ANSWER)
    admission, told = asked(needed - 1)
    with pytest.raises(MemoryLimitError) as caught:
        admission.read(model, reading(20_000))
    assert caught.value.message == (
        f"These 20,000 tokens take {needed / 1e9:.2f} GB with gemma3:27b, even read 64 tokens at a time with keys and "
        f"values in 8 bits, and {(needed - 1) / 1e9:.2f} GB are there for it."
    )
    assert caught.value.hint is not None
    assert "gemma3:4b would take" in caught.value.hint
    assert "--force" in caught.value.hint
    assert told == []
    assert asked(needed)[0].read(model, reading(20_000)).answer is not None


def test_a_model_that_has_nothing_to_pack_skips_that() -> None:
    spec = registry.match(tiny_config("recurrent_gemma", head_dim=GROUP)).spec
    model = Subject(name="r", model_type="recurrent_gemma", spec=spec, weights=GB, itemsize=2)
    limit = estimate(spec, GB, Use(prompt=200, answer=10, chunk=64, marks=0), METAL).peak
    plan = asked(limit)[0].read(model, reading(200, answer=10))
    assert (plan.chunk, plan.kv_bits) == (64, None)


def test_a_prompt_read_at_once_is_counted_so_and_never_cut() -> None:
    """PaliGemma: the scores of a whole prompt are in memory together."""
    network = catalog.find("google/paligemma2-3b-pt-224").network
    assert network is not None
    spec = registry.match(dict(network.config)).spec
    model = Subject(name="paligemma2", model_type="paligemma", spec=spec, weights=GB, itemsize=2)
    whole = estimate(spec, GB, Use(prompt=4_000, answer=20, chunk=4_000), METAL).peak
    admission, _ = asked(whole)
    at_once = reading(4_000, answer=20, chunk=4_000, whole=True)
    assert admission.read(model, at_once).chunk == 4_000
    with pytest.raises(MemoryLimitError, match="even read at once"):
        asked(whole * 0.8)[0].read(model, at_once)


def test_without_a_length_an_answer_may_fill_what_is_left() -> None:
    model = subject()
    limit = peak(model, prompt=1_000, chunk=512, answer=ANSWER) + 2 * GB
    admission, told = asked(limit)
    plan = admission.read(model, reading(1_000, answer=None))
    assert (plan.chunk, plan.kv_bits) == (512, None)
    assert plan.answer is not None
    assert plan.answer > 10_000
    assert peak(model, prompt=1_000, chunk=512, answer=plan.answer) <= limit
    assert len(told) == 1
    admission.read(model, reading(1_500, answer=None))
    assert len(told) == 1  # it is said once
    assert asked(100 * GB)[0].read(model, reading(1_000, answer=None)).answer is None


def test_force_lets_in_and_says_so() -> None:
    model = subject()
    admission, told = asked(10 * GB, force=True)
    admission.load(model)
    assert admission.read(model, reading(30_000)) == Plan(chunk=512, kv_bits=None, answer=200)
    assert len(told) == 2
    assert all("--force" in sentence and "10.00 GB are there" in sentence for sentence in told)
    admission, told = asked(100 * GB, force=True)
    admission.load(model)
    admission.read(model, reading(30_000))
    assert told == []


def test_weights_that_do_not_fit_are_refused() -> None:
    admission, _ = asked(12 * GB)
    with pytest.raises(MemoryLimitError) as caught:
        admission.load(subject())
    assert "15.19 GB of it for weights, and 12.00 GB are there for it" in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("gemma3:4b would take")
    asked(16 * GB)[0].load(subject())


def test_the_hint_is_about_the_same_model_in_4_bits_where_that_helps() -> None:
    admission, _ = asked(12 * GB)
    with pytest.raises(MemoryLimitError) as caught:
        admission.load(subject("gemma3:12b", bits=16))
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("In 4 bits this model would take about 7")
    assert "gemma3:4b would take" in caught.value.hint


def test_what_else_is_in_memory_counts() -> None:
    model = subject()
    limit = peak(model, prompt=1_000, chunk=512)
    ours = model.weights + 10**8
    assert asked(limit, in_use=lambda: ours)[0].read(model, reading(1_000, held=10**8)).chunk == 512
    with pytest.raises(MemoryLimitError):
        asked(limit, in_use=lambda: ours + 3 * GB)[0].read(model, reading(1_000, held=10**8))


def test_copies_of_windows_get_what_is_left() -> None:
    model = subject("gemma4:31b")
    memory = estimate(model.spec, model.weights, Use(prompt=5_000, answer=200), replace(METAL, itemsize=2))
    plan = asked(memory.peak + 1_000)[0].read(model, reading(5_000))
    assert plan.marks == min(memory.marks + 1_000, 1 << 30)
    assert asked(memory.peak - memory.marks)[0].read(model, reading(5_000)).marks < memory.marks  # type: ignore[operator]


@pytest.mark.parametrize(("tokens", "limit"), [(1_000, 100), (30_000, 18), (120_000, 24), (120_000, 18)])
def test_it_takes_no_time(tokens: int, limit: int) -> None:
    model = subject()
    seconds = []
    for _ in range(3):
        admission, _ = asked(limit * GB)
        began = time.process_time()  # what others compute meanwhile is not counted
        with suppress(MemoryLimitError):
            admission.read(model, reading(tokens, answer=None))
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.25  # milliseconds where shapes are not checked


def test_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA_MEMORY_LIMIT", "3GB")
    here = Admission.here()
    assert here.limit_bytes == 3 * GB
    assert here.kernels == kernels_here()


def test_the_peak_of_an_answer_stays_within_the_limit(tmp_path: Path) -> None:
    """Each stage, computed for real: what MLX held at most is what was allowed, or less."""
    write_tiny(
        tmp_path, "gemma", dtype=mx.float32, head_dim=64, num_attention_heads=8, num_key_value_heads=4,
        num_hidden_layers=4, max_position_embeddings=4096, vocab_size=2_000,
    )  # fmt: skip
    prompt = [2 + index % 90 for index in range(900)]
    model = gemma_mlx.load(tmp_path, dtype=mx.float32)
    mx.eval(model.model.parameters())
    uses = [Use(prompt=900, answer=300, chunk=chunk, kv_bits=bits) for bits in (None, 8) for chunk in (512, 128, 64)]
    for use in uses:
        gc.collect()
        mx.clear_cache()
        others = mx.get_active_memory() - model.subject.weights
        limit = estimate(model.spec, model.subject.weights, use, CPU).peak
        model.memory = Admission(limit, CPU, in_use=lambda: 0)
        ids = model.generate(prompt, max_tokens=300)
        assert mx.get_peak_memory() - others <= limit
        assert len(ids) == 300


def test_fewer_texts_at_once_and_then_none() -> None:
    model = subject("embeddinggemma:300m", bits=16)
    assert asked(100 * GB)[0].encode(model, 32, 2048) == 32
    needed = {rows: peak(model, prompt=2048, batch=rows, answer=0) for rows in (32, 8, 1)}
    admission, told = asked(needed[8])
    assert admission.encode(model, 32, 2048) == 8
    assert told == [f"To stay within {needed[8] / 1e9:.2f} GB, 8 texts are read at once."]
    with pytest.raises(MemoryLimitError, match="A text of 2,048 tokens takes") as caught:
        asked(needed[1] - 1)[0].encode(model, 32, 2048)
    assert "--force" in (caught.value.hint or "")
    admission, told = asked(needed[1] - 1, force=True)
    assert admission.encode(model, 32, 2048) == 32
    assert "--force" in told[0]


def test_an_encoder_reads_at_once_and_the_answer_is_what_ends_earlier() -> None:
    model = subject("t5gemma:2b-2b-ul2-it", bits=16)
    at_once = replace(reading(4_000, answer=3_000), whole=True)
    limit = peak(model, prompt=4_000, answer=1_500, marks=0)
    admission, told = asked(limit)
    plan = admission.read(model, at_once)
    assert (plan.chunk, plan.kv_bits) == (512, None)
    if plan.answer != 3_000:
        assert "the answer ends at" in told[0]
    least = peak(model, prompt=4_000, answer=LEAST_ANSWER, marks=0)
    with pytest.raises(MemoryLimitError, match=r"4,000 tokens take .* even read at once"):
        asked(least - 1)[0].read(model, at_once)


def test_a_canvas_is_asked_for() -> None:
    model = subject("diffusiongemma:26b-a4b")
    needed = peak(model, prompt=100, answer=200)
    assert needed > peak(replace(model, spec=replace(model.spec, canvas=None)), prompt=100, answer=200)  # type: ignore[call-arg]
    assert asked(needed)[0].read(model, reading(100)).chunk == 512


def test_a_drafter_is_loaded_by_itself() -> None:
    model = subject("gemma4:e2b-assistant", bits=16)
    asked(2 * GB)[0].load(model)
    with pytest.raises(MemoryLimitError):
        asked(model.weights)[0].load(model)
