"""Specs are frozen data: they compare, hash, and list themselves in runs of equal layers."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from gemma_mlx import spec
from gemma_mlx.spec import AttentionSpec, DecoderSpec, LayerSpec, Rope


def _layer(window: int | None = None, theta: float = 10_000.0) -> LayerSpec:
    attention = AttentionSpec(heads=4, kv_heads=2, head_dim=8, scale=0.3, rope=Rope(theta=theta), window=window)
    return LayerSpec(attention=attention, mlp_dim=24)


def _decoder(*layers: LayerSpec) -> DecoderSpec:
    return DecoderSpec(vocab=64, dim=16, layers=layers, context=128, embed_scale=4.0, norm_eps=1e-6)


def test_layers_that_compute_the_same_are_equal() -> None:
    assert _layer(7) == _layer(7)
    assert hash(_layer(7)) == hash(_layer(7))
    assert len({_layer(7), _layer(8), _layer(), _layer(theta=20_000.0)}) == 4


def test_specs_do_not_change() -> None:
    decoder = _decoder(_layer())
    with pytest.raises(FrozenInstanceError):
        decoder.vocab = 65  # type: ignore[misc]
    assert replace(decoder, vocab=65) != decoder


@pytest.mark.parametrize(
    "thing", [thing for thing in vars(spec).values() if isinstance(thing, type) and is_dataclass(thing)]
)
def test_every_number_is_named_and_explained(thing: type) -> None:
    assert all(field.kw_only for field in fields(thing))
    told = "\n".join(kind.__doc__ or "" for kind in thing.__mro__[:-1])
    assert all(field.name in told or f"`{field.name}`" in told for field in fields(thing)), told


def test_windows_and_runs() -> None:
    sliding, full = _layer(7), _layer()
    decoder = _decoder(sliding, sliding, full, sliding, full, full)
    assert decoder.windows == (7, 7, None, 7, None, None)
    assert list(decoder.runs()) == [(0, 1, sliding), (2, 2, full), (3, 3, sliding), (4, 5, full)]
    assert list(_decoder(full).runs()) == [(0, 0, full)]
    assert list(_decoder().runs()) == []
