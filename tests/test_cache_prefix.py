"""Going back to any turn without reading it again, before and after the window has moved on; saving and restoring."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx import registry
from gemma_mlx.cache import sliding
from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.errors import CacheError
from gemma_mlx.generate.events import Done, Prefill
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.weights.load import load

GOLDENS = Path(__file__).parent / "goldens"
STEP, ROLLBACK = 24, 6


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that move after a few tokens, so that short conversations leave them behind."""
    monkeypatch.setattr(sliding, "STEP", STEP)
    monkeypatch.setattr(sliding, "ROLLBACK", ROLLBACK)


@pytest.fixture(scope="module", params=["gemma", "gemma2", "gemma3_text", "recurrent_gemma"])
def model(request: pytest.FixtureRequest) -> Decoder:
    """No window, windows and caps, windows and QK norm, states."""
    return load(GOLDENS / request.param, dtype=mx.float32).model


def answer(model: Decoder, cache: PromptCache, prompt: list[int], tokens: int, *boundaries: int) -> Done:
    options = Options(temperature=0, max_tokens=tokens, chunk=7)
    *progress, done = generate(model, cache, prompt, options, boundaries=boundaries)
    assert isinstance(done, Done)
    assert [event for event in progress if isinstance(event, Prefill)][-1].done == len(prompt)
    assert cache.tokens == [*prompt, *done.tokens][: cache.cache.offset]
    return done


def fresh(model: Decoder, prompt: list[int], tokens: int) -> tuple[int, ...]:
    return answer(model, PromptCache(model.make_cache()), prompt, tokens).tokens


PROMPT = [2, *range(10, 38)]


@pytest.mark.parametrize("reply", [3, 40, 2 * STEP], ids=["short", "past the window", "past the buffer"])
def test_a_second_turn_reads_only_what_is_new(model: Decoder, reply: int) -> None:
    cache = PromptCache(model.make_cache())
    first = answer(model, cache, PROMPT, reply)
    second = [*PROMPT, *first.tokens, 50, 51, 52]
    done = answer(model, cache, second, 5)
    # The last sampled token was never fed back: it is as new as the three that follow it.
    assert done.stats.prefilled_tokens == 1 + 3
    assert done.tokens == fresh(model, second, 5)


@pytest.mark.parametrize("reply", [3, 40, 2 * STEP], ids=["short", "past the window", "past the buffer"])
def test_another_answer_reads_nothing(model: Decoder, reply: int) -> None:
    cache = PromptCache(model.make_cache())
    first = answer(model, cache, PROMPT, reply)
    again = answer(model, cache, PROMPT, reply)
    assert again.stats.prefilled_tokens == 0
    assert again.tokens == first.tokens


@pytest.mark.parametrize("reply", [3, 40, 2 * STEP], ids=["short", "past the window", "past the buffer"])
def test_an_edited_message_reads_only_the_message(model: Decoder, reply: int) -> None:
    cache = PromptCache(model.make_cache())
    answer(model, cache, PROMPT, reply, 20)
    edited = [*PROMPT[:20], 60, 61]
    done = answer(model, cache, edited, 9, 20)
    assert done.stats.prefilled_tokens == 2
    assert done.tokens == fresh(model, edited, 9)


def test_an_old_turn_can_be_edited_and_the_conversation_goes_on(model: Decoder) -> None:
    cache = PromptCache(model.make_cache())
    prompt, turns = list(PROMPT), []
    for turn in range(4):
        turns.append(len(prompt))
        prompt += [70 + turn, 71, 72]
        prompt += answer(model, cache, prompt, STEP, turns[-1]).tokens
    edited = [*prompt[: turns[1]], 80, 81]
    done = answer(model, cache, edited, 6, turns[1])
    assert done.stats.prefilled_tokens == 2
    assert done.tokens == fresh(model, edited, 6)


def test_an_unmarked_position_is_read_again_from_the_last_mark_before_it(model: Decoder) -> None:
    cache = PromptCache(model.make_cache())
    answer(model, cache, PROMPT, 3 * STEP, 10)
    other = [*PROMPT[:15], 90, 91]
    done = answer(model, cache, other, 6)
    assert done.tokens == fresh(model, other, 6)
    assert done.stats.reused_tokens in (10, 15)  # 15 where no layer has a window


def test_marks_are_bounded_and_the_last_two_stay(model: Decoder) -> None:
    cache = PromptCache(model.make_cache(), snapshot_bytes=0)
    answer(model, cache, PROMPT, 2 * STEP, 5, 10, 20)
    assert answer(model, cache, PROMPT, 3).stats.prefilled_tokens == 0
    edited = [*PROMPT[:20], 60]
    assert answer(model, cache, edited, 3).stats.prefilled_tokens == 1


def test_an_exception_in_the_middle_of_a_pass_loses_nothing_but_that_pass(model: Decoder) -> None:
    cache = PromptCache(model.make_cache())
    done = answer(model, cache, PROMPT, 5)
    # Two kinds of damage: a chunk read and not accounted for, and one read by some of the layers only.
    model(model.embed(mx.array([[5, 6]])), cache.cache)
    prompt = [*PROMPT, *done.tokens, 33]
    assert answer(model, cache, prompt, 8).tokens == fresh(model, prompt, 8)
    cache.cache.layers[0].offset += 1
    assert answer(model, cache, prompt, 8).tokens == fresh(model, prompt, 8)


def test_saved_and_restored(model: Decoder, tmp_path: Path) -> None:
    cache = PromptCache(model.make_cache())
    first = answer(model, cache, PROMPT, 40)
    cache.save(tmp_path / "chat.cache", "a model")
    other = PromptCache(model.make_cache())
    other.restore(tmp_path / "chat.cache", "a model")
    assert other.tokens == cache.tokens
    prompt = [*PROMPT, *first.tokens, 44, 45]
    done = answer(model, other, prompt, 9)
    assert done.stats.prefilled_tokens == 3
    assert done.tokens == fresh(model, prompt, 9)
    assert [file.name for file in tmp_path.iterdir()] == ["chat.cache"]


def test_an_empty_cache_can_be_saved(model: Decoder, tmp_path: Path) -> None:
    PromptCache(model.make_cache()).save(tmp_path / "empty", "m")
    cache = PromptCache(model.make_cache())
    cache.restore(tmp_path / "empty", "m")
    assert cache.tokens == []


def test_a_saved_cache_of_another_model_or_a_damaged_one_is_refused(model: Decoder, tmp_path: Path) -> None:
    cache = PromptCache(model.make_cache())
    answer(model, cache, PROMPT, 3)
    path = tmp_path / "chat.cache"
    cache.save(path, "a model")
    held = list(cache.tokens)
    with pytest.raises(CacheError, match="saved with 'a model', and this is 'another'"):
        cache.restore(path, "another")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CacheError, match="no saved cache"):
        cache.restore(path, "a model")
    with pytest.raises(CacheError, match="no saved cache"):
        cache.restore(tmp_path / "absent", "a model")
    assert cache.tokens == held


def test_a_saved_cache_of_another_depth_is_refused(tmp_path: Path) -> None:
    values = json.loads((GOLDENS / "gemma" / "config.json").read_text())
    deep, shallow = (registry.match(values | {"num_hidden_layers": n}) for n in (3, 2))
    model = shallow.architecture.build(shallow.spec)
    cache = PromptCache(model.make_cache())
    answer(model, cache, PROMPT, 3)
    cache.save(tmp_path / "chat.cache", "m")
    with pytest.raises(CacheError, match="lacks the rows"):
        PromptCache(deep.architecture.build(deep.spec).make_cache()).restore(tmp_path / "chat.cache", "m")
