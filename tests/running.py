"""Commands run in this process, as a shell would see them end."""

from __future__ import annotations

import pytest

from gemma_mlx.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code of `gemma ARGUMENTS`, and what it printed on stdout and stderr."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, out, err
