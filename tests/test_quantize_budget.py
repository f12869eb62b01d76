"""A budget is spent where it saves most."""

from __future__ import annotations

import itertools
import random

import pytest

from gemma_mlx.quantize.budget import Option, allocate, least
from gemma_mlx.weights.quantized import Quantization


def _option(bits: int, nbytes: int, loss: float) -> Option:
    return Option(how=Quantization(mode="affine", bits=bits, group_size=64), nbytes=nbytes, loss=loss)


def _matrices(count: int, seed: int) -> list[list[Option]]:
    """Matrices whose losses fall by four with each bit, as real ones do, from different heights."""
    draw = random.Random(seed)
    sizes = [draw.choice((10, 20, 40)) for _ in range(count)]
    return [
        [_option(bits, size * bits, draw.uniform(0.9, 1.1) * height / 4**bits) for bits in (2, 3, 4, 5, 6, 8)]
        for size, height in zip(sizes, (draw.uniform(1, 100) for _ in range(count)), strict=False)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_much_better(seed: int) -> None:
    matrices = _matrices(5, seed)
    every = list(itertools.product(*matrices))
    for most in range(least(matrices), 900, 60):
        taken = allocate(matrices, most)
        spent, loss = sum(one.nbytes for one in taken), sum(one.loss for one in taken)
        assert spent <= most
        fitting = [each for each in every if sum(one.nbytes for one in each) <= most]
        best = min(sum(one.loss for one in each) for each in fitting)
        as_much = [each for each in every if sum(one.nbytes for one in each) <= spent]
        assert best <= loss
        # Of what takes no more than was spent, none is better but for the step that did not fit.
        assert loss <= 1.3 * min(sum(one.loss for one in each) for each in as_much)


def test_a_step_that_is_not_worth_its_bytes_is_not_taken() -> None:
    bent = [_option(2, 10, 9.0), _option(3, 20, 8.9), _option(4, 30, 1.0)]
    assert [one.how.bits for one in allocate([bent], 25)] == [2]
    assert [one.how.bits for one in allocate([bent], 30)] == [4]
    assert [one.how.bits for one in allocate([[_option(2, 10, 1.0), _option(4, 20, 1.5)]], 100)] == [2]


def test_what_does_not_fit_leaves_room_for_what_does() -> None:
    large = [_option(2, 100, 50.0), _option(4, 200, 1.0)]
    small = [_option(2, 10, 2.0), _option(4, 20, 1.9)]
    assert [one.how.bits for one in allocate([large, small], 130)] == [2, 4]


def test_the_least_can_be_had_and_the_answer_is_always_the_same() -> None:
    matrices = _matrices(8, 7)
    assert sum(one.nbytes for one in allocate(matrices, least(matrices))) == least(matrices)
    assert allocate(matrices, 800) == allocate(matrices, 800)
    equal = [[_option(2, 10, 4.0), _option(4, 20, 1.0)]] * 3
    assert [one.how.bits for one in allocate(equal, 40)] == [4, 2, 2]
