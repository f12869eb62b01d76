"""Progress: only where somebody watches, only after a while, and gone at the end."""

from __future__ import annotations

import time

import pytest

from gemma_mlx.cli.render import bars
from gemma_mlx.cli.render.bars import Pace, Progress, lasting, line
from tests.terminal import Screen, Watched


def watch(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Called in the test and no fixture: pytest sets its own stderr between the two."""
    stream = Watched()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(bars, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(bars, "BETWEEN_SECONDS", 0.0)
    return stream


def test_line() -> None:
    assert line("Reading", 9, 18, "18 tokens", 80) == "Reading  50% of 18 tokens  ##########----------"
    assert line("Reading", 9, 18, "18 tokens", 40) == "Reading  50% of 18 tokens"
    assert line("Reading", 9, 18, "18 tokens", 12) == "Reading  50"
    assert line("Reading", 0, 0, "0 tokens", 80).startswith("Reading   0%")


def test_line_with_more_behind_it() -> None:
    assert line("Fetching", 1, 2, "8 GB", 80, "3 MB/s") == "Fetching  50% of 8 GB  ##########----------  3 MB/s"
    assert line("Fetching", 1, 2, "8 GB", 40, "3 MB/s") == "Fetching  50% of 8 GB  3 MB/s"
    assert line("Fetching", 1, 2, "8 GB", 25, "3 MB/s") == "Fetching  50%  3 MB/s"
    assert line("Fetching", 1, 2, "8 GB", 20, "3 MB/s") == "Fetching  50% of 8 "


def test_pace() -> None:
    pace = Pace(1_000_000, 0.0)
    assert pace.told(1_500_000, 100_000_000, 0.5) == "", "too early to say"
    assert pace.told(11_000_000, 100_000_000, 10.0) == "1.0 MB/s, 2 min left"
    assert pace.told(11_000_000, 100_000_000, 20.0) == "500 kB/s, 3 min left"
    assert pace.told(11_000_000, 100_000_000, 60.0) == "0 bytes/s", "nothing came for a while"


def test_lasting() -> None:
    assert [lasting(seconds) for seconds in (0.4, 59, 61, 3600, 4800)] == [
        "0 s",
        "59 s",
        "2 min",
        "1 h 0 min",
        "1 h 20 min",
    ]


def test_fetching(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    with Progress() as progress:
        progress.fetching("from the hub", 0, 100)
        time.sleep(0.1)
        progress.fetching("from the hub", 50, 100)
        progress.fetching("to verify it", 1, 4)
    assert "Fetching  50% of 100 bytes" in watched.getvalue()
    assert "Verifying  25% of 4 bytes" in watched.getvalue()


def test_quantizing_counts_from_where_this_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    watch(monkeypatch)
    at = iter((100.0, 110.0))
    progress = Progress()
    monkeypatch.setattr(bars.time, "monotonic", lambda: next(at, 110.0))
    progress.quantizing("tensor 8 of 20", 5_000_000_000, 10_000_000_000)
    assert progress._text == "Tensor 8 of 20  50% of 10.0 GB  ##########----------"
    progress.quantizing("tensor 9 of 20", 6_000_000_000, 10_000_000_000)
    assert progress._text.startswith("Tensor 9 of 20  60%")
    assert progress._text.endswith("100 MB/s, 40 s left")


def test_comparing_says_who_reads_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    with Progress() as progress:
        time.sleep(0.1)
        for who in ("teacher", "student"):
            for done in (0, 500):
                progress.comparing(who, done, 1000)
                now[0] += 10
    text = watched.getvalue()
    assert "Reading the original  50% of 1,000  ##########----------  10 s left" in text
    assert "Reading the result  50% of 1,000  ##########----------  10 s left" in text


def test_nothing_within_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    with Progress() as progress:
        progress.loading("weights", 0, 10)
    time.sleep(0.1)
    assert watched.getvalue() == ""


def test_drawn_from_the_timer_and_then_by_calls_and_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    with Progress() as progress:
        progress.loading("weights", 0, 3_000_000_000)
        time.sleep(0.2)
        assert "Loading   0% of 3.0 GB" in watched.getvalue()
        progress.loading("layer 3", 1_500_000_000, 3_000_000_000)
        assert "Loading layer 3  50% of 3.0 GB" in watched.getvalue()
        progress.embedding(1, 4)
        assert "Embedding  25% of 4 texts" in watched.getvalue()
        progress.measuring(1, 4)
        assert "Measuring  25% of 4 runs" in watched.getvalue()
    screen = Screen(80)
    screen.feed(watched.getvalue())
    assert screen.lines == [""]


@pytest.mark.parametrize("quiet", [True, False])
def test_never_where_nobody_watches(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Watched(watched=quiet)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(bars, "PATIENCE_SECONDS", 0.01)
    with Progress(quiet=quiet) as progress:
        progress.reading(1, 2)
        time.sleep(0.05)
    assert stream.getvalue() == ""
