"""The error tree: drawn as it is, and every error a sentence with a hint."""

from __future__ import annotations

import inspect
import re

import pytest

from gemma_mlx import errors
from gemma_mlx.errors import GemmaError

CLASSES = [thing for _, thing in inspect.getmembers(errors, inspect.isclass)]


def _depth(error: type) -> int:
    return error.__mro__.index(GemmaError)


def test_the_docstring_draws_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^([│├└─ ]*)(\w+Error)\b", inspect.cleandoc(errors.__doc__), re.MULTILINE)
    assert {name: len(branch) // 4 for branch, name in drawn} == {error.__name__: _depth(error) for error in CLASSES}


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_says_what_it_is_for(error: type[GemmaError]) -> None:
    assert issubclass(error, GemmaError)
    assert error.__doc__
    assert error.__doc__.endswith((".", "\n    "))


def test_message_and_hint() -> None:
    error = GemmaError("config.json has no 'vocab_size'.", "gemma show demo")
    assert (error.message, error.hint) == ("config.json has no 'vocab_size'.", "gemma show demo")
    assert str(error) == "config.json has no 'vocab_size'.\n\nhint: gemma show demo"
    assert str(GemmaError("It is damaged.")) == "It is damaged."
