"""mlx-lm as an engine to measure against, on the same checkpoint and under the same clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx


class MlxLm:
    """A checkpoint loaded by mlx-lm, with mlx-lm's own defaults.

    Args:
        folder: the checkpoint.

    Raises:
        InputError: mlx-lm cannot load it.
    """

    name = "mlx-lm"

    def __init__(self, folder: Path) -> None:
        from importlib.metadata import version

        from mlx_lm.utils import load_model

        self.version = version("mlx-lm")
        try:
            self.network: Any = load_model(folder)[0]
        except Exception as error:  # whatever a peer raises about a checkpoint
            what = " ".join(str(error).split())[:300]
            raise InputError(
                f"mlx-lm {self.version} cannot load {folder}: {type(error).__name__}: {what}.",
                "Measure without --against.",
            ) from error

    def engine(self, prompt: Sequence[int], tokens: int) -> Iterator[int]:
        """Its generation loop: greedy, its own chunks and its own cache, new for each call."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step, generation_stream, wired_limit

        # What stream_generate does beside text: on a GPU it wires the model's memory.
        wired: AbstractContextManager[None] = nullcontext()
        if mx.metal.is_available():
            wired = wired_limit(self.network, [generation_stream])  # type: ignore[list-item]
        with wired:
            for token, _ in generate_step(mx.array(list(prompt)), self.network, max_tokens=tokens):
                yield int(token)

    def build(self, prompt_tokens: int = 16) -> Sequence[mx.array]:
        """Builds the next decode step behind a short prompt: logits and the caches."""
        import mlx.core as mx

        if not hasattr(self, "_cache"):
            from mlx_lm.models.cache import make_prompt_cache

            self._cache: Any = make_prompt_cache(self.network)
            self._token = mx.array([1])
            mx.eval(self.network(mx.array([list(range(1, prompt_tokens + 1))]), cache=self._cache), self._token)
        logits = self.network(self._token[None], cache=self._cache)[:, -1, :]
        # `state` would cut the buffers to length, operations its own loop does not make.
        return [logits, *(array for cache in self._cache for array in (cache.keys, cache.values))]
