"""Stop strings over a stream cut anywhere."""

from __future__ import annotations

import itertools

import pytest

from gemma_mlx.generate.stop import StopStrings


def run(strings: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stops, shown = StopStrings(strings), ""
    for piece in pieces:
        shown += stops.add(piece)
        if stops.found:
            return shown, True
    return shown + stops.flush(), False


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (("END",), "one END two", ("one ", True)),
        (("END",), "one EN two", ("one EN two", False)),
        (("aab",), "aaab", ("a", True)),
        (("\n\n", "###"), "a\n#b###c\n\n", ("a\n#b", True)),
        (("abc", "bc"), "xabc", ("x", True)),
        ((), "anything", ("anything", False)),
        (("END",), "trailing EN", ("trailing EN", False)),
    ],
)
def test_wherever_the_stream_is_cut(strings: tuple[str, ...], text: str, expected: tuple[str, bool]) -> None:
    cuts = range(1, len(text))
    for first, second in itertools.combinations_with_replacement([0, *cuts], 2):
        assert run(strings, [text[:first], text[first:second], text[second:]]) == expected
    assert run(strings, list(text)) == expected


def test_holds_back_no_more_than_it_must() -> None:
    stops = StopStrings(("END",))
    assert stops.add("a sentence E") == "a sentence "
    assert stops.add("nd") == "End"
