"""The import hook really checks, under the library's own conventions."""

from __future__ import annotations

import mlx.core as mx
import pytest
from jaxtyping import TypeCheckError

from gemma_mlx.generate.sampling import Options
from gemma_mlx.nn.norm import RMSNorm
from tests.typecheck import checked


def test_array_shapes_are_checked() -> None:
    norm = RMSNorm(8, 1e-6, 1.0)
    assert norm(mx.zeros((1, 2, 8))).shape == (1, 2, 8)
    with pytest.raises((TypeCheckError, TypeError)):
        norm([1.0, 2.0])  # type: ignore[arg-type]


def test_scalars_are_checked_and_an_int_is_a_float() -> None:
    assert Options(temperature=0).temperature == 0
    with pytest.raises(TypeCheckError):
        Options(temperature="warm")  # type: ignore[arg-type]


def test_protocols_need_no_decorator() -> None:
    from typing import Protocol

    class Speaks(Protocol):
        def speak(self) -> str: ...

    def call(thing) -> str:  # type: ignore[no-untyped-def]
        return thing.speak()  # type: ignore[no-any-return]

    class Dog:
        def speak(self) -> str:
            return "wuff"

    call.__annotations__["thing"] = Speaks | None
    guarded = checked(call)
    assert guarded(Dog()) == "wuff"
    with pytest.raises(Exception, match="violates type hint"):
        guarded(3)
