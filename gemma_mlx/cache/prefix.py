"""What the cache has read, and how to go back to any turn of a conversation without reading it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.cache.decoder import DecoderCache, Snapshot
from gemma_mlx.cache.quantized import BITS
from gemma_mlx.errors import CacheError
from gemma_mlx.sequences import common_prefix

SNAPSHOT_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class _Mark:
    """A position to return to; with logits, one where an answer may begin without reading anything."""

    snapshot: Snapshot
    logits: mx.array | None

    @property
    def nbytes(self) -> int:
        return self.snapshot.nbytes + (0 if self.logits is None else self.logits.nbytes)


class PromptCache:
    """A decoder's cache together with the tokens in it.

    Layers with a window cannot go back further than their rows reach. Positions worth returning to (before a message,
    before an answer) are therefore marked, and their windows copied: a second turn, an edited message or another answer
    then reads only what is new, also long after the window has moved on.

    Args:
        cache: an empty cache of the model.
        snapshot_bytes: memory for marks. The oldest go first; the last two always stay.
    """

    def __init__(self, cache: DecoderCache, snapshot_bytes: int = SNAPSHOT_BYTES) -> None:
        self.cache = cache
        self.tokens: list[int] = []
        self._marks: list[_Mark] = []
        self._snapshot_bytes, self._least = snapshot_bytes, 2

    @property
    def nbytes(self) -> int:
        """Bytes of memory held by the cache and by the marks."""
        return self.cache.nbytes + sum(mark.nbytes for mark in self._marks)

    def reuse(self, tokens: Sequence[int], *, logits: bool = True) -> tuple[int, Float[mx.array, "1 V"] | None]:
        """Goes back to the longest prefix of `tokens` that needs no reading.

        Args:
            tokens: what is to be read.
            logits: whether the logits behind them are needed.

        Returns:
            The tokens that need not be read, and the logits behind them where all of `tokens` were read before.
            Where they are needed and not known, at least the last token is left to read.
        """
        self._settle()
        common = common_prefix(self.tokens, tokens)
        whole = next((m for m in self._marks if m.snapshot.offset == len(tokens) and m.logits is not None), None)
        if common == len(tokens) and whole is None and logits:
            common -= 1
        back = len(self.tokens) - common
        if self.cache.can_rollback(back):
            self.cache.rollback(back)
        else:
            self._restore(common)
        reused = self.cache.offset
        del self.tokens[reused:]
        self._marks = [mark for mark in self._marks if mark.snapshot.offset <= reused]
        return reused, whole.logits if whole is not None and reused == len(tokens) else None

    def _settle(self) -> None:
        """Forgets tokens that were being read when an exception ended it; where that cannot be, back to a mark."""
        ahead = self.cache.offset - len(self.tokens)
        if self.cache.is_even and self.cache.can_rollback(ahead):
            self.cache.rollback(ahead)
        else:
            self._restore(len(self.tokens) if self.cache.is_even else 0)
            del self.tokens[self.cache.offset :]
            self._marks = [mark for mark in self._marks if mark.snapshot.offset <= self.cache.offset]

    def _restore(self, limit: int) -> None:
        """Returns to the last mark at or before `limit`, or to the beginning."""
        best = max(
            (m.snapshot for m in self._marks if m.snapshot.offset <= limit), key=lambda s: s.offset, default=None
        )
        if best is None:
            self.cache.load(0, {})
        else:
            self.cache.restore(best)

    def mark(self, logits: Float[mx.array, "1 V"] | None = None) -> None:
        """Remembers the present position, with the logits behind it where they are known."""
        self._marks = [mark for mark in self._marks if mark.snapshot.offset != self.cache.offset]
        self._marks.append(_Mark(self.cache.snapshot(), logits))
        self._drop_old_marks()

    def limit_marks(self, snapshot_bytes: int, least: int = 2) -> None:
        """From now on marks take no more memory than this, but for the last `least`, which always stay."""
        self._snapshot_bytes, self._least = snapshot_bytes, least
        self._drop_old_marks()

    def _drop_old_marks(self) -> None:
        while len(self._marks) > self._least and sum(mark.nbytes for mark in self._marks) > self._snapshot_bytes:
            del self._marks[0]

    def read_both_ways(self, prompt: Sequence[int]) -> None:
        """The tokens of `prompt` will see each other: what was read for another prompt is of no use, and forgotten."""
        read = any(mark.snapshot.offset == len(prompt) and mark.logits is not None for mark in self._marks)
        if not read or self.cache.both_ways != len(prompt) or self.tokens[: len(prompt)] != list(prompt):
            self.clear()
        self.cache.both_ways = len(prompt)

    def clear(self) -> None:
        """Forgets everything."""
        self.cache.load(0, {})
        self.tokens = []
        self._marks = []

    def save(self, path: Path, model: str, notes: str = "") -> None:
        """Writes the tokens and the rows needed to go on, as safetensors.

        Args:
            path: the file, replaced in one step.
            model: what the rows belong to; `restore` demands the same.
            notes: whatever else should come back with them.
        """
        self._settle()
        write_cache(path, model, notes, self.tokens, self.cache.rows(), self.cache.kv_bits)

    def restore(self, path: Path, model: str) -> str:
        """Reads what `save` wrote, and returns its notes. Where it was packed, this cache then is, too.

        Raises:
            CacheError: the file is damaged, or belongs to another model.
        """
        try:
            rows, metadata = cast(
                tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), "safetensors", return_metadata=True)
            )
            tokens, bits = json.loads(metadata["tokens"]), json.loads(metadata.get("kv_bits", "null"))
            mx.eval(rows)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise CacheError(f"{path} is no saved cache, or is damaged: {error}", "Save it again.") from error
        if metadata.get("model") != model:
            raise CacheError(
                f"{path} was saved with {metadata.get('model')!r}, and this is {model!r}.",
                "Load the model it was saved with, or start a new conversation.",
            )
        if bits is not None and bits != self.cache.kv_bits:
            if bits not in BITS or self.cache.kv_bits is not None:
                raise CacheError(
                    f"{path} holds keys and values of {bits} bits, and this cache has {self.cache.kv_bits}.",
                    "Restore it into a cache without kv_bits, which takes them as they are.",
                )
            self.clear()
            self.cache.pack(bits)
        missing = {name for names in self.cache.row_names() for name in names} - rows.keys() if tokens else set()
        if missing:
            raise CacheError(f"{path} lacks the rows {min(missing)!r}.", "Save it again.")
        self.clear()
        self.cache.load(len(tokens), rows)
        self.tokens = tokens
        return metadata.get("notes", "")


def write_cache(
    path: Path, model: str, notes: str, tokens: Sequence[int], rows: Mapping[str, mx.array], kv_bits: int | None = None
) -> None:
    """Writes what `PromptCache.restore` reads."""
    part = path.with_name(path.name + ".part.safetensors")
    metadata = {
        "format": "gemma-mlx prompt cache 1",
        "model": model,
        "tokens": json.dumps(list(tokens)),
        "notes": notes,
        "kv_bits": json.dumps(kv_bits),
    }
    # An empty cache has no rows; a file needs one tensor.
    mx.save_safetensors(str(part), dict(rows) or {"empty": mx.zeros((1,))}, metadata)
    part.replace(path)
