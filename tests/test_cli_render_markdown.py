"""Styles of a stream of Markdown, whatever the pieces it comes in."""

from __future__ import annotations

import pytest

from gemma_mlx.cli.render.markdown import BOLD, CODE, DIM, PLAIN, Glyph, Markdown


def glyphs(text: str, size: int) -> list[Glyph]:
    markdown = Markdown()
    found = [glyph for at in range(0, len(text), size) for glyph in markdown.feed(text[at : at + size])]
    return found + list(markdown.flush())


def runs(text: str, size: int = 1) -> list[tuple[str, str]]:
    """(text, style) of neighbours with the same style."""
    found: list[tuple[str, str]] = []
    for glyph in glyphs(text, size):
        if found and found[-1][1] == glyph.style:
            found[-1] = (found[-1][0] + glyph.char, glyph.style)
        else:
            found.append((glyph.char, glyph.style))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "styled"),
    [
        ("plain", [("plain", PLAIN)]),
        ("a **b c** d", [("a ", PLAIN), ("b c", BOLD), (" d", PLAIN)]),
        ("**a**", [("a", BOLD)]),
        ("2**3**4", [("2**3**4", PLAIN)]),
        ("a ** b", [("a ** b", PLAIN)]),
        ("* one *two*", [("* one *two*", PLAIN)]),
        ("***x***", [("***x***", PLAIN)]),
        ("end **", [("end **", PLAIN)]),
        ("**open\nnext", [("open", BOLD), ("\nnext", PLAIN)]),
        ("a `b*c*` d", [("a ", PLAIN), ("`b*c*`", CODE), (" d", PLAIN)]),
        ("`**a**` b", [("`**a**`", CODE), (" b", PLAIN)]),
        ("``", [("``", CODE)]),
        ("# Head\nbody", [("# Head", BOLD), ("\nbody", PLAIN)]),
        ("```py\na **b**\n```\nc", [("```py", DIM), ("\na **b**\n", PLAIN), ("```", DIM), ("\nc", PLAIN)]),
    ],
)
def test_styles(text: str, styled: list[tuple[str, str]], size: int) -> None:
    assert runs(text, size) == styled


def test_nothing_is_lost_but_the_marks_of_bold() -> None:
    text = "# A\n\n* **b** `c`\n| d | **e** |\n```\n**f**\n```\n*g*"
    shown = "".join(glyph.char for glyph in glyphs(text, 1))
    assert shown == text.replace("**b**", "b").replace("**e**", "e")


def test_code_and_tables_are_fixed() -> None:
    assert all(glyph.fixed for glyph in glyphs("| a | b |", 1))
    inside = glyphs("```\na b\n```", 1)[4:7]
    assert [glyph.char for glyph in inside] == ["a", " ", "b"]
    assert all(glyph.fixed for glyph in inside)
    assert not any(glyph.fixed for glyph in glyphs("a b", 1))
