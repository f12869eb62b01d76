"""A model and a tokenizer that cost nothing, under the real loop, cache and session.

FakeModel says what a script tells it to, one byte a token, and remembers what it was made to read. FakeTokenizer maps
bytes to ids and knows Gemma's control tokens. With `fake_session` the tests of sessions and of the command line take
milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from gemma_mlx.cache.decoder import DecoderCache, Snapshot
from gemma_mlx.gemma import Gemma
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.processor import Processor
from gemma_mlx.session import Session
from gemma_mlx.spec import AttentionSpec, CanvasSpec, DecoderSpec, LayerSpec, Rope
from gemma_mlx.text.infill import INFILL_TOKENS
from gemma_mlx.text.stop import stop_ids
from gemma_mlx.text.template import load_template
from gemma_mlx.text.tokenizer import Segment

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", *INFILL_TOKENS)
FIRST_BYTE = len(CONTROL)
END_OF_TURN = CONTROL.index("<end_of_turn>")
VOCAB = FIRST_BYTE + 256

# The whole text read so far -> the whole reply to it.
Script = Callable[[str], str]


# The control tokens of models that call tools and think, beyond those of CONTROL.
GEMMA4 = (
    "<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", '<|"|>', "<|tool>", "<tool|>",
    "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
)  # fmt: skip
FUNCTION_GEMMA = (
    "<start_function_declaration>", "<end_function_declaration>", "<start_function_call>", "<end_function_call>",
    "<start_function_response>", "<end_function_response>", "<escape>",
)  # fmt: skip
MEDGEMMA = ("<unused94>", "<unused95>")


class FakeTokenizer:
    """Bytes are ids, shifted behind the control tokens; more of them may follow the bytes."""

    vocab_size = VOCAB
    bos_id = CONTROL.index("<bos>")
    eos_id = CONTROL.index("<eos>")
    pad_id = CONTROL.index("<pad>")

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self._control = {token: id for id, token in enumerate(CONTROL)}
        self._control |= {token: VOCAB + id for id, token in enumerate(extra)}
        self._texts = {id: token for token, id in self._control.items()}
        self.vocab_size = VOCAB + len(extra)

    @property
    def control_tokens(self) -> Mapping[str, int]:
        return self._control

    def encode(self, text: str | Sequence[Segment], *, bos: bool = False) -> list[int]:
        segments = [Segment(text, False)] if isinstance(text, str) else text
        ids = [id for segment in segments for id in self._encode(segment)]
        return [self.bos_id] * (bos and ids[:1] != [self.bos_id]) + ids

    def _encode(self, segment: Segment) -> Iterator[int]:
        text = segment.text
        while text:
            token = next((token for token in self._control if segment.control and text.startswith(token)), None)
            if token is not None:
                yield self._control[token]
                text = text[len(token) :]
            else:
                yield from (FIRST_BYTE + byte for byte in text[0].encode())
                text = text[1:]

    def decode(self, ids: Sequence[int], *, control: bool = False) -> str:
        pieces = (self._texts[id].encode() if control and id in self._texts else self.token_bytes(id) for id in ids)
        return b"".join(pieces).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id - FIRST_BYTE]) if FIRST_BYTE <= id < VOCAB else b""

    def id_of(self, token: str) -> int | None:
        return self.control_tokens.get(token)

    def is_control(self, id: int) -> bool:
        return id in self._texts


# Behind the last of these, a model writes.
_OPENED = ("<start_of_turn>model\n", "<|turn>model\n", "<end_function_response>", "<tool_response|>")


class FakeCache(DecoderCache):
    """Holds the ids that were read, and nothing else."""

    is_even = True  # type: ignore[assignment]
    nbytes = 0  # type: ignore[assignment]

    def __init__(self) -> None:  # no layers: nothing of the base class is used
        self.padding = None
        self.ids: list[int] = []
        self.prompt = 0

    @property
    def offset(self) -> int:
        return len(self.ids)

    def can_rollback(self, tokens: int) -> bool:
        return 0 <= tokens <= len(self.ids)

    def rollback(self, tokens: int) -> None:
        del self.ids[len(self.ids) - tokens :]

    def snapshot(self) -> Snapshot:
        return Snapshot(len(self.ids), ())

    def restore(self, snapshot: Snapshot) -> None:
        del self.ids[snapshot.offset :]

    def load(self, offset: int, rows: Mapping[str, mx.array]) -> None:
        del rows, self.ids[offset:]

    def arrays(self) -> list[mx.array]:
        return []


class FakeModel(Decoder):
    """Answers the text behind the last turn marker with what the script says, then ends the turn.

    Args:
        script: the reply to a whole prompt, or the reply to everything.
        seconds_per_token: how long each token of a reply takes.
        seconds_per_chunk: how long each chunk of a prompt takes.
        tokenizer: a vocabulary with more control tokens: those in a reply are then what they say.

    Attributes:
        read: the length of every piece the model was called with, in order.
    """

    def __init__(
        self, script: Script | str = "Hello!", *, seconds_per_token: float = 0, seconds_per_chunk: float = 0,
        tokenizer: FakeTokenizer | None = None,
    ) -> None:  # fmt: skip
        super(Decoder, self).__init__()  # no layers: nothing of a decoder is used
        self._script = script if callable(script) else lambda _: str(script)
        self._seconds_per_token, self._seconds_per_chunk = seconds_per_token, seconds_per_chunk
        self._tokenizer = FakeTokenizer() if tokenizer is None else tokenizer
        self._vocab = self._tokenizer.vocab_size
        self.read: list[int] = []
        attention = AttentionSpec(heads=1, kv_heads=1, head_dim=2, scale=1.0, rope=Rope(theta=10_000.0))
        self._spec = DecoderSpec(
            vocab=self._vocab, dim=1, layers=(LayerSpec(attention=attention, mlp_dim=1),) * 2, context=4096,
            embed_scale=1.0, norm_eps=1e-6,
        )  # fmt: skip

    def make_cache(self, padding: mx.array | None = None, *, kv_bits: int | None = None) -> FakeCache:
        return FakeCache()

    def embed(self, tokens: mx.array) -> mx.array:
        return tokens[..., None].astype(mx.float32)

    def __call__(self, x: mx.array, cache: FakeCache, *, last: int | None = None) -> mx.array:
        ids = [int(id) for id in x[0, :, 0].tolist()]
        self.read.append(len(ids))
        cache.ids += ids
        if len(ids) > 1:
            cache.prompt = len(cache.ids)
        time.sleep(self._seconds_per_token if len(ids) == 1 else self._seconds_per_chunk)
        logits = [[0.0] * self._vocab for _ in range(last or len(ids))]
        logits[-1][self._next(cache)] = 100.0
        return mx.array([logits])

    def _next(self, cache: FakeCache) -> int:
        """The id that follows, of the reply to what stands before the last opened turn, or to all that was read."""
        ids, tokenizer = cache.ids, self._tokenizer
        marks = [tokenizer.encode([Segment(mark, True)]) for mark in _OPENED]
        ends = [
            at + len(mark)
            for mark in marks
            if any(tokenizer.is_control(id) for id in mark[:1])
            for at in range(len(ids))
            if ids[at : at + len(mark)] == mark
        ]
        begins = max(ends) if ends else cache.prompt
        script = self._script(tokenizer.decode(ids[:begins], control=True))
        reply = tokenizer.encode([Segment(script, self._vocab > VOCAB)])
        done = len(ids) - begins
        return reply[done] if done < len(reply) else END_OF_TURN


class FakeCanvasModel(FakeModel):
    """Writes its reply in canvases, and is sure of `rate` more positions in every step.

    Attributes:
        fills: where the text ended in each step.
    """

    def __init__(self, script: Script | str, *, canvas: int, rate: int = 4, seconds_per_step: float = 0) -> None:
        super().__init__(script)
        self._spec = replace(self._spec, canvas=CanvasSpec(length=canvas, conditioning_dim=1))
        self._rate, self._seconds_per_step = rate, seconds_per_step
        self._wanted: list[int] = []
        self.fills: list[int] = []

    def fill(self, canvas: mx.array, cache: FakeCache, expected: mx.array | None = None) -> mx.array:
        time.sleep(self._seconds_per_step)
        self._step = 1 if expected is None else self._step + 1
        self.fills.append(cache.offset)
        reply = FakeCache()
        reply.ids, reply.prompt = list(cache.ids), cache.prompt
        self._wanted = []
        for _ in range(canvas.shape[1]):
            self._wanted.append(self._next(reply))
            reply.ids.append(self._wanted[-1])
        return mx.arange(canvas.shape[1])[None, :, None]

    def predictions(self, filled: mx.array) -> mx.array:
        rows = [[0.0] * VOCAB for _ in range(filled.shape[1])]
        for row, at in zip(rows, filled[0, :, 0].tolist(), strict=True):
            if at < self._step * self._rate:
                row[self._wanted[at]] = 100.0
        return mx.array([rows])

    def expectation(self, logits: mx.array) -> mx.array:
        return mx.zeros((1, logits.shape[1], 1))


def fake_session(
    script: Script | str = "Hello!", *, folder: Path, system: str | None = None, seconds_per_token: float = 0,
    seconds_per_chunk: float = 0, canvas: int = 0, seconds_per_step: float = 0, control: Sequence[str] = (),
    **options: Any,
) -> Session:  # fmt: skip
    """A real session around a FakeModel.

    Args:
        folder: an empty folder: a checkpoint without a template or defaults of its own; or one with a template.
        canvas: positions of a canvas, for a FakeCanvasModel; 0 for a model that writes one token after the other.
        control: more control tokens for the vocabulary.
    """
    tokenizer = FakeTokenizer(control)
    model = FakeModel(
        script, seconds_per_token=seconds_per_token, seconds_per_chunk=seconds_per_chunk, tokenizer=tokenizer
    )
    if canvas:
        model = FakeCanvasModel(script, canvas=canvas, seconds_per_step=seconds_per_step)
    processor = Processor.__new__(Processor)
    processor.tokenizer = tokenizer
    processor.template = load_template(folder, tokenizer)
    processor.stop_ids = stop_ids(folder, tokenizer)
    processor.defaults = {}
    gemma: Any = Gemma.__new__(Gemma)  # a checkpoint would have to be read to make it otherwise
    vars(gemma).update(name="fake", folder=folder, model=model, processor=processor)
    return Session(gemma, system=system, **options)


def main() -> None:
    """`python -m tests.fakes chat ...` is `gemma chat ...` with a fake session behind it."""
    import os
    import sys
    import tempfile

    from gemma_mlx.cli import opening
    from gemma_mlx.cli.app import main as run

    def opened(
        name: str, *, system: str | None = None, slice: None = None, per_layer: str = "disk", memory: Any = None,
        on_progress: Any = None, **options: Any,
    ) -> Session:  # fmt: skip
        if on_progress is not None:
            on_progress("weights", 0, 10)
        time.sleep(float(os.environ.get("FAKE_LOADING", "0")))
        return fake_session(
            os.environ.get("FAKE_REPLY", "Hello!"),
            folder=Path(os.environ.get("FAKE_FOLDER", tempfile.gettempdir() + "/no-checkpoint")),
            control={"": (), "gemma4": GEMMA4, "medgemma": MEDGEMMA}[os.environ.get("FAKE_CONTROL", "")],
            system=system,
            seconds_per_token=float(os.environ.get("FAKE_TOKEN", "0")),
            seconds_per_chunk=float(os.environ.get("FAKE_CHUNK", "0")),
            canvas=int(os.environ.get("FAKE_CANVAS", "0")),
            seconds_per_step=float(os.environ.get("FAKE_STEP", "0")),
            **options,
        )

    def found(name: str | None, *, exact: bool = False, force: bool = False, quiet: bool = False) -> tuple[str, Path]:
        return opening.chosen(name, quiet=quiet), Path()

    Session.open = opened  # type: ignore[method-assign,assignment]
    opening.found = found
    run(sys.argv[1:])


if __name__ == "__main__":
    main()
