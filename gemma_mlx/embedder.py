"""Texts -> vectors: prompts, batches of like length, and sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.errors import CheckpointError, InputError
from gemma_mlx.nn.encoder import Encoder
from gemma_mlx.text.files import exists, read_json_object
from gemma_mlx.text.tasks import LIMIT_BYTES, Tasks, load_tasks
from gemma_mlx.text.tokenizer import Segment, Tokenizer

ROWS: Final = 32
TOKENS_AT_ONCE: Final = 1 << 14  # padding included: a batch of long texts has fewer rows
_LENGTH_FILE: Final = "sentence_bert_config.json"


class Embedder:
    """What an encoder needs around it.

    Args:
        model: the network.
        tokenizer: the checkpoint's.
        folder: where its prompts are.
        admit: (rows, tokens in the longest) -> how many of them may be read at once; as many as there are where None.

    Attributes:
        tasks: the prompts.
        limit: the most tokens a text may have, with its prompt, `<bos>` and `<eos>`.

    Raises:
        CheckpointError: a file about the prompts or the length is damaged.
    """

    def __init__(
        self, model: Encoder, tokenizer: Tokenizer, folder: Path, admit: Callable[[int, int], int] | None = None
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._admit = admit or (lambda rows, _: rows)
        self.tasks: Tasks = load_tasks(folder)
        self.limit = min(model.spec.context, _stated_length(folder) or model.spec.context)

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        task: str = "document",
        title: str | Sequence[str | None] | None = None,
        size: int | None = None,
        normalize: bool = True,
        truncate: bool = False,
        batch: int = ROWS,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Float[mx.array, "N dim"]:
        """One vector for each text, in their order.

        Args:
            texts: any number of them; a single one gives a single row.
            task: what they are embedded for, which becomes a few words before each (`gemma_mlx.text.tasks.TASKS`), or
                the name of a prompt of the checkpoint, or "none".
            title: of the documents: one for all, or one for each.
            size: keep this many numbers of each vector, the first. EmbeddingGemma is trained so that 512, 256 and 128
                of its 768 are good vectors, too.
            normalize: make each vector as long as 1, after it was cut.
            truncate: cut texts that are too long, instead of refusing them.
            batch: rows at once, at most.
            on_progress: called with (texts done, texts in all) before the first batch and after each.

        Returns:
            float32.

        Raises:
            InputError: a text is too long or no text, or an option is out of its range.
            MemoryLimitError: there is no memory for the longest of them.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        size = self._checked(texts, size, batch)
        titles = list(title) if title is not None and not isinstance(title, str) else [title] * len(texts)
        if len(titles) != len(texts):
            raise InputError(f"There are {len(titles):,} titles for {len(texts):,} texts.", "Give one for each.")
        rows = [
            self._tokens(index, text, self.tasks.prompt(task, titles[index]), truncate)
            for index, text in enumerate(texts)
        ]
        if on_progress is not None:
            on_progress(0, len(rows))
        if not rows:
            return mx.zeros((0, size))
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
        vectors, done = [], 0
        for part in _batches([rows[index] for index in order], batch, self._admit):
            vectors.append(self._vectors(part)[:, :size])
            mx.eval(vectors[-1])
            done += len(part)
            if on_progress is not None:
                on_progress(done, len(rows))
        found = mx.concatenate(vectors)[mx.argsort(mx.array(order))]
        if normalize:
            # As torch.nn.functional.normalize has it: a vector of zeros stays one.
            found = found / mx.maximum(mx.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        return found

    def _checked(self, texts: Sequence[Any], size: int | None, batch: int) -> int:
        widest = self._model.spec.embedding_dim
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Text {index + 1} is no text, but {type(text).__name__}.")
        if size is not None and not 1 <= size <= widest:
            raise InputError(f"A vector of {size} numbers was asked for; this model's have {widest}.", "Ask for fewer.")
        if batch < 1:
            raise InputError(f"A batch of {batch} rows was asked for.", "It needs at least one.")
        return widest if size is None else size

    def _tokens(self, index: int, text: str, prompt: str, truncate: bool) -> list[int]:
        segments = [Segment(prompt, False), Segment(text, False)]
        ids = [*self._tokenizer.encode(segments, bos=True), self._tokenizer.eos_id]
        if len(ids) <= self.limit:
            return ids
        if not truncate:
            raise InputError(
                f"Text {index + 1} has {len(ids):,} tokens with its prompt, <bos> and <eos>; this model reads at most "
                f"{self.limit:,}.",
                "Split it, or let it be cut: --truncate, or truncate=True in Python.",
            )
        return [*ids[: self.limit - 1], self._tokenizer.eos_id]

    def _vectors(self, rows: Sequence[list[int]]) -> Float[mx.array, "B dim"]:
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        tokens = mx.array([row + [0] * (longest - len(row)) for row in rows])
        return self._model(tokens, None if min(lengths) == longest else mx.array(lengths))


def _batches(rows: Sequence[list[int]], most: int, admit: Callable[[int, int], int]) -> Iterator[list[list[int]]]:
    """Neighbours of `rows`, which are sorted, at most `most` at once, no more tokens than fit, and as `admit` says."""
    start = 0
    while start < len(rows):
        longest = len(rows[start])
        count = max(1, min(most, TOKENS_AT_ONCE // longest, len(rows) - start))
        count = admit(count, longest)
        yield list(rows[start : start + count])
        start += count


def _stated_length(folder: Path) -> int | None:
    """`max_seq_length` of sentence-transformers' file."""
    path = folder / _LENGTH_FILE
    if not exists(path):
        return None
    length = read_json_object(path, LIMIT_BYTES, CheckpointError).get("max_seq_length")
    if length is not None and (type(length) is not int or length < 3):
        raise CheckpointError(
            f"{path}: 'max_seq_length' is {str(length)[:40]}, but must be a whole number above 2.",
            "Fetch the file again, or undo the edit.",
        )
    return length
