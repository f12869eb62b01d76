"""Keys and values of a layer that looks back over a window only."""

from __future__ import annotations

from typing import ClassVar, Final

import mlx.core as mx
from jaxtyping import Float

from gemma_mlx.errors import CacheError

STEP: Final = 256
ROLLBACK: Final = 64


class SlidingCache:
    """The last rows before the next token, always in order of time.

    New rows are written behind the old ones; when the buffer is full, the rows that may still be needed move to its
    front. Compared with a ring this costs one copy of the window every `STEP` tokens, and in return what a query sees
    is a plain slice, a chunk of any length attends exactly, and the last `ROLLBACK` tokens can always be taken back.

    While a chunk of L tokens is read it holds window - 1 + ROLLBACK + L rows at most.

    Args:
        window: a query sees itself and the window - 1 positions before it.
    """

    names: ClassVar = ("keys", "values")  # of what `rows` returns

    def __init__(self, window: int) -> None:
        self.offset = 0
        self._window = window
        self._end = 0  # rows filled
        self._keys: mx.array | None = None  # [B K C D]
        self._values: mx.array | None = None

    def visible(self, queries: int) -> int:
        """S, the keys that `update` returns when `queries` are added."""
        return min(self._end, self._window - 1) + queries

    def update(
        self, keys: Float[mx.array, "B K L D"], values: Float[mx.array, "B K L D"]
    ) -> tuple[Float[mx.array, "B K S D"], Float[mx.array, "B K S D"]]:
        """Appends L rows and returns the at most window - 1 rows before them, and them."""
        L = keys.shape[2]
        visible = self.visible(L)
        if self._keys is None or self._values is None or self._end + L > self._keys.shape[2]:
            kept = min(self._end, self._window - 1 + ROLLBACK)
            self._keys = self._moved(self._keys, kept, keys)
            self._values = self._moved(self._values, kept, values)
            self._end = kept + L
        else:
            self._keys[:, :, self._end : self._end + L] = keys
            self._values[:, :, self._end : self._end + L] = values
            self._end += L
        self.offset += L
        seen = slice(self._end - visible, self._end)
        return self._keys[:, :, seen], self._values[:, :, seen]

    def newest(self, rows: int | None) -> tuple[Float[mx.array, "B K S D"], Float[mx.array, "B K S D"]]:
        """The last `rows` rows read, or those that are held where there are fewer or None is asked for.

        Held are at least the window - 1 rows that the next token sees, and more of those read since the cache was
        empty, loaded or restored.

        Raises:
            CacheError: nothing was read yet.
        """
        if self._keys is None or self._values is None:
            raise CacheError("The cache is empty: there are no keys and values to look at yet.")
        first = 0 if rows is None else max(self._end - rows, 0)
        return self._keys[:, :, first : self._end], self._values[:, :, first : self._end]

    def beside(
        self, keys: Float[mx.array, "B K L D"], values: Float[mx.array, "B K L D"]
    ) -> tuple[Float[mx.array, "B K S D"], Float[mx.array, "B K S D"]]:
        """The at most window - 1 rows that the next token sees, and the L rows, which are not kept."""
        before = self.rows() or (keys[:, :, :0], values[:, :, :0])
        return mx.concatenate([before[0], keys], axis=2), mx.concatenate([before[1], values], axis=2)

    def _moved(self, buffer: mx.array | None, kept: int, rows: mx.array) -> mx.array:
        """A new buffer: the last `kept` rows, the new ones, and room for decoding where few are new."""
        B, K, L, D = rows.shape
        spare = mx.zeros((B, K, max(STEP - L, 0), D), rows.dtype)
        old = [] if buffer is None else [buffer[:, :, self._end - kept : self._end]]
        return mx.concatenate([*old, rows, spare], axis=2)

    def can_rollback(self, tokens: int) -> bool:
        """Whether the rows before that position are still here."""
        return tokens <= self.offset and self._end - tokens >= min(self.offset - tokens, self._window - 1)

    def rollback(self, tokens: int) -> None:
        """Forgets the last `tokens` rows; always possible for `ROLLBACK` of them."""
        if not self.can_rollback(tokens):
            raise CacheError(
                f"{tokens} tokens cannot be taken back: the rows before them have left the window of {self._window}."
            )
        self.offset -= tokens
        self._end -= tokens

    def snapshot(self) -> tuple[mx.array, ...]:
        """A copy of the rows that the next tokens will see, [B K min(offset, window - 1) D] twice."""
        return tuple(mx.contiguous(rows) for rows in self.rows())

    def restore(self, offset: int, rows: tuple[mx.array, ...]) -> None:
        """Goes back to `offset`, where `snapshot` returned `rows`."""
        self.load(offset, rows)

    def arrays(self) -> tuple[mx.array, ...]:
        """What the cache holds, for evaluation."""
        return () if self._keys is None or self._values is None else (self._keys, self._values)

    def rows(self) -> tuple[mx.array, ...]:
        """The rows that the next tokens will see, for saving."""
        needed = slice(self._end - min(self._end, self._window - 1), self._end)
        return tuple(array[:, :, needed] for array in self.arrays())

    def load(self, offset: int, rows: tuple[mx.array, ...]) -> None:
        """The opposite of `rows`."""
        self.offset = offset
        self._keys, self._values = rows or (None, None)
        self._end = rows[0].shape[2] if rows else 0


def rows_held(window: int, prompt: int, chunk: int, decoded: int = 0) -> int:
    """Rows of a cache that has read `prompt` tokens, `chunk` at a time, and `decoded` more one by one.

    Follows the bookkeeping of `SlidingCache.update` without arrays.
    """
    rows = filled = 0
    whole, rest = divmod(prompt, chunk)
    # Buffer -> chunks left when it was like this: once the window is full, it recurs.
    met: dict[tuple[int, int], int] = {}
    while whole:
        if (rows, filled) in met:
            whole %= met[rows, filled] - whole
            met.clear()
        else:
            met[rows, filled] = whole
        if whole:
            rows, filled = _after(rows, filled, chunk, window)
            whole -= 1
    if rest:
        rows, filled = _after(rows, filled, rest, window)
    while decoded > rows - filled:  # the buffer fills up and is renewed
        decoded -= rows - filled + 1
        before = rows, filled
        rows, filled = _after(rows, rows, 1, window)
        if before == (rows, filled):
            break
    return rows


def _after(rows: int, filled: int, length: int, window: int) -> tuple[int, int]:
    """(rows, rows filled) of a buffer after `length` more tokens."""
    if filled + length <= rows:
        return rows, filled + length
    kept = min(filled, window - 1 + ROLLBACK)
    return kept + length + max(STEP - length, 0), kept + length
