"""Reading small files: one sentence per way they can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemma_mlx.errors import ConfigError, TemplateError, TokenizerError
from gemma_mlx.text.files import read_bytes, read_json_object, read_text


def test_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes('\ufeff{"ä": [1]}'.encode())
    assert read_bytes(path, 100, ConfigError).endswith(b"}")
    assert read_text(path, 100, ConfigError) == '{"ä": [1]}'  # without the byte order mark
    assert read_json_object(path, 100, ConfigError) == {"ä": [1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n\t ", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"{}" + b" " * 200, "202 bytes long, and no more than 100"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b'{"a": 1', "not JSON"),
        (b"[" * 99, "not JSON"),
        (b"[1]", "holds a JSON list"),
        (b"null", "holds a JSON NoneType"),
    ],
)
@pytest.mark.parametrize("error", [ConfigError, TemplateError, TokenizerError])
def test_broken_files(tmp_path: Path, data: bytes, message: str, error: type[TokenizerError]) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(data)
    with pytest.raises(error, match=message) as caught:
        read_json_object(path, 100, error)
    assert str(path) in caught.value.message


def test_deep_nesting(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'{"a":' * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_json_object(path, 1 << 20, ConfigError)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_bytes(tmp_path / "missing", 100, ConfigError)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_bytes(tmp_path, 1 << 20, ConfigError)
