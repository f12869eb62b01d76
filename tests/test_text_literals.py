"""The search for fixed strings: leftmost, longest, and linear."""

from __future__ import annotations

import random
import re
import time

import pytest

from gemma_mlx.text.literals import Literals


@pytest.mark.parametrize(
    ("literals", "text", "found"),
    [
        ([], "abc", []),
        ([""], "abc", []),
        (["b"], "abcb", ["b", "b"]),
        (["ab", "abc", "bcd"], "abcd", ["abc"]),
        (["ab", "bc"], "abc", ["ab"]),
        (["<a>", "<a><b>"], "<a><b><a>", ["<a><b>", "<a>"]),
        (["]", "^", "-", "\\"], "a]b^c-d\\", ["]", "^", "-", "\\"]),
        (["😀", "\n\n"], "x😀\n\n\n", ["😀", "\n\n"]),
        (["aa"], "aaaaa", ["aa", "aa"]),
    ],
)
def test_leftmost_longest(literals: list[str], text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in Literals(literals).find(text)] == found


def test_equals_an_alternation() -> None:
    rng = random.Random(0)
    for _ in range(200):
        literals = {"".join(rng.choices("ab<", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 6))}
        text = "".join(rng.choices("ab<", k=60))
        pattern = "|".join(map(re.escape, sorted(literals, key=len, reverse=True)))
        assert list(Literals(literals).find(text)) == [match.span() for match in re.finditer(pattern, text)]


def test_thousands_of_literals_take_no_longer() -> None:
    """Gemma 3 has 6,415 added tokens, nearly all beginning with "<unused"."""
    text = "<unused" * 10_000
    began = time.perf_counter()
    assert list(Literals(f"<unused{number}>" for number in range(6415)).find(text)) == []
    assert time.perf_counter() - began < 2  # an alternation takes a minute
