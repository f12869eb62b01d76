"""mlx-lm as an engine."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.cli.peer import MlxLm
from gemma_mlx.errors import InputError
from gemma_mlx.generate.measure import step_cost
from gemma_mlx.weights.hub import DEMO_FOLDER


@pytest.fixture(scope="module")
def peer() -> MlxLm:
    return MlxLm(DEMO_FOLDER)


def test_it_replies_the_same_every_time(peer: MlxLm) -> None:
    first = list(peer.engine([5, 6, 7, 8], 6))
    assert len(first) == 6
    assert first == list(peer.engine([5, 6, 7, 8], 6))


def test_its_step_can_be_counted(peer: MlxLm) -> None:
    logits = peer.build()[0]
    assert logits.shape[0] == 1
    assert mx.isfinite(logits).all().item()
    cost = step_cost(peer.build, peer.network)
    assert 0 < cost.operations <= cost.operations_here


def test_a_checkpoint_it_cannot_load_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mlx-lm [\d.]+ cannot load .*Error") as error:
        MlxLm(tmp_path)
    assert error.value.hint == "Measure without --against."
