"""One layer of a decoder at a time: the others stand aside, and the pass around it stays the architecture's own.

MLX computes what is asked for and nothing else. So a whole pass is run for each layer, with all others replaced by what
returns its input: embeddings, masks, per-layer inputs and streams come to the layer as the architecture gives them, and
what nobody reads is never computed. No architecture is known here by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float
from mlx.utils import tree_unflatten

from gemma_mlx.nn.decoder import Decoder, Lender
from gemma_mlx.nn.moe import ExpertLinear
from gemma_mlx.nn.norm import RMSNorm
from gemma_mlx.weights.quantized import leaves

Rows = tuple[mx.array, mx.array]  # keys and values that a layer lends, [B K S D] each


@dataclass(frozen=True)
class Played:
    """What left a layer, and the keys and values it lends; None where it lends none."""

    out: mx.array
    lent: Rows | None


class Stage:
    """Runs the layers of a decoder one by one.

    Args:
        model: its layers are taken out; each is put back for as long as it is on the stage.
    """

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._layers: list[Any] = list(model.model.layers)
        spec = model.spec
        self.lenders = frozenset(layer.borrows_from for layer in spec.layers if isinstance(layer.borrows_from, int))

    def __len__(self) -> int:
        return len(self._layers)

    def layer(self, index: int) -> Any:
        """The layer, a module."""
        return self._layers[index]

    def forget(self, index: int) -> None:
        """Lets go of a layer's weights."""
        self._layers[index] = None
        self._model.model.layers = []

    def embed(self, tokens: mx.array) -> Any:
        """What the pass begins with."""
        return self._model.embed(tokens)

    def play(self, index: int, embedded: Any, x: mx.array | None, lent: dict[int, Rows]) -> Played:
        """One layer of one pass; nothing is computed before it is asked for.

        Args:
            index: of the layer.
            embedded: what `embed` returned for these tokens.
            x: what left the layer before; None for the first one.
            lent: keys and values by the layer that lends them, of all before this one that do.
        """
        first = embedded[0] if isinstance(embedded, tuple) else embedded
        absent = mx.zeros((first.shape[0], 1, first.shape[1], 1))
        cast_of: list[Any] = [
            _Aside(lent.get(other, (absent, absent)) if other in self.lenders else None)
            for other in range(len(self._layers))
        ]
        player = cast_of[index] = _Player(self._layers[index], x)
        self._model.model.layers = cast_of
        self._model.hidden(embedded)
        return player.played


class _Aside:
    """Stands for a layer that does not play: what goes in comes out, and what it lends is what it lent before."""

    def __init__(self, lent: Rows | None) -> None:
        self._lent = lent

    def __call__(self, x: mx.array, _mask: Any, cache: Any, *_: mx.array) -> mx.array:
        """Returns x."""
        if self._lent is not None:
            cache.update(*self._lent)
        return x


class _Player:
    """Gives its layer what left the one before it, whatever comes in."""

    def __init__(self, layer: Any, x: mx.array | None) -> None:
        self._layer, self._x = layer, x

    def __call__(self, x: mx.array, mask: Any, cache: Any, *extra: mx.array) -> mx.array:
        """Returns what the layer does, and keeps it in `played`."""
        out: mx.array = self._layer(x if self._x is None else self._x, mask, cache, *extra)
        self.played = Played(out, (cache.keys, cache.values) if isinstance(cache, Lender) else None)
        return out


Listener = Callable[..., None]


class _Overheard(nn.Module):
    """A module whose inputs somebody is told of."""

    def __init__(self, module: Any, listener: Listener) -> None:
        super().__init__()
        self._module, self._listener = module, listener

    def __call__(self, *inputs: Any) -> Any:
        """As the module, whose inputs and output the listener is told."""
        out = self._module(*inputs)
        self._listener(out, *inputs)
        return out


@contextmanager
def overheard(layer: nn.Module, listeners: dict[str, Listener]) -> Iterator[None]:
    """While it lasts, each listener is called with (output, *inputs) of the module at its path in `layer`."""
    modules = dict(layer.named_modules())
    there = {path: modules[path] for path in listeners}
    replace(layer, {path: _Overheard(module, listeners[path]) for path, module in there.items()})
    try:
        yield
    finally:
        replace(layer, there)


def replace(layer: nn.Module, modules: dict[str, Any]) -> None:
    """Puts modules into `layer`, by path."""
    layer.update_modules(tree_unflatten(list(modules.items())))


@dataclass(frozen=True)
class Heard:
    """Linear maps that read the same input, in the order in which a layer comes to them.

    Attributes:
        maps: their paths in the layer.
        norm: the path of the norm that the input leaves; None where it leaves something else.
    """

    maps: tuple[str, ...]
    norm: str | None


def readers(layer: nn.Module, maps: Sequence[str], play: Callable[[], Played]) -> list[Heard]:
    """Which of the maps of a layer read the same, in the order of its computation; each is in one group alone.

    Args:
        layer: that `play` runs.
        maps: paths in it.
        play: a pass; it is not computed.
    """
    modules = dict(layer.named_modules())
    norms = [path for path, module in leaves(layer) if isinstance(module, RMSNorm)]
    groups, made = _inputs(layer, maps, norms, play)
    # Experts sort what they are given, so what made it is found at their door.
    doors = list(dict.fromkeys(path.rpartition(".")[0] for path in maps if isinstance(modules[path], ExpertLinear)))
    at_door, made_there = _inputs(layer, doors, norms, play) if doors else ({}, {})
    entered = {path: made_there.get(at) for at, paths in at_door.items() for path in paths}
    found, seen = [], set[str]()
    for at, paths in groups.items():
        if first := tuple(path for path in dict.fromkeys(paths) if path not in seen):
            found.append(Heard(first, made.get(at) or entered.pop(first[0].rpartition(".")[0], None)))
            seen.update(first)
    return found


def _inputs(
    layer: nn.Module, maps: Sequence[str], norms: Sequence[str], play: Callable[[], Played]
) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Input -> the modules that read it, in order; output -> the norm that makes it. Both by the id of an array."""
    kept: list[mx.array] = []  # so that no other array takes the id of one of these
    groups: dict[int, list[str]] = {}
    made: dict[int, str] = {}

    def note_map(path: str) -> Listener:
        def note(_: Any, x: mx.array, *__: Any) -> None:
            kept.append(x)
            groups.setdefault(id(x), []).append(path)

        return note

    def note_norm(path: str) -> Listener:
        def note(out: mx.array, *_: Any) -> None:
            kept.append(out)
            made[id(out)] = path

        return note

    with overheard(layer, {path: note_map(path) for path in maps} | {path: note_norm(path) for path in norms}):
        play()
    return groups, made


def rows(x: Float[mx.array, "*axes columns"]) -> Float[mx.array, "N columns"]:
    """Whatever stands before the last axis, in one."""
    return x.reshape(-1, x.shape[-1]).astype(mx.float32)
