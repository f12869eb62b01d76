"""How a text is read to be judged by: one pass over a window, its predictions a few positions at a time, its layers.

What is compared are the predictions for tokens that are there ("teacher-forced"); nothing is generated:

    decoder          each token of a window from those before it
    encoder-decoder  the encoder reads the first half of a window; each token of the second half from those before it
    canvas           the first half is the prompt, the second the canvas, of which every second token is noise; each
                     token of the canvas from all of that, in one step
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple

import mlx.core as mx
from jaxtyping import Float, Int

from gemma_mlx.cache.memory import MemoryCache
from gemma_mlx.errors import UnsupportedModelError
from gemma_mlx.gemma import Gemma
from gemma_mlx.models.diffusion_gemma import CanvasDecoder
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.nn.encoder_decoder import EncoderDecoder
from gemma_mlx.registry import Spec
from gemma_mlx.spec import DecoderSpec, DrafterSpec, EncoderDecoderSpec

Measure = Literal["tokens", "answers", "canvas", "vectors"]

LOGIT_BYTES: Final = 32 << 20  # of logits that exist at once, in float32
LEAST: Final = 4  # tokens without which a window has no two halves
_NOISE: Final = 2654435761  # Knuth's multiplier: noise that is the same wherever it is made


class Part(NamedTuple):
    """Some positions of a window.

    Attributes:
        logits: [N V] of the predictions.
        following: [N] the tokens that are there.
    """

    logits: Float[mx.array, "N V"]
    following: Int[mx.array, " N"]


def measure(name: str, spec: Spec) -> Measure:
    """What can be compared of a model.

    Raises:
        UnsupportedModelError: nothing, by itself.
    """
    if isinstance(spec, DrafterSpec):
        raise UnsupportedModelError(
            f"{name} is a drafter: it predicts nothing without the keys and values of its target.",
            "Compare its target, or the target with each of the two.",
        )
    if not isinstance(spec, DecoderSpec):
        return "vectors"
    if isinstance(spec, EncoderDecoderSpec):
        return "answers"
    return "tokens" if spec.canvas is None else "canvas"


def read(gemma: Gemma, tokens: Sequence[int]) -> Iterator[Part]:
    """The predictions of a decoder for one window, a part of its positions after the other."""
    model = gemma.decoder
    hidden, following = _hidden(gemma, model, tokens)
    head = model.predictions if isinstance(model, CanvasDecoder) else model.logits
    rows = max(LOGIT_BYTES // (4 * model.spec.vocab), 1)
    for first in range(0, len(following), rows):
        logits = head(hidden[:, first : first + rows])[0].astype(mx.float32)
        yield Part(logits, mx.array(following[first : first + rows]))


def _hidden(gemma: Gemma, model: Decoder, tokens: Sequence[int]) -> tuple[mx.array, list[int]]:
    """[1 N dim] of which the head makes predictions, and the N tokens they are of."""
    ids = list(tokens)
    if isinstance(model, EncoderDecoder):
        source, answer = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        cache = MemoryCache.none(model.spec)
        cache.memory = model.read(mx.array([source]))
        return model.hidden(model.embed(mx.array([[gemma.start, *answer[:-1]]])), cache), answer
    if isinstance(model, CanvasDecoder):
        assert model.spec.canvas is not None
        before, canvas = ids[: len(ids) // 2], ids[len(ids) // 2 :][: model.spec.canvas.length]
        text = model.make_cache()
        mx.eval(model(model.embed(mx.array([before])), text, last=1))
        noisy = [token if index % 2 else (index * _NOISE) % model.spec.vocab for index, token in enumerate(canvas)]
        return model.fill(mx.array([noisy]), text), canvas
    return model.hidden(model.embed(mx.array([ids[:-1]]))), ids[1:]


class Watched:
    """Stands in the place of a layer and notes what leaves it."""

    def __init__(self, layer: Any, noted: dict[int, mx.array], index: int, places: Sequence[float]) -> None:
        self._layer, self._noted, self._index, self._places = layer, noted, index, places

    def __call__(self, *given: Any) -> mx.array:
        """As the layer's own."""
        return self._note(self._layer(*given))

    def fill(self, *given: Any) -> mx.array:
        """As that of a canvas's layer."""
        return self._note(self._layer.fill(*given))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def _note(self, x: mx.array) -> mx.array:
        rows = mx.array([int(place * x.shape[1]) for place in self._places])
        self._noted[self._index] = x[0, rows].reshape(len(self._places), -1).astype(mx.float32)
        return x


@contextmanager
def watched(model: Decoder, places: Sequence[float]) -> Iterator[dict[int, mx.array]]:
    """Within it, index of a layer -> [places width] what left it in the last pass.

    Places are parts of the length: 0.5 is the middle of the text. Layers that borrow keys and values, streams
    (Gemma 3n) and states are watched like any other.
    """
    noted: dict[int, mx.array] = {}
    layers = model.model.layers
    model.model.layers = [Watched(layer, noted, index, places) for index, layer in enumerate(layers)]
    try:
        yield noted
    finally:
        model.model.layers = layers
