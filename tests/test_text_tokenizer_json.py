"""tokenizer.json: what of the file counts, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gemma_mlx.errors import TokenizerError
from gemma_mlx.text.tokenizer import Segment
from gemma_mlx.text.tokenizer_json import JsonTokenizer
from tests.goldens.text import assets

TEXT = "Hello  <h1>wörld</h1>\n\n\n"


@pytest.fixture
def data() -> dict[str, Any]:
    return assets.read_tokenizer("gemma3")


def write(folder: Path, data: dict[str, Any], config: dict[str, Any] | None = None) -> JsonTokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return JsonTokenizer(folder / "tokenizer.json")


@pytest.fixture
def expected() -> list[int]:
    return JsonTokenizer(assets.small("gemma3") / "tokenizer.json").encode(TEXT)


def test_post_processor_truncation_and_padding_do_not_count(
    tmp_path: Path, data: dict[str, Any], expected: list[int]
) -> None:
    assert data["post_processor"]["single"][0] == {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    tokenizer = write(tmp_path, data | {"truncation": truncation, "padding": padding})
    assert tokenizer.encode(TEXT) == expected
    assert tokenizer.encode(TEXT, bos=True) == [2, *expected]


def test_dropout_is_for_training(tmp_path: Path, data: dict[str, Any], expected: list[int]) -> None:
    data["model"]["dropout"] = 0.9
    tokenizer = write(tmp_path, data)
    assert [tokenizer.encode(TEXT) for _ in range(5)] == [expected] * 5


def test_turn_tokens_need_not_be_marked(tmp_path: Path, data: dict[str, Any], expected: list[int]) -> None:
    """As in early files of Gemma 1, which list them as ordinary entries, or as added tokens that are not special."""
    turns = ("<start_of_turn>", "<end_of_turn>")
    for token in data["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in turns
    for added in (data["added_tokens"], [token for token in data["added_tokens"] if token["content"] not in turns]):
        tokenizer = write(tmp_path, data | {"added_tokens": added})
        for token in turns:
            assert tokenizer.encode([Segment(token, control=True)]) == [tokenizer.id_of(token)]
            assert not any(map(tokenizer.is_control, tokenizer.encode(f"a{token}b")))
        assert tokenizer.encode(TEXT) == expected


def test_tokens_of_tokenizer_config_are_control(tmp_path: Path, data: dict[str, Any]) -> None:
    tokenizer = write(
        tmp_path, data, {"additional_special_tokens": ["<unused1>", "<absent>"], "pad_token": "[multimodal]"}
    )
    assert {"<unused1>", "[multimodal]"} <= tokenizer.control_tokens.keys()
    assert "<absent>" not in tokenizer.control_tokens
    assert not any(map(tokenizer.is_control, tokenizer.encode("<unused1>[multimodal]")))
    assert tokenizer.encode([Segment("<unused1>", control=True)]) == [tokenizer.id_of("<unused1>")]
    assert tokenizer.encode("<unused0>") == [tokenizer.id_of("<unused0>")]


def test_whitespace_stays_text_even_when_marked(tmp_path: Path, data: dict[str, Any], expected: list[int]) -> None:
    for token in data["added_tokens"]:
        token["special"] = token["special"] or token["content"].isspace()
    tokenizer = write(tmp_path, data, {"pad_token": "\n"})
    assert tokenizer.encode(TEXT) == expected
    assert tokenizer.decode(expected) == TEXT


def test_flags_of_control_tokens(tmp_path: Path, data: dict[str, Any]) -> None:
    for token in data["added_tokens"]:
        if token["content"] == "<end_of_turn>":
            token["rstrip"] = True
    tokenizer = write(tmp_path, data)
    ids = tokenizer.encode([Segment("a<end_of_turn>  \n", control=True), Segment(" b", control=False)])
    assert tokenizer.decode(ids, control=True) == "a<end_of_turn>b"


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_bos_and_eos_are_needed(name: str, tmp_path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data).replace(f"<{name}>", f"<not_{name}>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError, match=f"has no <{name}> token"):
        JsonTokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({f"{name}_token": f"<not_{name}>"}))
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    assert getattr(tokenizer, f"{name}_id") == tokenizer.id_of(f"<not_{name}>")


def test_another_models_tokenizers(tmp_path: Path, data: dict[str, Any]) -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    for change in (
        {"normalizer": {"type": "Prepend", "prepend": "▁"}},  # Llama's first space
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": byte_level, "decoder": byte_level},
    ):
        with pytest.raises(TokenizerError, match="is not a Gemma tokenizer: it reads"):
            write(tmp_path, data | change)


def test_byte_pieces_must_be_used(tmp_path: Path, data: dict[str, Any]) -> None:
    data["model"]["byte_fallback"] = False
    with pytest.raises(TokenizerError, match="is not a Gemma tokenizer: it reads"):
        write(tmp_path, data)


@pytest.mark.parametrize("prefix", ["##", "é"])
def test_a_prefix_that_aborts_the_library(prefix: str, tmp_path: Path, data: dict[str, Any]) -> None:
    data["model"]["continuing_subword_prefix"] = prefix
    with pytest.raises(TokenizerError, match="continuing_subword_prefix"):
        write(tmp_path, data)


def test_a_panic_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3 raises it: not an Exception."""

    def panic(*_: object, **__: object) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    path = assets.small("gemma3") / "tokenizer.json"
    tokenizer = JsonTokenizer(path)
    monkeypatch.setattr("tokenizers.Tokenizer.from_buffer", panic)
    with pytest.raises(TokenizerError, match="is damaged: called"):
        JsonTokenizer(path)
    tokenizer._backend = type("Backend", (), {"encode": panic})()
    with pytest.raises(TokenizerError, match="cannot encode this text: called"):
        tokenizer.encode("a")


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes(signal: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise signal

    path = assets.small("gemma3") / "tokenizer.json"
    tokenizer = JsonTokenizer(path)
    tokenizer._backend = type("Backend", (), {"encode": interrupt})()
    with pytest.raises(signal):
        tokenizer.encode("a")
    monkeypatch.setattr("tokenizers.Tokenizer.from_buffer", interrupt)
    with pytest.raises(signal):
        JsonTokenizer(path)


def mutate(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested lists and dictionaries with one entry replaced, or left out for `...`."""
    if not path:
        return new
    copy = value.copy()
    if len(path) == 1 and new is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = mutate(copy[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("path", [
    ("model",), ("model", "vocab"), ("model", "merges"), ("model", "type"), ("model", "unk_token"),
    ("model", "vocab", "<bos>"), ("model", "vocab", "a"), ("model", "merges", 0), ("model", "merges", 100),
    ("added_tokens",), ("added_tokens", 0), ("added_tokens", 0, "id"), ("added_tokens", 2, "content"),
    ("added_tokens", 5, "special"), ("normalizer",), ("normalizer", "type"), ("normalizer", "pattern"),
    ("pre_tokenizer",), ("pre_tokenizer", "behavior"), ("decoder",), ("decoder", "decoders"), ("post_processor",),
    ("post_processor", "special_tokens"), ("truncation",), ("padding",), ("version",),
], ids=str)  # fmt: skip
def test_wrong_entries_load_or_are_refused(path: tuple[Any, ...], tmp_path: Path, data: dict[str, Any]) -> None:
    """Each entry left out, of another type, or absurd."""
    model = data["model"]
    keep = {token: id for token, id in model["vocab"].items() if id < 900 or len(token) == 1}
    merges = [merge for merge in model["merges"] if {*merge, "".join(merge)} <= keep.keys()][:200]
    data = data | {"model": model | {"vocab": keep, "merges": merges}}
    outcomes = set()
    for new in (..., None, True, -1, 2**32, 2**64, "", "x", [], {}, [["a", "b"]], {"type": "BPE"}, {"Regex": "(("}):
        try:
            tokenizer = write(tmp_path, mutate(data, path, new))
            tokenizer.encode([Segment(TEXT, control=True)])
            outcomes.add("loads")
        except TokenizerError:
            outcomes.add("refused")
    assert outcomes
