"""Who is asked before memory is taken, when, and what becomes of the answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import gemma_mlx
from gemma_mlx.admission import Plan, Reading, Subject
from gemma_mlx.cache.quantized import QuantizedCache
from gemma_mlx.errors import MemoryLimitError
from gemma_mlx.generate.events import Done, Prefill
from gemma_mlx.quantize.admission import Admission
from gemma_mlx.quantize.memory import Kernels, Use, estimate
from gemma_mlx.weights import hub
from tests.goldens.text import assets
from tests.tiny import write_tiny, write_tiny_embedder


class Doorman:
    """Remembers what it is asked, and says what it is told to."""

    def __init__(self, **plan: Any) -> None:
        self.plan = plan
        self.rows = 32
        self.encoded: list[tuple[int, int]] = []
        self.loaded: list[Subject] = []
        self.read_: list[Reading] = []

    def load(self, subject: Subject) -> None:
        """As `Admission` has it."""
        self.loaded.append(subject)

    def read(self, subject: Subject, reading: Reading) -> Plan:
        """As `Admission` has it."""
        self.read_.append(reading)
        return Plan(**{"chunk": reading.chunk, "kv_bits": reading.kv_bits, "answer": reading.answer} | self.plan)

    def encode(self, subject: Subject, rows: int, tokens: int) -> int:
        """As `Admission` has it."""
        self.encoded.append((rows, tokens))
        return min(rows, self.rows)


class Closed(Doorman):
    """Lets nothing in."""

    def load(self, subject: Subject) -> None:
        """As `Admission` has it."""
        raise MemoryLimitError(f"{subject.name} is too large.")


def test_a_load_is_asked_before_anything_but_headers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path)
    doorman = Doorman()
    gemma = gemma_mlx.load(tmp_path, dtype=mx.float32, memory=doorman)
    (asked,) = doorman.loaded
    assert asked == gemma.subject
    assert asked.weights == gemma.checkpoint.memory_bytes(mx.float32) > 0
    monkeypatch.setattr(mx, "load", lambda *_: pytest.fail("weights were opened"))
    with pytest.raises(MemoryLimitError, match="too large"):
        gemma_mlx.load(tmp_path, memory=Closed())


def test_a_prompt_is_asked_once_and_read_as_planned(tmp_path: Path) -> None:
    write_tiny(tmp_path, head_dim=64)
    doorman = Doorman(chunk=7, kv_bits=8, answer=3)
    gemma = gemma_mlx.load(tmp_path, memory=doorman)
    cache = gemma.make_cache()
    prompt = [2 + index for index in range(20)]
    events = list(gemma.answer(cache, prompt, gemma.settings(max_tokens=9, chunk=16)))
    assert doorman.read_ == [Reading(tokens=20, answer=9, chunk=16, whole=False, kv_bits=None, held=0, cut=False)]
    assert [event.done for event in events if isinstance(event, Prefill)] == [0, 7, 14, 20]
    assert isinstance(events[-1], Done)
    assert len(events[-1].tokens) == 3
    assert any(isinstance(layer, QuantizedCache) for layer in cache.cache.layers)
    list(gemma.answer(cache, [*prompt, 5], gemma.settings()))
    assert doorman.read_[1].kv_bits == 8
    assert doorman.read_[1].held == cache.nbytes or doorman.read_[1].held > 0
    assert doorman.read_[1].answer is None  # only the context ends it


def test_marks_are_limited(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    gemma = gemma_mlx.load(tmp_path, memory=Doorman(marks=0, least_marks=0))
    cache = gemma.make_cache()
    prompt = [2 + index for index in range(20)]
    list(gemma.answer(cache, prompt, gemma.settings(max_tokens=2), boundaries=(5, 10)))
    assert cache.nbytes == cache.cache.nbytes
    gemma.memory = None
    list(gemma.answer(cache, [*prompt[:15], 7], gemma.settings(max_tokens=2)))  # nothing to return to is no harm
    assert cache.tokens[:16] == [*prompt[:15], 7]


def test_a_prompt_that_sees_both_ways_is_asked_for_as_a_whole() -> None:
    golden = Path(__file__).parent / "goldens" / "paligemma2"
    doorman = Doorman()
    gemma = gemma_mlx.load(golden, memory=doorman)
    list(gemma.answer(gemma.make_cache(), list(range(3, 20)), gemma.settings(max_tokens=2, chunk=4)))
    (asked,) = doorman.read_
    assert (asked.chunk, asked.whole) == (17, True)


def test_a_conversation_grows_until_there_is_no_memory_and_is_kept() -> None:
    gemma = gemma_mlx.load(hub.DEMO_FOLDER, dtype=mx.float32)
    mx.eval(gemma.model.parameters())
    told: list[str] = []
    kernels = Kernels(backend="cpu", itemsize=4)
    others = mx.get_active_memory() - gemma.subject.weights
    use = Use(prompt=700, answer=20, chunk=64, kv_bits=8, marks=0)
    limit = estimate(gemma.spec, gemma.subject.weights, use, kernels).peak
    gemma.memory = Admission(limit, kernels, tell=told.append, in_use=lambda: mx.get_active_memory() - others)
    session = gemma.session(temperature=0, max_tokens=20)
    peaks, refused = [], None
    for turn in range(40):
        try:
            events = list(session.send(f"Turn {turn}. " + "What is a window and what is a door? " * 3))
        except MemoryLimitError as error:
            refused = error
            break
        peaks.append(mx.get_peak_memory() - others)
        assert isinstance(events[-1], Done)
    assert refused is not None
    assert turn > 3
    assert max(peaks) <= limit
    assert "tokens take" in refused.message
    assert "/clear" in str(refused.hint)
    assert len(session.messages) == 2 * turn  # the message that was refused is not among them
    assert any("8 bits" in sentence for sentence in told)
    assert len(told) == len(set(told))
    gemma.memory = replace(gemma.memory, limit_bytes=limit * 2)  # the conversation goes on where there is memory
    assert isinstance(list(session.send("Go on."))[-1], Done)
    assert session.messages[-2].content == "Go on."


def test_a_packed_conversation_is_saved_and_restored(tmp_path: Path) -> None:
    gemma = gemma_mlx.load(hub.DEMO_FOLDER)
    packed, plain = gemma.session(kv_bits=8, temperature=0, max_tokens=8), gemma.session(temperature=0, max_tokens=8)
    for session in (packed, plain):
        list(session.send("Hello!"))
        session.save(tmp_path / f"{session is packed}")
    for saved, bits in ((True, 8), (False, None)):
        for kv_bits in (8, None):
            session = gemma.session(kv_bits=kv_bits, temperature=0, max_tokens=8)
            session.restore(tmp_path / f"{saved}")
            assert session._cache.cache.kv_bits == (bits or kv_bits)
            done = list(session.send("And you?"))[-1]
            assert isinstance(done, Done)
            assert done.stats.reused_tokens > 0
    fours = gemma.make_cache(kv_bits=4)
    with pytest.raises(gemma_mlx.errors.CacheError, match="8 bits, and this cache has 4"):
        fours.restore(tmp_path / "True", gemma.fingerprint)
    packed.clear()
    assert packed._cache.cache.kv_bits == 8


def test_an_encoder_is_asked_for_the_whole_prompt() -> None:
    doorman = Doorman(answer=2)
    gemma = gemma_mlx.load(Path(__file__).parent / "goldens" / "t5gemma", memory=doorman)
    events = list(gemma.answer(gemma.make_cache(), list(range(3, 12)), gemma.settings(max_tokens=9)))
    (asked,) = doorman.read_
    assert (asked.tokens, asked.whole, asked.answer) == (9, True, 9)
    assert isinstance(events[-1], Done)
    assert len(events[-1].tokens) == 2


def test_a_canvas_is_asked_before_it_fills() -> None:
    doorman = Doorman()
    gemma = gemma_mlx.load(Path(__file__).parent / "goldens" / "diffusion_gemma", memory=doorman)
    list(gemma.answer(gemma.make_cache(), list(range(3, 12)), gemma.settings(max_tokens=3, steps=1)))
    assert [asked.tokens for asked in doorman.read_] == [9]


def test_texts_are_asked_for_batch_by_batch(tmp_path: Path) -> None:
    write_tiny_embedder(tmp_path, vocab=4202, tokenizer=assets.small("gemma3"))
    doorman = Doorman()
    doorman.rows = 2
    gemma = gemma_mlx.load(tmp_path, mx.float32, memory=doorman)
    found = gemma.embed(["one", "two", "three", "four", "five"])
    assert found.shape[0] == 5
    assert [rows for rows, _ in doorman.encoded] == [5, 3, 1]
    doorman.rows = 32
    assert mx.allclose(found, gemma.embed(["one", "two", "three", "four", "five"]), atol=1e-5)
