"""Which tokens a checkpoint calls special."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.special import SpecialTokens, is_plain_text, looks_like_control, read_special_tokens


def read(tmp_path: Path, config: dict[str, Any]) -> SpecialTokens:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return read_special_tokens(tmp_path)


def test_control_tokens_by_name() -> None:
    for text in ("<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<|fim_prefix|>"):
        assert looks_like_control(text)
    for text in ("<|turn>", "<turn|>", "<|think|>", "<|tool_call>", '<|"|>'):  # Gemma 4's
        assert looks_like_control(text)
    for text in ("<h1>", "</table>", "<unused7>", "[multimodal]", "<|", "|>", "<||>", "<| a|>", "\n\n", "a<|b|>"):
        assert not looks_like_control(text)


def test_whitespace_and_single_characters_are_text() -> None:
    assert all(map(is_plain_text, ("", "a", "\n", "\n\n\n", " \t", "▁▁▁", "😀")))
    assert not any(map(is_plain_text, ("<bos>", "ab", "▁a")))


def test_no_file(tmp_path: Path) -> None:
    assert read_special_tokens(tmp_path) == SpecialTokens()


def test_names_and_marks(tmp_path: Path) -> None:
    special = read(
        tmp_path,
        {
            "bos_token": {"content": "<bos>", "lstrip": False},
            "eos_token": "<end_of_turn>",
            "add_bos_token": True,
            "mask_token": None,
            "additional_special_tokens": ["<a>", {"content": "<b>"}],
            "extra_special_tokens": {"boi_token": "<start_of_image>"},
            "chat_control_tokens": ["<c>"],
            "added_tokens_decoder": {
                "5": {"content": "<d>", "special": True},
                "6": {"content": "<e>", "special": False},
                "7": {"content": "<f>"},
            },
        },
    )
    assert special.named == {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "boi_token": "<start_of_image>"}
    assert special.control == {"<bos>", "<end_of_turn>", "<a>", "<b>", "<start_of_image>", "<c>", "<d>"}
    assert special.added == {5: ("<d>", True), 6: ("<e>", False), 7: ("<f>", False)}


@pytest.mark.parametrize(
    "config",
    [
        {"additional_special_tokens": "<a>"},
        {"additional_special_tokens": [1]},
        {"additional_special_tokens": ["\ud800"]},
        {"extra_special_tokens": {"a": None}},
        {"chat_control_tokens": 7},
        {"added_tokens_decoder": ["<a>"]},
        {"added_tokens_decoder": {"x": {"content": "<a>"}}},
        {"added_tokens_decoder": {"-1": {"content": "<a>"}}},
        {"added_tokens_decoder": {"²": {"content": "<a>"}}},
        {"added_tokens_decoder": {"99999999": {"content": "<a>"}}},
        {"added_tokens_decoder": {"9" * 5000: {"content": "<a>"}}},
        {"added_tokens_decoder": {"5": {}}},
        {"added_tokens_decoder": {"5": None}},
    ],
)
def test_malformed_entries(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: \w+ ") as caught:
        read(tmp_path, config)
    assert "was expected" in caught.value.message
    assert len(caught.value.message) < 400


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": ')
    with pytest.raises(TokenizerError, match="is not JSON"):
        read_special_tokens(tmp_path)
