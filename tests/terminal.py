"""A terminal for tests: a program runs in it, keys are typed into it, and its screen can be read."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.cells import cell_len

ROOT = Path(__file__).resolve().parent.parent
CTRL_C, CTRL_D, ENTER, ALT_ENTER, UP, TAB = "\x03", "\x04", "\r", "\x1b\r", "\x1b[A", "\t"
PROMPT = "⟨prompt⟩"
_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b.")


# Makes the terminal the controlling one, so that Ctrl-C arrives as a signal, and becomes the module named.
# A shell that runs the tests in the background has them ignore Ctrl-C, and their children inherit that.
_IN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
)


class Screen:
    """What text with cursor movements looks like, without scrolling: lines of any number, `columns` wide."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._saved = 0, 0

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            if (found := _SEQUENCE.match(text, at)) is not None:
                self._sequence(found[1] or "", found[2] or found[0][1])
                at = found.end()
            else:
                self._char(text[at])
                at += 1

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._rows]

    def _char(self, char: str) -> None:
        if char == "\n":
            self._down(1)
            self._column = 0
        elif char == "\r":
            self._column = 0
        elif char == "\b":
            self._column = max(0, self._column - 1)
        elif char == "\t":
            self._char(" ")
            while self._column % 8:
                self._char(" ")
        elif cell_len(char) == 0:
            self._rows[self._row][self._column - 1] += char
        else:
            cells = cell_len(char)
            if self._column + cells > self.columns:
                self._down(1)
                self._column = 0
            row = self._rows[self._row]
            row += [" "] * (self._column + cells - len(row))
            row[self._column : self._column + cells] = [char] + [""] * (cells - 1)
            self._column += cells

    def _sequence(self, numbers: str, letter: str) -> None:
        count = int(numbers) if numbers.isdigit() else 1
        if letter == "D":
            self._column = max(0, self._column - count)
        elif letter == "7":
            self._saved = self._row, self._column
        elif letter == "8":
            self._row, self._column = self._saved
        elif letter == "C":
            self._column += count
        elif letter == "A":
            self._row = max(0, self._row - count)
        elif letter == "B":
            self._down(count)
        elif letter in "KJ":
            del self._rows[self._row][self._column :]
            if letter == "J":
                del self._rows[self._row + 1 :]

    def _down(self, count: int) -> None:
        self._row += count
        self._rows += [[] for _ in range(self._row + 1 - len(self._rows))]


class Watched(io.TextIOWrapper):
    """A stream that is a terminal as far as it says, and keeps what is written."""

    mode = "w"
    name = "watched"

    def __init__(self, *, watched: bool = True) -> None:
        self._kept = io.BytesIO()
        self._watched = watched
        super().__init__(self._kept, encoding="utf-8", newline="", write_through=True)

    def isatty(self) -> bool:
        return self._watched

    def getvalue(self) -> str:
        return self._kept.getvalue().decode()


class Terminal:
    """Runs `python -m MODULE ARGUMENTS` in a pseudo-terminal of its own."""

    def __init__(self, module: str, *arguments: str, columns: int = 100, env: Mapping[str, str] | None = None) -> None:
        self.columns = columns
        self.output = ""
        self._bytes = b""
        self._seen = 0
        self._fd, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        # A Popen and no bare pid: it signals its own child only, and nothing once that has ended.
        self._program = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, module, *arguments],
            stdin=inside, stdout=inside, stderr=inside, start_new_session=True, cwd=ROOT,
            env=inherited | {"PYTHONPATH": str(ROOT)} | dict(env or {}),
        )  # fmt: skip
        os.close(inside)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._program.poll() is None:
            self._program.kill()
            self._program.wait()
        os.close(self._fd)

    def type(self, *keys: str) -> None:
        for key in keys:
            os.write(self._fd, key.encode())
            time.sleep(0.05)

    def wait(self, text: str, seconds: float = 20) -> str:
        """Reads on until `text` has come behind what the last wait found, and returns all up to its end."""
        until = time.monotonic() + seconds
        while (at := self._visible().find(text, self._seen)) < 0:
            rest = self._visible()[self._seen :]
            assert time.monotonic() < until, f"no {text!r} in {rest!r}"
            assert self._read(0.05), f"the program ended without {text!r}: {rest!r}"
        start, self._seen = self._seen, at + len(text)
        return self._visible()[start : self._seen]

    def prompted(self) -> str:
        """Waits until the program asks for a line."""
        return self.wait(PROMPT)

    def leave(self, seconds: float = 20) -> int:
        """Reads to the end and returns the exit code."""
        until = time.monotonic() + seconds
        while self._read(0.05):
            assert time.monotonic() < until, f"the program does not end: {self.output[-500:]!r}"
        return self._program.wait(seconds)

    @property
    def screen(self) -> list[str]:
        screen = Screen(self.columns)
        screen.feed(self.output)
        return screen.lines

    def _visible(self) -> str:
        """The output without escape sequences; the one that begins line editing becomes PROMPT."""
        whole = re.sub(r"\x1b[^A-Za-z]*$", "", self.output).replace("\x1b[?2004h", PROMPT)
        return _SEQUENCE.sub("", whole).replace("\r\n", "\n")

    def _read(self, seconds: float) -> bool:
        """Takes what was printed; False at the end."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux: the other side is closed
            return False
        self._bytes += data
        self.output = self._bytes.decode("utf-8", "replace")
        return bool(data)
