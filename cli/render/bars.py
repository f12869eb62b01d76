"""Progress of what takes over a second: one line on stderr that goes away again, on a terminal only."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from typing import Final

from gemma_mlx.cli.console import columns, is_terminal
from gemma_mlx.cli.render.tables import size

PATIENCE_SECONDS: Final = 1.0
BETWEEN_SECONDS: Final = 0.1
WINDOW_SECONDS: Final = 20.0
_CELLS: Final = 20


class Progress:
    """A line that appears when something has taken a second, follows it, and is erased at the end.

    MLX computes for seconds between two calls, so the first line comes from a timer.

    Args:
        quiet: draw nothing, whatever happens.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._enabled = not quiet and is_terminal(sys.stderr)
        self._lock = threading.Lock()
        self._text = ""
        self._drawn = ""
        self._at = 0.0
        self._what = ""
        self._pace = Pace(0, 0.0)
        self._begun = (0, 0.0)
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins the second of patience."""
        if self._enabled:
            self._timer = threading.Timer(PATIENCE_SECONDS, self._draw)
            self._timer.daemon = True
            self._timer.start()

    def stop(self) -> None:
        """Erases the line. It may start again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        with self._lock:
            if self._drawn:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            self._drawn = self._text = ""

    def loading(self, what: str, done: int, total: int) -> None:
        """Bytes of a model that are in memory."""
        self._show("Loading" if what == "weights" else f"Loading {what}", done, total, f"{total / 1e9:.1f} GB")

    def writing(self, what: str, done: int, total: int) -> None:
        """Bytes of a model that are on the disk."""
        self._show(f"Writing {what}", done, total, f"{total / 1e9:.1f} GB")

    def quantizing(self, what: str, done: int, total: int) -> None:
        """Tensors and bytes of a smaller model that are on the disk: how fast, and how long it will take."""
        now = time.monotonic()
        if self._what != "quantizing":  # a run that goes on where another stopped begins with what that one did
            self._what, self._pace = "quantizing", Pace(done, now)
        self._show(what.capitalize(), done, total, size(total), self._pace.told(done, total, now))

    def sensing(self, what: str, done: int, total: int) -> None:
        """Layers of a model of which is known what their errors cost."""
        self._show(f"Measuring {what}", done, total, "the model")

    def calibrating(self, what: str, done: int, total: int) -> None:
        """Layers whose codes suit a text, and how long the others will take."""
        now = time.monotonic()
        if self._what != "calibrating":
            self._what, self._pace = "calibrating", Pace(done, now)
        self._show(f"Calibrating {what}", done, total, "the model", self._pace.left(done, total, now))

    def reading(self, done: int, total: int) -> None:
        """Tokens of a prompt that have been read."""
        self._show("Reading", done, total, f"{total:,} tokens")

    def embedding(self, done: int, total: int) -> None:
        """Texts that have their vectors."""
        self._show("Embedding", done, total, f"{total:,} texts")

    def judging(self, done: int, total: int) -> None:
        """Texts that have their verdicts."""
        self._show("Judging", done, total, f"{total:,} texts")

    def comparing(self, who: str, done: int, total: int) -> None:
        """Tokens or texts that the teacher, or the student, has read, and how long the rest of them will take."""
        now = time.monotonic()
        if self._what != who:
            self._what, self._pace = who, Pace(done, now)
        name = "Reading the original" if who == "teacher" else "Reading the result"
        self._show(name, done, total, f"{total:,}", self._pace.left(done, total, now))

    def measuring(self, done: int, total: int) -> None:
        """Runs of a measurement."""
        self._show("Measuring", done, total, f"{total} runs")

    def fetching(self, what: str, done: int, total: int) -> None:
        """Bytes that came from a hub, or were compared with it: how fast, and how long it will take."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._pace = what, Pace(done, now)
        name = "Fetching" if what == "from the hub" else "Verifying"
        self._show(name, done, total, size(total), self._pace.told(done, total, now))

    def _show(self, what: str, done: int, total: int, of: str, more: str = "") -> None:
        self._text = line(what, done, total, of, columns(), more)
        timer = self._timer
        if timer is not None and not timer.is_alive() and time.monotonic() - self._at > BETWEEN_SECONDS:
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            text = self._text or "Loading"
            if self._timer is not None and text != self._drawn:
                sys.stderr.write(f"\r\x1b[K{text}")
                sys.stderr.flush()
                self._drawn, self._at = text, time.monotonic()


class Pace:
    """How fast something goes on, over the last seconds of it.

    Args:
        done: where it begins.
        at: when, in seconds.
    """

    def __init__(self, done: int, at: float) -> None:
        self._seen = deque([(at, done)])

    def told(self, done: int, total: int, now: float) -> str:
        """`12.3 MB/s, 4 min left`; nothing before there is a second to judge by."""
        speed = self._speed(done, now)
        return "" if speed is None else f"{size(speed)}/s{_left(total - done, speed, ', ')}"

    def left(self, done: int, total: int, now: float) -> str:
        """`4 min left`; nothing before there is a second to judge by."""
        return _left(total - done, self._speed(done, now) or 0.0)

    def _speed(self, done: int, now: float) -> float | None:
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > WINDOW_SECONDS:
            self._seen.popleft()
        at, before = self._seen[0]
        return None if now - at < PATIENCE_SECONDS else max(0.0, (done - before) / (now - at))


def _left(more: int, speed: float, before: str = "") -> str:
    return f"{before}{lasting(more / speed)} left" if speed else ""


def lasting(seconds: float) -> str:
    """A time as people say it: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def line(what: str, done: int, total: int, of: str, width: int, more: str = "") -> str:
    """`Loading  45% of 2.1 GB  ########------------`, shorter where the terminal is narrow.

    Args:
        more: what stands behind it, and stays longer than the bar and the size.
    """
    share = done / total if total else 0.0
    text = f"{what} {share:4.0%} of {of}"
    filled = round(share * _CELLS)
    bar = f"  {'#' * filled}{'-' * (_CELLS - filled)}"
    more = f"  {more}" if more else ""
    short = f"{what} {share:4.0%}{more}" if more else text
    whole = next((whole for whole in (text + bar + more, text + more, short) if len(whole) < width), text)
    return whole[: max(width - 1, 0)]
