"""An encoder reads the whole prompt at once; then the loop decodes as it always does, from one token.

The loop knows nothing of the encoder. What it says of the prompt, of its own single token, is put right here: events
and figures are about the prompt that the encoder read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import mlx.core as mx

from gemma_mlx.cache.memory import Memory
from gemma_mlx.cache.source import SourceCache
from gemma_mlx.errors import InputError
from gemma_mlx.generate.events import Done, Prefill, Stats, Token
from gemma_mlx.generate.loop import Model, generate
from gemma_mlx.generate.sampling import Options


class Reader(Model, Protocol):
    """What this engine needs of a model besides."""

    def read(self, tokens: mx.array) -> Memory:
        """[1 S] ids of the prompt -> what the decoder looks at."""
        ...


def generate_from_source(
    model: Reader,
    cache: SourceCache,
    prompt: Sequence[int],
    options: Options,
    *,
    start: int,
    stop_ids: Collection[int] = (),
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Prefill | Token | Done]:
    """Answers `prompt`; the encoder reads nothing where the cache holds it already.

    Args:
        model: the network.
        cache: reads and keeps.
        prompt: ids, `<bos>` included.
        options: sampling and limits. Penalties are about the answer alone, and nothing is read in chunks.
        start: the token with which the decoder begins; no part of the answer.
        stop_ids: tokens that end the answer.
        cancelled: asked before the encoder reads, and between tokens.

    Yields:
        Prefill before and after the reading, Token for each id (a stop token included), Done once, last.

    Raises:
        InputError: the prompt is empty.
    """
    if not prompt:
        raise InputError("The prompt is empty: there is no token to answer.", "Type something, or check the file.")
    began = time.perf_counter()
    total = len(prompt)
    reused = total if cache.holds(prompt) else 0
    read = Stats(prompt_tokens=total, reused_tokens=reused)
    yield Prefill(done=reused, total=total, reused=reused)
    if not reused:
        if cancelled():
            yield Done(reason="cancelled", stats=read)
            return
        cache.clear()  # what is known of another prompt makes room
        mx.reset_peak_memory()
        memory = model.read(mx.array([list(prompt)]))
        mx.eval(memory.arrays())
        cache.begin(prompt, memory)
        mx.clear_cache()  # the decoder's buffers have other sizes
        read = replace(read, prefill_seconds=time.perf_counter() - began, peak_memory_bytes=mx.get_peak_memory())
        yield Prefill(done=total, total=total, reused=0)
    for event in generate(model, cache, (start,), options, stop_ids=stop_ids, cancelled=cancelled):
        if isinstance(event, Done):
            yield replace(event, stats=_of_both(read, event.stats))
        elif isinstance(event, Token):
            yield event


def _of_both(read: Stats, written: Stats) -> Stats:
    """The prompt's figures by the encoder, the answer's by the decoder."""
    return replace(
        written,
        prompt_tokens=read.prompt_tokens,
        reused_tokens=read.reused_tokens,
        time_to_first_token=read.prefill_seconds + written.time_to_first_token,
        prefill_seconds=read.prefill_seconds + written.prefill_seconds,
        peak_memory_bytes=max(read.peak_memory_bytes, written.peak_memory_bytes),
    )
