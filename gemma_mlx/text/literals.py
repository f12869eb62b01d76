"""Finding any of many fixed strings in a text, in time linear in the text.

Gemma 3 has 6,415 added tokens: an alternation of that many is tried one by one at every "<". Here a position costs one
look-up per distinct length, and only where some string could begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


class Literals:
    """Leftmost-longest search for fixed strings."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = frozenset(text for text in texts if text)
        lengths: dict[str, set[int]] = {}
        for text in self._texts:
            lengths.setdefault(text[0], set()).add(len(text))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        self._first = re.compile(f"[{re.escape(''.join(self._lengths))}]") if self._lengths else None

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of every match, none overlapping."""
        if self._first is None:
            return
        end = 0
        for first in self._first.finditer(text):
            start = first.start()
            if start < end:
                continue
            for length in self._lengths[first.group()]:
                candidate = text[start : start + length]  # shorter at the end of the text
                if candidate in self._texts:
                    end = start + len(candidate)
                    yield start, end
                    break
