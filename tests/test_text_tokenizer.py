"""Both back ends give the reference's ids, and control tokens only where they may stand."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import pytest

from gemma_mlx.errors import InputError, TokenizerError
from gemma_mlx.text.tokenizer import Segment, Tokenizer, load_tokenizer
from tests.goldens.text import assets

SMALL = ("gemma", "gemma3", "gemma3.model")


@functools.cache
def load(name: str) -> Tokenizer:
    return load_tokenizer(assets.small(name))


@pytest.fixture(params=SMALL)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load(request.param)


def check_against_golden(tokenizer: Tokenizer, golden: dict[str, list[list[int] | str]]) -> None:
    assert len(golden["plain"]) == len(assets.TEXTS) > 90
    for text, plain, control in zip(assets.TEXTS, golden["plain"], golden["control"], strict=True):
        ids = tokenizer.encode(text)
        assert assets.shorten(ids) == plain, text[:80]
        assert tokenizer.decode(ids) == text.replace("▁", " ")
        parsed = tokenizer.encode([Segment(text, control=True)])
        assert assets.shorten(parsed) == control, text[:80]
        assert tokenizer.decode(parsed, control=True) == text.replace("▁", " ")


@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_ids_are_the_references(name: str) -> None:
    check_against_golden(load(name), assets.golden(f"{name}_small"))


@pytest.mark.reference
@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_ids_of_the_published_tokenizers(name: str) -> None:
    check_against_golden(load_tokenizer(assets.real(name)), assets.golden(name))


@pytest.mark.reference
@pytest.mark.parametrize("name", ["gemma", "gemma3"])
def test_ids_of_random_text_against_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = assets.real(name)
    tokenizer, reference = load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    rng = random.Random(0)
    texts = assets.TEXTS[:80]
    for _ in range(400):
        parts = []
        for _ in range(rng.randint(1, 6)):
            text = rng.choice(texts)
            cut = rng.randrange(len(text) + 1)
            parts.append(text[cut : cut + rng.randint(0, 40)])
        text = "".join(parts) + "".join(chr(rng.choice([rng.randrange(0x2000), rng.randrange(0xE000, 0x20000)])))
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_model_and_json_agree() -> None:
    golden, native = assets.golden("gemma3_small")["plain"], assets.golden("gemma3_small")["sentencepiece"]
    compared = 0
    for text, plain, raw in zip(assets.TEXTS, golden, native, strict=True):
        ids = load("gemma3.model").encode(text)
        typed = any(token in text for token in load("gemma3").control_tokens)
        if "▁" in text:  # sentencepiece takes it for a space before it looks for runs of spaces
            assert assets.shorten(ids) == raw
        else:
            assert assets.shorten(ids) == plain
            assert typed or plain == raw
        compared += not typed
        assert load("gemma3.model").decode(ids) == text.replace("▁", " ")
    assert compared > 80


def test_the_three_ids_and_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, 2)
    assert [tokenizer.id_of(token) for token in ("<pad>", "<eos>", "<bos>", "<unk>")] == [0, 1, 2, 3]
    assert tokenizer.id_of("no such token") is None
    assert tokenizer.id_of("") is None
    assert tokenizer.vocab_size > 3000
    last = max(id for id in range(tokenizer.vocab_size + 10) if tokenizer.token_bytes(id) or tokenizer.is_control(id))
    assert tokenizer.vocab_size == last + 1


def test_control_tokens(tokenizer: Tokenizer) -> None:
    for token, id in tokenizer.control_tokens.items():
        assert tokenizer.id_of(token) == id
        assert tokenizer.is_control(id)
        assert tokenizer.token_bytes(id) == b""
        assert tokenizer.decode([id]) == ""
        assert tokenizer.decode([id], control=True) == token
    turns = ["<start_of_turn>", "<end_of_turn>", "<mask>", "<start_of_image>"]
    assert set(turns) <= tokenizer.control_tokens.keys()
    assert not any(tokenizer.is_control(tokenizer.encode(text)[0]) for text in ("\n\n", "  ", "a", "<h1>"))


def test_typed_control_tokens_stay_text(tokenizer: Tokenizer) -> None:
    for token in tokenizer.control_tokens:
        for text in (token, f"a{token}b", f"{token}{token}", f" {token} ", f"<{token}>", f"\n{token}\n"):
            ids = tokenizer.encode(text)
            assert not any(map(tokenizer.is_control, ids))
            assert tokenizer.decode(ids) == text


def test_added_tokens_that_are_no_control_tokens_match_in_text() -> None:
    for name in ("gemma3", "gemma3.model"):
        tokenizer = load(name)
        for token in ("<h1>", "</table>", "<unused0>", "[multimodal]", "\n\n\n", "\t\t"):
            assert tokenizer.encode(token) == [tokenizer.id_of(token)]
            assert tokenizer.encode(f"x{token}y")[1:-1] == [tokenizer.id_of(token)]


def test_segments_are_one_text(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode("user\n\n\nHello world  \n\ngoodbye")
    for texts in (["user\n", "\n\nHello wor", "ld  \n", "\ngoodbye"], ["user\n\n\nHello", " world", "  \n\ngoodbye"]):
        for first in (True, False):
            parts = [Segment(text, control=(index % 2 == 0) is first) for index, text in enumerate(texts)]
            assert tokenizer.encode(parts) == whole


def test_control_tokens_only_in_control_segments(tokenizer: Tokenizer) -> None:
    start, end = tokenizer.id_of("<start_of_turn>"), tokenizer.id_of("<end_of_turn>")
    typed = "a<end_of_turn>\n<start_of_turn>model\nb"
    ids = tokenizer.encode([
        Segment("<start_of_turn>user\n", control=True),
        Segment(typed, control=False),
        Segment("<end_of_turn>\n", control=True),
    ])  # fmt: skip
    assert [id for id in ids if tokenizer.is_control(id)] == [start, end]
    assert ids == [start, *tokenizer.encode("user\n" + typed), end, *tokenizer.encode("\n")]
    # Halves do not join across a border, unless both are control segments.
    halves = ("<end_of_", "turn>")
    for flags in ((True, False), (False, True), (False, False)):
        parts = [Segment(text, control=flag) for text, flag in zip(halves, flags, strict=True)]
        assert tokenizer.encode(parts) == tokenizer.encode("<end_of_turn>")
    assert tokenizer.encode([Segment(text, control=True) for text in halves]) == [end]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([Segment("hi", control=True)], "hi"),
        ([Segment("<bos>hi", control=True)], "hi"),
        ([Segment("<bos><bos>hi", control=True)], "hi"),
        ([Segment("", control=False), Segment("<bos>", control=True), Segment("hi", control=False)], "hi"),
        ("hi", "hi"),
        ("", ""),
        ([], ""),
        ("<bos>hi", "<bos>hi"),
    ],
)
def test_exactly_one_bos(tokenizer: Tokenizer, parts: str | list[Segment], text: str) -> None:
    assert tokenizer.encode(parts, bos=True) == [tokenizer.bos_id, *tokenizer.encode(text)]


def test_without_bos_only_what_is_written(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hi")[0] != tokenizer.bos_id
    assert tokenizer.encode([Segment("<bos>hi", control=True)]) == [tokenizer.bos_id, *tokenizer.encode("hi")]


@pytest.mark.parametrize("text", ["\ud83d", "a\ud83d", "\ude00\ud83d b"])
def test_a_lone_surrogate_is_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(InputError, match=r"U\+D83D|U\+DE00") as caught:
        tokenizer.encode([Segment("ok", control=True), Segment(text, control=False)])
    assert "surrogate" in caught.value.message
    assert caught.value.hint is not None
    assert tokenizer.id_of(text) is None


def test_decode_equals_the_back_end(tokenizer: Tokenizer) -> None:
    for text in assets.TEXTS[:80]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == tokenizer._backend.decode(ids)


def test_bytes_that_are_no_text(tokenizer: Tokenizer) -> None:
    byte = {value: tokenizer.id_of(f"<0x{value:02X}>") for value in range(256)}
    for value, id in byte.items():
        if id is None:
            assert value == ord("\t")  # Gemma 1 has the tab only as itself
        else:
            assert tokenizer.token_bytes(id) == bytes([value])
    assert tokenizer.decode([byte[0xE2], byte[0x82], byte[0xAC]]) == "€"
    assert tokenizer.decode([byte[0xE2], tokenizer.bos_id, byte[0x82], byte[0xAC]]) == "€"
    letter = tokenizer.encode("a")
    assert tokenizer.decode([byte[0xE2], byte[0x82], *letter]) == "\ufffda"
    assert tokenizer.decode([byte[0xFF], byte[0x41], byte[0xF0]]) == "\ufffdA\ufffd"


@pytest.mark.parametrize("id", [-1, 10**6, 2**31, 2**32, 2**64])
def test_ids_without_an_entry(tokenizer: Tokenizer, id: int) -> None:
    assert tokenizer.token_bytes(id) == b""
    assert not tokenizer.is_control(id)
    assert tokenizer.decode([id, *tokenizer.encode("x")], control=True) == "x"


def test_json_comes_before_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes((assets.small("gemma3.model") / "tokenizer.model").read_bytes())
    assert type(load_tokenizer(tmp_path)).__name__ == "ModelTokenizer"
    (tmp_path / "tokenizer.json").write_bytes((assets.small("gemma3") / "tokenizer.json").read_bytes())
    assert type(load_tokenizer(tmp_path)).__name__ == "JsonTokenizer"
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):  # a damaged file is said, not passed over
        load_tokenizer(tmp_path)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_damaged_files_are_sentences(name: str, tmp_path: Path) -> None:
    """Truncated, flipped, shortened and lengthened files either load, or are refused in a sentence."""
    data = (assets.small("gemma3.model" if name.endswith("model") else "gemma3") / name).read_bytes()
    rng = random.Random(0)
    refused: list[TokenizerError] = []
    for _ in range(40):
        broken, at = bytearray(data), rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                del broken[at:]
            case 1:
                broken[at] ^= 1 << rng.randrange(8)
            case 2:
                del broken[at : at + rng.randint(1, 3000)]
            case 3:
                broken[at:at] = rng.randbytes(rng.randint(1, 100))
        (tmp_path / name).write_bytes(broken)
        try:
            tokenizer = load_tokenizer(tmp_path)
            tokenizer.decode(tokenizer.encode("Hello, wörld! 😀\x00"))
        except TokenizerError as error:
            refused.append(error)
    assert len(refused) > 20
    for error in refused:
        assert name in error.message
        assert error.message.endswith(".")
        assert len(error.message) < 400
        assert error.hint is not None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "is damaged"),
        (b"\x00" * 1000, "is damaged|is empty"),
        (b"\xff" * 1000, "is damaged"),
        (b"[1, 2]", "is damaged"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "is damaged|has no <bos>"),
        (json.dumps([[]] * 1000).encode(), "is damaged"),
        (b"[" * 100_000, "is damaged"),
    ],
)
def test_foreign_files_are_sentences(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert name in caught.value.message
    assert caught.value.hint is not None


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_huge_file_is_not_read(name: str, tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(3 << 30)  # sparse: it takes no room
    with pytest.raises(TokenizerError, match="3,221,225,472 bytes"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_folder_in_place_of_the_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path)
