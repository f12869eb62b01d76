"""A checkpoint and a text -> codes that suit what the text makes each layer read, one layer in memory at a time.

Every layer is given what the layers before it make once they are packed, and so makes up for what they lose. Within a
layer, maps that read the same are packed together, in the order in which they are computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
from mlx.utils import tree_unflatten

from gemma_mlx.errors import InputError
from gemma_mlx.nn.decoder import Decoder
from gemma_mlx.quantize.calibrate.awq import awq
from gemma_mlx.quantize.calibrate.bench import LEAST_TOKENS, Bench, pack_in_order
from gemma_mlx.quantize.calibrate.dwq import ROUNDS, dwq
from gemma_mlx.quantize.calibrate.gptq import gptq
from gemma_mlx.quantize.calibrate.memory import BATCH_TOKENS, by_layer, disk_bytes, memory_bytes
from gemma_mlx.quantize.calibrate.stage import Played, Rows, Stage
from gemma_mlx.quantize.calibrate.store import Store
from gemma_mlx.quantize.pack import Calibrated
from gemma_mlx.quantize.plan import Plan
from gemma_mlx.spec import LayerSpec
from gemma_mlx.weights.disk_table import DiskTable
from gemma_mlx.weights.load import OnProgress, load
from gemma_mlx.weights.write import Output

# What each method does with a layer, and how often the text goes through it: number of different inputs -> passes.
METHODS: Final[Mapping[Calibrated, tuple[Callable[[Bench], Any], Callable[[int], int]]]] = {
    "gptq": (partial(pack_in_order, solver=gptq), lambda inputs: inputs + 1),
    "awq": (awq, lambda inputs: 2 * inputs + 1),
    "dwq": (dwq, lambda inputs: inputs + ROUNDS + 4),
}
LEARNING: Final = ("dwq",)  # these need what the unpacked model has behind each layer

_EMBEDDED: Final = "embedded"
_TABLE: Final = "model.embed_tokens"


def calibrate(plan: Plan, windows: Sequence[Sequence[int]], folder: Path, on_layer: OnProgress | None = None) -> Store:
    """Packs all layers that are not packed yet.

    Args:
        plan: says which matrices, and by which method.
        windows: ids of the text, all of the same length, each with what a text begins with.
        folder: where all is kept that a run needs to go on; one plan and one text have it to themselves.
        on_layer: called with ("layer 3 of 26", steps done, steps in all) as the layers are packed.

    Returns:
        What the layers became.

    Raises:
        GemmaError: whatever is wrong with the source, as a sentence.
    """
    store = Store(folder)
    model = load(plan.checkpoint.folder, dtype=mx.float32, per_layer="disk").model
    assert isinstance(model, Decoder)
    table = {"weight": plan.checkpoint.tensors[f"{_TABLE}.weight"]}
    model.update_modules(tree_unflatten([(_TABLE, DiskTable(table, None, mx.float32))]))
    stage = Stage(model)
    layers = by_layer(plan)
    batches = _batches(windows)
    if store.done < len(stage) and not store.has(_EMBEDDED):
        _embed(stage, store, batches)
    method, passes = METHODS[cast(Calibrated, plan.calibrated)]
    student, teacher = (Stream(name, stage, store, len(batches)) for name in ("student", "teacher"))
    learns = plan.calibrated in LEARNING
    for index in range(len(stage)):
        if index < store.done:
            stage.forget(index)
            continue
        steps = Steps(index, len(stage), on_layer)
        decisions, loose = layers.get(index, ({}, {}))
        layer_spec = model.spec.layers[index]
        bench = Bench(
            layer=stage.layer(index), decisions=decisions, loose=loose,
            head_dim=layer_spec.attention.head_dim if isinstance(layer_spec, LayerSpec) else None,
            play=student.player(index), target=partial(teacher.passed, index), batches=len(batches), tick=steps.tick,
        )  # fmt: skip
        steps.expect(len(batches) * passes(len(bench.heard())))
        if learns:
            teacher.advance(index, steps.tick)
        method(bench)
        student.advance(index, steps.tick)
        store.finish(index, bench.made, {"blind": str(bench.blind), "experts": str(bench.experts)})
        student.forget(index - 1)
        teacher.forget(index - 1)
        stage.forget(index)
        mx.clear_cache()
    return store


class Calibration:
    """A text, and what it makes of a plan's tensors; called with a folder, it makes it.

    Args:
        plan: as `calibrate` has it, and so the windows.
        windows: of the text.

    Attributes:
        on_layer: called with ("layer 3 of 26", steps done, steps in all) as layers are packed.
        tell: called with a sentence about what the text did not reach.
        blind: experts, each counted in each of its maps, that the text hardly reached; None before all is done.

    Raises:
        InputError: there is no text.
    """

    def __init__(self, plan: Plan, windows: Sequence[Sequence[int]]) -> None:
        if not windows:
            raise InputError("There is no text to calibrate with.", "--text FILE names one.")
        self.plan, self.windows = plan, windows
        self.on_layer: OnProgress | None = None
        self.tell: Callable[[str], None] = lambda _: None
        self.blind: int | None = None
        self._layers: dict[str, mx.array] = {}

    @property
    def tokens(self) -> int:
        """Of the text."""
        return sum(map(len, self.windows))

    @property
    def memory_bytes(self) -> int:
        """What it holds at most."""
        return memory_bytes(self.plan, self.windows)

    @property
    def disk_bytes(self) -> int:
        """Of what it keeps beside what is written."""
        return disk_bytes(self.plan, self.tokens)

    def fingerprint(self) -> str:
        """The same only for the same text."""
        return hashlib.sha256(json.dumps([list(window) for window in self.windows]).encode()).hexdigest()

    def __call__(self, folder: Path) -> None:
        """Calibrates, or goes on where a run with this folder was."""
        store = calibrate(self.plan, self.windows, folder, self.on_layer)
        counted = [store.told(index) for index in range(store.done)]
        blind, experts = (sum(int(one[key]) for one in counted) for key in ("blind", "experts"))
        self.blind = blind
        if blind:
            self.tell(
                f"{blind:,} of {experts:,} matrices of experts were reached by fewer than {LEAST_TOKENS} tokens of the "
                "text, and are packed without it."
            )
        for index in range(store.done):
            self._layers |= store.layer(index)

    def made(self, outputs: Sequence[Output]) -> list[mx.array] | None:
        """What is written of a tensor; None where it is not calibrated. It is read when it is used, and not kept."""
        if outputs[0].name not in self._layers:
            return None
        return [self._layers.pop(output.name) for output in outputs]


class Steps:
    """How far a run has come, in thousandths of a layer.

    Args:
        index: of the layer.
        layers: how many there are.
        on_layer: who is told.
    """

    def __init__(self, index: int, layers: int, on_layer: OnProgress | None) -> None:
        self._index, self._layers, self._on_layer = index, layers, on_layer
        self._done, self._all = 0, 1

    def expect(self, steps: int) -> None:
        """So many ticks make a layer."""
        self._all = max(steps, 1)
        self._tell()

    def tick(self) -> None:
        """A batch went through the layer."""
        self._done = min(self._done + 1, self._all)
        self._tell()

    def _tell(self) -> None:
        if self._on_layer is not None:
            what = f"layer {self._index + 1} of {self._layers}"
            self._on_layer(what, 1000 * self._index + 1000 * self._done // self._all, 1000 * self._layers)


class Stream:
    """A text on its way through the layers, a batch of windows at a time.

    Args:
        name: of its files.
        stage: that plays it.
        store: where it is between layers.
        batches: how many there are.
    """

    def __init__(self, name: str, stage: Stage, store: Store, batches: int) -> None:
        self._name, self._stage, self._store, self._batches = name, stage, store, batches

    def player(self, index: int) -> Callable[[int], Played]:
        """Plays a layer, batch by batch."""

        def play(batch: int) -> Played:
            embedded = self._store.get(_EMBEDDED, batch)
            whole = embedded["x"] if "rows" not in embedded else (embedded["x"], embedded["rows"])
            x = self._store.get(self._passed(index - 1), batch)["x"] if index else None
            lent = {
                lender: _rows(self._store.get(self._lent(lender), batch))
                for lender in self._stage.lenders
                if lender < index
            }
            return self._stage.play(index, whole, x, lent)

        return play

    def advance(self, index: int, tick: Callable[[], None]) -> None:
        """Keeps what leaves a layer, and what it lends."""
        play, lends = self.player(index), index in self._stage.lenders
        names = [self._passed(index), *([self._lent(index)] if lends else [])]
        for name in names:
            self._store.begin(name)
        for batch in range(self._batches):
            played = play(batch)
            self._store.put(self._passed(index), batch, {"x": played.out})
            if played.lent is not None:
                self._store.put(self._lent(index), batch, dict(zip(("keys", "values"), played.lent, strict=True)))
            tick()
        for name in reversed(names):
            self._store.complete(name)

    def passed(self, index: int, batch: int) -> mx.array:
        """What left a layer."""
        return self._store.get(self._passed(index), batch)["x"]

    def forget(self, index: int) -> None:
        """Lets go of what left a layer."""
        self._store.drop(self._passed(index))

    def _passed(self, index: int) -> str:
        return f"passed-{self._name}-{index:04}"

    def _lent(self, index: int) -> str:
        return f"lent-{self._name}-{index:04}"


def _rows(arrays: Mapping[str, mx.array]) -> Rows:
    return arrays["keys"], arrays["values"]


def _embed(stage: Stage, store: Store, batches: Sequence[mx.array]) -> None:
    store.begin(_EMBEDDED)
    for number, tokens in enumerate(batches):
        embedded: Any = stage.embed(tokens)
        arrays = dict(zip(("x", "rows"), embedded, strict=True)) if isinstance(embedded, tuple) else {"x": embedded}
        store.put(_EMBEDDED, number, arrays)
    store.complete(_EMBEDDED)


def _batches(windows: Sequence[Sequence[int]]) -> list[mx.array]:
    some = max(BATCH_TOKENS // len(windows[0]), 1)
    return [mx.array([list(window) for window in windows[at : at + some]]) for at in range(0, len(windows), some)]
