"""Stop strings: end the answer where one appears, and hold back text that may be the start of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches a stream of text for the first of several strings."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Takes new text and returns what may be shown; sets `found` where a string is complete."""
        text = self._held + text
        ends = [at for at in (text.find(string) for string in self._strings) if at >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        keep = max((self._overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text held back, once nothing follows."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, string: str) -> int:
        """Length of the longest end of `text` that begins `string`."""
        return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)
