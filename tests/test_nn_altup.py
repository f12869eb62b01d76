"""AltUp against its formula in float32, stream by stream, and what runs for which positions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest

from gemma_mlx.cache.prefix import PromptCache
from gemma_mlx.generate.loop import generate
from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.altup import LEAST_MEAN_SQUARE, AltUp, match_magnitude
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.norm import Norms
from gemma_mlx.spec import AltUpSpec
from gemma_mlx.weights.load import load

GOLDEN = Path(__file__).parent / "goldens" / "gemma3n_text"
DIM, STREAMS, EPS = 6, 3, 0.01


@pytest.fixture
def model() -> Decoder:
    return load(GOLDEN, dtype=mx.float32).model


def altup(**changes: object) -> AltUp:
    made = AltUp(DIM, AltUpSpec(streams=STREAMS, **changes), Norms(eps=EPS, stored_offset=0.0))  # type: ignore[arg-type]
    made.router_norm.weight = mx.random.normal((DIM,))
    made.correct_output_scale = mx.random.normal((DIM,))
    return made


def modalities(made: AltUp, x: mx.array) -> mx.array:
    normed = x * mx.rsqrt((x * x).mean(-1, keepdims=True) + EPS) * made.router_norm.weight
    return mx.tanh((normed / DIM) @ made.modality_router.weight.T)


@pytest.mark.parametrize("active", [0, 2])
def test_prediction_is_each_stream_and_a_mix_of_all(active: int) -> None:
    made, streams = altup(active=active), mx.random.normal((2, 4, STREAMS, DIM))
    mix = modalities(made, streams[:, :, active]) @ made.prediction_coefs.weight.T  # [B L n·n]
    predicted, chosen = made.predict(streams)
    for to in range(STREAMS):
        parts = [mix[..., to * STREAMS + of, None] * streams[:, :, of] for of in range(STREAMS)]
        assert mx.allclose(predicted[:, :, to], streams[:, :, to] + sum(parts), atol=1e-5)
    assert mx.array_equal(chosen, predicted[:, :, active])


@pytest.mark.parametrize("active", [0, 1])
@pytest.mark.parametrize("scaled", [True, False])
def test_correction_follows_what_the_layer_computed(active: int, scaled: bool) -> None:
    made = altup(active=active, scaled=scaled)
    predicted, computed = mx.random.normal((2, 4, STREAMS, DIM)), mx.random.normal((2, 4, DIM))
    given: list[mx.array] = []

    def addition(x: mx.array) -> mx.array:
        given.append(x)
        return 3 * x

    corrected = made.correct(predicted, predicted[:, :, active], computed, addition)
    gains = 1 + modalities(made, computed) @ made.correction_coefs.weight.T
    change = computed - predicted[:, :, active]
    expected = [predicted[:, :, at] + change * gains[..., at, None] for at in range(STREAMS)]
    read = expected[active] * made.correct_output_scale if scaled else expected[active]
    assert len(given) == 1
    assert mx.allclose(given[0], read, atol=1e-5)
    for at in range(STREAMS):  # the first is left alone, whichever is active
        assert mx.allclose(corrected[:, :, at], expected[at] + (3 * read if at else 0), atol=1e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_magnitudes_are_matched(dtype: mx.Dtype) -> None:
    x, like = mx.random.normal((1, 3, 2, 64)).astype(dtype), (5 * mx.random.normal((1, 3, 1, 64))).astype(dtype)
    matched = match_magnitude(x, like)
    assert matched.dtype == dtype
    size = [mx.square(each.astype(mx.float32)).mean(-1) for each in (matched, mx.broadcast_to(like, x.shape))]
    assert mx.allclose(size[0], size[1], rtol=1e-5 if dtype == mx.float32 else 2e-2)


def test_a_stream_of_nothing_is_no_division_by_zero() -> None:
    assert not match_magnitude(mx.zeros((1, 1, 2, 4)), mx.ones((1, 1, 1, 4))).any()
    small = mx.full((1, 1, 1, 4), 1e-4)  # its mean square is 1e-8, below the least
    assert mx.allclose(match_magnitude(small, mx.ones((1, 1, 1, 4))), small * LEAST_MEAN_SQUARE**-0.5)


def test_borrowing_layers_run_for_the_last_position_of_a_chunk_only(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the positions each layer is built for while 20 tokens are read in chunks of 7 and 4 are sampled."""
    positions: Counter[int] = Counter()
    index = {id(layer): at for at, layer in enumerate(model.model.layers)}
    kind = type(model.model.layers[0])
    call = kind.__call__

    def counted(self: object, streams: mx.array, *rest: object) -> mx.array:
        assert streams.shape[2:] == (3, 32)
        positions[index[id(self)]] += streams.shape[1]
        return call(self, streams, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kind, "__call__", counted)
    options = Options(temperature=0, max_tokens=4, chunk=7)
    list(generate(model, PromptCache(model.make_cache()), list(range(4, 24)), options))
    assert [layer.borrows_from for layer in model.spec.layers] == [None, None, None, 0, 2]
    assert dict(positions) == {0: 20 + 3, 1: 20 + 3, 2: 20 + 3, 3: 3 + 3, 4: 3 + 3}


@pytest.mark.parametrize("last", [1, 2, 6, 20])
def test_several_last_positions_are_those_of_the_whole_pass(model: Decoder, last: int) -> None:
    tokens = mx.array([list(range(70, 90))])
    whole = model(model.embed(tokens))
    assert mx.allclose(model(model.embed(tokens), last=last), whole[:, -last:], atol=1e-4)
    cache = model.make_cache()
    model(model.embed(tokens[:, :9]), cache, last=1)
    rest = model(model.embed(tokens[:, 9:]), cache, last=min(last, 11))
    assert mx.allclose(rest, whole[:, -min(last, 11) :], atol=1e-4)
