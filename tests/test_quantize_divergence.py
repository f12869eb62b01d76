"""Divergence: against its definition, in full and from the likeliest tokens, and where single precision would fail."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from gemma_mlx.quantize.divergence import Said, divergence, full_divergence, log_probabilities, said


def _exact(teacher: mx.array, student: mx.array) -> np.ndarray:
    """By the definition, in double precision."""
    logs = []
    for logits in (teacher, student):
        wide = np.array(logits).astype(np.float64)
        wide -= wide.max(axis=-1, keepdims=True)
        logs.append(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))
    return (np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=-1)


def _pair(rows: int, vocab: int, apart: float) -> tuple[mx.array, mx.array]:
    one = mx.random.normal((rows, vocab), key=mx.random.key(1)) * 4
    return one, one + apart * mx.random.normal((rows, vocab), key=mx.random.key(2))


def _said(teacher: mx.array, k: int) -> Said:
    return said(teacher, mx.zeros(teacher.shape[:1], mx.int32), k)


@pytest.mark.parametrize("apart", [3.0, 0.3, 1e-2, 1e-3])
def test_full_is_the_definition(apart: float) -> None:
    teacher, student = _pair(16, 500, apart)
    assert np.allclose(np.array(full_divergence(teacher, student)), _exact(teacher, student), rtol=2e-3, atol=0)


def test_a_shift_of_all_logits_changes_nothing() -> None:
    """What single precision loses in large logits is lost by all of a position alike."""
    teacher, student = _pair(16, 500, 1e-2)
    exact = _exact(teacher + 64, student)
    assert np.allclose(np.array(full_divergence(teacher + 64, student)), exact, rtol=2e-2, atol=0)
    assert mx.abs(full_divergence(teacher, teacher + 64)).max().item() < 1e-9


@pytest.mark.parametrize("apart", [3.0, 0.3, 1e-2])
def test_a_part_is_a_lower_bound_that_grows_to_all(apart: float) -> None:
    teacher, student = _pair(64, 500, apart)
    full, before = np.array(full_divergence(teacher, student)), np.zeros(64)
    for k in (1, 4, 16, 64, 256):
        part = np.array(divergence(_said(teacher, k), student))
        assert (part >= before * (1 - 1e-5)).all()
        assert (part <= full * (1 + 1e-5)).all()
        before = part
    assert np.allclose(np.array(divergence(_said(teacher, 500), student)), full, rtol=1e-5)


def test_what_is_kept_of_a_position() -> None:
    logits = mx.log(mx.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]]))
    kept = said(logits, mx.array([2, 0]), 2)
    assert sorted(kept.ids[0].tolist()) == [1, 3]
    assert mx.exp(kept.log_p).sum(axis=-1).tolist() == pytest.approx([0.7, 0.8])
    assert mx.exp(kept.log_rest).tolist() == pytest.approx([0.3, 0.2])
    assert kept.top.tolist() == [1, 0]
    assert mx.exp(kept.log_next).tolist() == pytest.approx([0.2, 0.7])


def test_two_halves_by_hand() -> None:
    teacher, student = mx.log(mx.array([[0.5, 0.25, 0.25]])), mx.log(mx.array([[0.25, 0.25, 0.5]]))
    by_hand = 0.5 * np.log(2) - 0.25 * np.log(2)
    assert full_divergence(teacher, student).item() == pytest.approx(by_hand, rel=1e-5)
    together = 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(_said(teacher, 1), student).item() == pytest.approx(together, rel=1e-5)


def test_a_teacher_that_is_certain() -> None:
    teacher, student = mx.array([[0.0, -200.0, -200.0]]), mx.array([[0.0, 0.0, -1.0]])
    expected = -log_probabilities(student)[0, 0].item()
    for k in (1, 2, 3):
        assert divergence(_said(teacher, k), student).item() == pytest.approx(expected, rel=1e-5)
    assert divergence(_said(teacher, 1), teacher).item() == pytest.approx(0, abs=1e-9)
