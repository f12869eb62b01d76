"""What ends a message, and what it is."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemma_mlx.cli.line import history_path, is_complete, message, piped_messages, utf8
from gemma_mlx.errors import InputError


@pytest.mark.parametrize(
    ("typed", "complete", "said"),
    [
        ("Hello", True, "Hello"),
        ("", True, ""),
        ("one\\", False, "one\\"),
        ("one\\\ntwo", True, "one\ntwo"),
        ('"""', False, '"""'),
        ('"""one', False, '"""one'),
        ('"""one\ntwo\\', False, '"""one\ntwo\\'),
        ('"""\n  one\n\ntwo\n"""', True, "  one\n\ntwo"),
        ('"""one"""', True, "one"),
        ('"""a\\\nb"""', True, "a\\\nb"),
        ('say """', True, 'say """'),
    ],
)
def test_messages(typed: str, complete: bool, said: str) -> None:
    assert is_complete(typed) is complete
    assert message(typed) == said


def _pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> list[str]:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    return list(piped_messages())


def test_lines_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    data = '\ufeffone\r\n\ntwo \\\nthree\n"""\nfour\n\nfive\n"""\nsix'.encode()
    assert _pipe(monkeypatch, data) == ["one", "", "two \nthree", "four\n\nfive", "six"]


def test_an_unfinished_block_is_a_message_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _pipe(monkeypatch, b'"""\none') == ['"""\none']
    assert _pipe(monkeypatch, b"one\\") == ["one\\"]


def test_a_pipe_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="Line 2 of stdin is not UTF-8 text: byte 1 is 0xe9"):
        _pipe(monkeypatch, b"one\nn\xe9e\n")


def test_utf8() -> None:
    assert utf8("\ufeffé".encode(), "x") == "é"


def test_history_is_where_the_system_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_path().is_relative_to(tmp_path)
