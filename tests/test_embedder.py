"""Texts to vectors: prompts, ids, order, sizes, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import gemma_mlx
from gemma_mlx import embedder as embedding
from gemma_mlx.config import read_config
from gemma_mlx.embedder import Embedder
from gemma_mlx.errors import CheckpointError, InputError
from gemma_mlx.gemma import Gemma
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.weights.save import save_checkpoint
from tests.goldens.text import assets
from tests.tiny import write_tiny_embedder

CONTEXT = 64
TEXTS = ["hello", "a much longer text, with many more words in it than the others have", "", "two words", "hello"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    write_tiny_embedder(folder, vocab=4202, context=CONTEXT, tokenizer=assets.small("gemma3"))
    return folder


@pytest.fixture(scope="module")
def gemma(folder: Path) -> Gemma:
    return gemma_mlx.load(folder, mx.float32)


class Spy(Encoder):
    """Remembers what it was asked, and answers with the rows' first ids behind the prompt."""

    def __init__(self, model: Encoder) -> None:
        super(Encoder, self).__init__()
        self._spec = model.spec
        self.asked: list[tuple[list[list[int]], list[int] | None]] = []

    def __call__(self, tokens: mx.array, lengths: mx.array | None = None) -> mx.array:
        self.asked.append((tokens.tolist(), None if lengths is None else lengths.tolist()))  # type: ignore[arg-type]
        return mx.broadcast_to(tokens[:, 1:2].astype(mx.float32), (len(tokens), self.spec.embedding_dim))


@pytest.fixture
def spy(gemma: Gemma) -> tuple[Spy, Embedder]:
    assert isinstance(gemma.model, Encoder)
    spy = Spy(gemma.model)
    return spy, Embedder(spy, gemma.processor.tokenizer, gemma.folder)


def cosine(one: mx.array, other: mx.array) -> float:
    return (one * other).sum().item()  # type: ignore[return-value]


def test_one_row_for_each_text_in_their_order(gemma: Gemma) -> None:
    found = gemma.embed(TEXTS)
    assert (found.shape, found.dtype) == ((5, 64), mx.float32)
    assert mx.allclose(mx.linalg.norm(found, axis=-1), mx.ones(5), atol=1e-5)
    for row, text in enumerate(TEXTS):
        assert cosine(found[row], gemma.embed(text)[0]) > 0.99999
    assert cosine(found[0], found[1]) < 0.999


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_batches_change_nothing(gemma: Gemma, batch: int) -> None:
    assert mx.allclose(gemma.embed(TEXTS, batch=batch), gemma.embed(TEXTS, batch=1), atol=1e-5)


def test_batches_are_of_like_length(spy: tuple[Spy, Embedder]) -> None:
    model, embedder = spy
    told: list[tuple[int, int]] = []
    embedder.embed(
        ["b", "c d e f g h", "a", "i j k l m n"], task="none", batch=2, on_progress=lambda *at: told.append(at)
    )
    lengths = [[len(row) for row in rows] for rows, _ in model.asked]
    assert [found for _, found in model.asked] == [None, None], "rows of one length need no padding"
    assert lengths[0][0] > lengths[1][0]
    assert told == [(0, 4), (2, 4), (4, 4)]


def test_long_texts_go_in_smaller_batches(spy: tuple[Spy, Embedder], monkeypatch: pytest.MonkeyPatch) -> None:
    model, embedder = spy
    monkeypatch.setattr(embedding, "TOKENS_AT_ONCE", 50)
    embedder.embed(["word " * 30, "a", "b", "c"], task="none")
    assert [len(rows) for rows, _ in model.asked] == [1, 3]


def test_ids_are_bos_prompt_text_eos(spy: tuple[Spy, Embedder], gemma: Gemma) -> None:
    model, embedder = spy
    embedder.embed("hello", task="query")
    tokenizer = gemma.processor.tokenizer
    text = tokenizer.encode("task: search result | query: hello")
    assert model.asked == [([[tokenizer.bos_id, *text, tokenizer.eos_id]], None)]
    embedder.embed("<eos>", task="none")
    (ids,), _ = model.asked[-1]
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.eos_id) == 1, "what a user types is no control token"


def test_tasks_and_titles(gemma: Gemma) -> None:
    plain = gemma.embed("title: On Mars | text: Red.", task="none")
    assert mx.allclose(gemma.embed("Red.", title="On Mars"), plain, atol=1e-5)
    assert mx.allclose(gemma.embed(["Red."] * 2, title=[None, "On Mars"])[1:], plain, atol=1e-5)
    assert not mx.allclose(gemma.embed("Red."), plain, atol=1e-3)
    assert not mx.allclose(gemma.embed("Red.", task="query"), gemma.embed("Red."), atol=1e-3)


@pytest.mark.parametrize("size", [1, 16, 64])
def test_sizes(gemma: Gemma, size: int) -> None:
    whole = gemma.embed(TEXTS, normalize=False)
    cut = gemma.embed(TEXTS, size=size)
    assert cut.shape == (5, size)
    wanted = whole[:, :size] / mx.linalg.norm(whole[:, :size], axis=-1, keepdims=True)
    assert mx.allclose(cut, wanted, atol=1e-5)
    assert mx.array_equal(gemma.embed(TEXTS, size=size, normalize=False), whole[:, :size])


def test_no_texts(gemma: Gemma) -> None:
    assert gemma.embed([]).shape == (0, 64)
    assert gemma.embed([], size=16).shape == (0, 16)


def test_a_vector_of_zeros_stays_one(spy: tuple[Spy, Embedder]) -> None:
    _, embedder = spy
    embedder._model = Zeros(embedder._model)
    assert mx.array_equal(embedder.embed("a"), mx.zeros((1, 64)))


class Zeros(Spy):
    def __call__(self, tokens: mx.array, lengths: mx.array | None = None) -> mx.array:
        return mx.zeros((len(tokens), self.spec.embedding_dim))


def test_too_long(gemma: Gemma, spy: tuple[Spy, Embedder]) -> None:
    long = "word " * CONTEXT
    with pytest.raises(InputError, match=r"Text 2 has \d+ tokens with its prompt.* at most 64") as caught:
        gemma.embed(["short", long])
    assert "--truncate" in str(caught.value.hint)
    model, embedder = spy
    embedder.embed([long], truncate=True)
    (row,), _ = model.asked[0]
    tokenizer = gemma.processor.tokenizer
    assert (len(row), row[0], row[-1]) == (CONTEXT, tokenizer.bos_id, tokenizer.eos_id)
    assert gemma.embed(long, truncate=True).shape == (1, 64)


@pytest.mark.parametrize(("stated", "limit"), [({"max_seq_length": 20}, 20), ({"max_seq_length": 999}, 64), ({}, 64)])
def test_the_length_sentence_transformers_states(
    stated: dict[str, int], limit: int, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(stated | {"do_lower_case": False}))
    assert gemma_mlx.load(tmp_path).embedder.limit == limit


@pytest.mark.parametrize("length", ["512", 0, True, 2.5])
def test_a_length_that_is_none(length: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    with pytest.raises(CheckpointError, match="'max_seq_length' is"):
        _ = gemma_mlx.load(tmp_path).embedder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "A vector of 0 numbers was asked for; this model's have 64"),
        ({"size": 65}, "A vector of 65 numbers"),
        ({"batch": 0}, "A batch of 0 rows"),
        ({"task": "chat"}, "no task 'chat'"),
        ({"title": ["one"]}, "1 titles for 2 texts"),
        ({"task": "query", "title": "x"}, "have none"),
    ],
)
def test_what_is_refused(gemma: Gemma, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gemma.embed(["a", "b"], **options)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_quantized_with_its_linear_maps(dtype: mx.Dtype, gemma: Gemma, folder: Path, tmp_path: Path) -> None:
    """As MLX programs write them: one file, every matrix packed."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = gemma_mlx.load(folder, mx.float32).model
    nn.quantize(model, group_size=32, bits=8)
    save_checkpoint(tmp_path, model, read_config(folder))
    packed = gemma_mlx.load(tmp_path, dtype)
    assert str(packed.checkpoint.quantization["dense.1"]) == "affine, 8 bits, groups of 32"
    assert (packed.embed(TEXTS) * gemma.embed(TEXTS)).sum(axis=-1).min().item() > 0.995  # 8 bits, and bfloat16
