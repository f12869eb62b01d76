"""Each cut keeps exactly what it says, a seed repeats, and bad values are refused."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import mlx.core as mx
import pytest

from gemma_mlx.errors import InputError
from gemma_mlx.generate.sampling import Options, Sampler

LOGITS = [2.0, -1.0, 3.0, 0.5, 1.0, -3.0]
ORDER = [2, 0, 4, 3, 1, 5]  # likeliest first
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def draws(count: int = 800, prompt: tuple[int, ...] = (), logits: list[float] = LOGITS, **options: Any) -> Counter[int]:
    sampler = Sampler(Options(**(OFF | {"seed": 3} | options)), prompt, len(logits))
    tokens = mx.concatenate([sampler(mx.array([logits])) for _ in range(count)])
    return Counter(tokens.tolist())  # type: ignore[arg-type]


def probabilities(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def test_greedy_takes_the_likeliest_whatever_the_cuts() -> None:
    assert draws(5, temperature=0.0, top_k=3, top_p=0.2, min_p=0.9) == {2: 5}


def test_frequencies_follow_the_probabilities() -> None:
    counts = draws(3000)
    for token, probability in enumerate(probabilities(LOGITS)):
        assert abs(counts[token] / 3000 - probability) < 4 * math.sqrt(probability / 3000) + 1e-3


def test_temperature_divides_the_logits() -> None:
    counts = draws(3000, temperature=0.5)
    for token, probability in enumerate(probabilities([logit / 0.5 for logit in LOGITS])):
        assert abs(counts[token] / 3000 - probability) < 4 * math.sqrt(probability / 3000) + 1e-3


@pytest.mark.parametrize("k", [1, 2, 4, 6, 99])
def test_top_k(k: int) -> None:
    assert set(draws(temperature=3.0, top_k=k)) == set(ORDER[:k])


@pytest.mark.parametrize("kept", [1, 2, 3, 5])
@pytest.mark.parametrize("top_k", [0, 5])
def test_top_p_keeps_the_fewest_that_reach_it(kept: int, top_k: int) -> None:
    candidates = [LOGITS[token] for token in ORDER[: top_k or 6]]
    reached = sum(probabilities(candidates)[:kept])
    assert set(draws(top_p=reached - 1e-4, top_k=top_k, count=2500)) == set(ORDER[:kept])


@pytest.mark.parametrize("kept", [1, 2, 4])
@pytest.mark.parametrize("top_p", [1.0, 0.9999])
def test_min_p_is_a_fraction_of_the_likeliest(kept: int, top_p: float) -> None:
    ratio = math.exp(LOGITS[ORDER[kept - 1]] - LOGITS[ORDER[0]])
    assert set(draws(min_p=ratio * 0.999, top_p=top_p, count=2500)) == set(ORDER[:kept])


def test_repetition_penalty_counts_the_prompt_and_what_was_drawn() -> None:
    sampler = Sampler(Options(temperature=0.0, repetition_penalty=10.0), (2,), 6)
    # 2 is in the prompt: 3.0 -> 0.3; then 0 is drawn: 2.0 -> 0.2; then 4: 1.0 -> 0.1; then 3; now 2 leads again.
    assert [sampler(mx.array([LOGITS])).item() for _ in range(5)] == [0, 4, 3, 2, 2]
    negative = Sampler(Options(temperature=0.0, repetition_penalty=4.0), (0,), 2)
    assert negative(mx.array([[-1.0, -3.0]])).item() == 1  # -1 becomes -4


def test_logit_bias() -> None:
    assert draws(3, temperature=0.0, logit_bias={5: 100.0}) == {5: 3}
    assert draws(3, temperature=0.0, logit_bias={2: -100.0, 0: -100.0}) == {4: 3}
    with pytest.raises(InputError, match="names the token 6, but the vocabulary ends at 5"):
        Sampler(Options(logit_bias={6: 1.0}), (), 6)


def test_a_seed_repeats_and_another_differs() -> None:
    def sequence(seed: int | None) -> list[int]:
        sampler = Sampler(Options(seed=seed), (), 500)
        return [int(sampler(mx.zeros((1, 500))).item()) for _ in range(8)]  # type: ignore[arg-type]

    assert sequence(7) == sequence(7)
    assert sequence(7) != sequence(8)
    assert sequence(None) != sequence(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("chunk", 0),
        ("stop", ("",)),
        ("logit_bias", {1: math.inf}),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{name} is .*, but must be "):
        Options(**{name: value})  # type: ignore[arg-type]
