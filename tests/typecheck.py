"""What checks annotations at run time, in tests only: conftest.py hands `tests.typecheck.checked` to jaxtyping.

jaxtyping hands over one function at a time, with annotations already evaluated. An annotation that cannot be evaluated
yet (a name imported under TYPE_CHECKING, a class inside itself) is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args, runtime_checkable

from beartype import BeartypeConf, beartype

# An int is a float wherever Python says so: `temperature=0` is what people write.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked against its annotations."""
    for hint in function.__annotations__.values():
        for part in _parts(hint):
            # beartype asks isinstance of a Protocol, which the library does not and mypy would not let it.
            if isinstance(part, type) and getattr(part, "_is_protocol", False):
                runtime_checkable(part)
    return _beartype(function)


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
