"""Markdown as it streams: each character gets a style at once, without waiting for the end of a line or a block.

Nothing is laid out anew, so nothing flickers. The marks stay, but for the asterisks of **bold**.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

PLAIN: Final = ""
BOLD: Final = "1"
DIM: Final = "2"
CODE: Final = "36"


class Glyph(NamedTuple):
    """One character to show.

    Attributes:
        style: the parameters of its SGR sequence, "" for none.
        fixed: it is part of a block of code or a table, whose lines are not to be wrapped.
    """

    char: str
    style: str
    fixed: bool


class Markdown:
    """Styles a stream: bold, code, headings, fences."""

    def __init__(self) -> None:
        self._fenced = False
        self._line = ""  # the line so far, as the model wrote it
        self._stars = ""  # asterisks whose meaning the next character decides
        self._ticks = 0  # backticks at the start of a line, perhaps of a fence
        self._bold = False
        self._code = False

    def feed(self, text: str) -> Iterator[Glyph]:
        """Yields what can be shown of `text` and of what was held back before."""
        for char in text:
            if self._stars:
                yield from self._settle(char)
            if char == "*" and not (self._fenced or self._code or self._ticks):
                self._stars += char
            else:
                yield from self._plain(char)

    def flush(self) -> Iterator[Glyph]:
        """Yields what was held back, once nothing follows."""
        if self._stars:
            yield from self._settle("\n")
        yield from self._release(fence=False)

    def _settle(self, following: str) -> Iterator[Glyph]:
        """Decides about asterisks held back: two begin or end bold where they touch a word on the right side."""
        if self._stars == "*" and following == "*":
            return
        stars, self._stars = self._stars, ""
        before = self._line[-1:]
        opens = not self._bold and not (following.isspace() or following == "*" or before.isalnum())
        closes = self._bold and not before.isspace() and before != ""
        if stars == "**" and (opens or closes):
            self._bold = opens
            self._line += stars
        else:
            for star in stars:
                yield from self._plain(star)

    def _plain(self, char: str) -> Iterator[Glyph]:
        if char == "\n":
            fence = self._line.lstrip().startswith("```")
            yield from self._release(fence=fence)
            yield Glyph(char, PLAIN, False)
            self._fenced ^= fence
            self._line = ""
            self._bold = self._code = False
            return
        self._line += char
        start = self._line.lstrip()
        fence = start.startswith("```")
        if start in ("`", "``"):
            self._ticks += 1
            return
        yield from self._release(fence=fence)
        if fence:
            yield Glyph(char, DIM, True)
        elif self._fenced:
            yield Glyph(char, PLAIN, True)
        elif char == "`":
            yield Glyph(char, CODE, start.startswith("|"))
            self._code = not self._code
        else:
            style = CODE if self._code else BOLD if self._bold or start.startswith("#") else PLAIN
            yield Glyph(char, style, start.startswith("|"))

    def _release(self, *, fence: bool) -> Iterator[Glyph]:
        """Yields backticks held back, once it is known whether they begin a fence."""
        ticks, self._ticks = self._ticks, 0
        for _ in range(ticks):
            if fence or self._fenced:
                yield Glyph("`", DIM if fence else PLAIN, True)
            else:
                yield Glyph("`", CODE, False)
                self._code = not self._code
