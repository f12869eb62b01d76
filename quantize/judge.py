"""How far one model is from another, on texts: what a quantized checkpoint has lost of the one it was made from.

The teacher is read first and let go, then the student: both are never in memory together. What is measured depends on
how the models work (`gemma_mlx.quantize.reading`); of embedding models the vectors are compared.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, cast

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from gemma_mlx import __version__
from gemma_mlx.admission import Admission, Reading
from gemma_mlx.device import compute_dtype
from gemma_mlx.errors import InputError, TokenizerError
from gemma_mlx.gemma import Gemma, load
from gemma_mlx.processor import Processor
from gemma_mlx.quantize import teacher as teaching
from gemma_mlx.quantize.divergence import divergence
from gemma_mlx.quantize.reading import LEAST, Measure, measure, read, watched
from gemma_mlx.quantize.teacher import Capture, OnRead, capture, packed, sampled, unpacked
from gemma_mlx.quantize.texts import Passage, Window, passages, windows
from gemma_mlx.weights.load import Checkpoint, OnProgress, inspect

WINDOW: Final = 512  # tokens of a passage that are read at once
QUICK_WINDOW: Final = 64
QUICK_PASSAGES: Final = 2  # of each kind, and of each passage the first window
ALL: Final = "all"

_WORST: Final = 0.999


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was found on the texts of a kind.

    Attributes:
        kind: of the texts; "all" for all of them.
        count: tokens that were predicted, or texts that became vectors.
        values: by name. Of predictions kl_mean and kl_p999 (in nats: mean and 99.9th percentile), same_top (part of the
            positions at which both find the same token likeliest), perplexity_teacher and perplexity_student. Of
            vectors distance_mean and distance_max (1 - cosine), and same_nearest (part of the texts whose nearest
            other text is the same for both).
    """

    kind: str
    count: int
    values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {"kind": self.kind, "count": self.count, **self.values}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of a teacher in a student.

    Attributes:
        teacher: what it was called.
        student: the same.
        measure: "tokens", "answers" or "canvas" where predictions were compared (see `reading`), "vectors" where those.
        texts: "judge" for the project's own, "judge, quick" for a part of them, or the name of a file.
        window: the most tokens read at once.
        top_k: likeliest tokens of the teacher that were compared one by one, the rest as one; 0 of vectors.
        kinds: all texts first, then those of each kind.
        layers: relative error of what leaves each layer; () where the two have other layers.
        computed: versions and the dtype, on which the last digits depend.
    """

    teacher: str
    student: str
    measure: Measure
    texts: str
    window: int
    top_k: int
    kinds: tuple[Figures, ...]
    layers: tuple[float, ...]
    computed: str

    def to_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "teacher": self.teacher,
            "student": self.student,
            "measure": self.measure,
            "texts": self.texts,
            "window": self.window,
            "top_k": self.top_k,
            "kinds": [one.to_json() for one in self.kinds],
            "layers": list(self.layers),
            "computed": self.computed,
        }


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is judged by.

    Attributes:
        chosen: the texts.
        name: of them.
        window: the most tokens of one that are read at once.
        quick: whether only the first window of each is read.
    """

    chosen: tuple[Passage, ...]
    name: str
    window: int = WINDOW
    quick: bool = False

    @classmethod
    def of(cls, own: tuple[Passage, ...] | None = None, name: str = "judge", *, quick: bool = False) -> Task:
        """The project's texts, or a user's; of each kind the first few and short where it must be quick."""
        chosen = passages("judge") if own is None else own
        if not quick:
            return cls(chosen=chosen, name=name)
        some = [one for _, each in groupby(chosen, key=lambda one: one.kind) for one in list(each)[:QUICK_PASSAGES]]
        return cls(chosen=tuple(some), name=f"{name}, quick", window=QUICK_WINDOW, quick=True)

    def windows(self, processor: Processor, context: int) -> tuple[Window, ...]:
        """The texts as ids, in windows that fit the context.

        Raises:
            InputError: all of them are too short to judge by.
        """
        length, found = min(self.window, context), []
        for passage in self.chosen:
            made = [window for window in windows([passage], processor, length) if len(window.tokens) >= LEAST]
            found += made[:1] if self.quick else made
        if not found:
            raise InputError(f"The text is too short to judge by: it has not even {LEAST} tokens.")
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        name: by which it is loaded.
        folder: which that is.
        label: what it is called in a judgement; the name, or the last part of a path, where this is "".
    """

    name: str
    folder: Path
    label: str = ""

    @property
    def public(self) -> str:
        """A name that says nothing of this machine."""
        folder = Path(self.name).expanduser()
        return self.label or (folder.resolve().name if folder.exists() else self.name)


Told = Callable[[str, int, int], None]  # ("teacher" or "student", tokens done, tokens in all)


def judge(
    teacher: Side,
    student: Side,
    task: Task | None = None,
    *,
    memory: Admission | None = None,
    kept: Path | None = None,
    on_load: OnProgress | None = None,
    on_read: Told | None = None,
) -> Judgement:
    """Compares two models.

    Args:
        teacher: by whose predictions the other is judged: usually the checkpoint it was made from.
        student: the other.
        task: the texts; the project's own where None.
        memory: asked before weights are read, and about the longest text; None lets everything in.
        kept: folder in which what the teacher said is kept; the user's cache folder where None.
        on_load: called with (what, bytes done, bytes in all) while weights are read.
        on_read: called with ("teacher" or "student", tokens or texts done, in all).

    Raises:
        UnsupportedModelError: the two have nothing that can be compared.
        InputError: they do not read texts alike.
        MemoryLimitError: `memory` says that one of them does not fit.
        GemmaError: whatever is wrong with a checkpoint, as a sentence.
    """
    task = Task.of() if task is None else task
    before, after = inspect(teacher.folder), inspect(student.folder)
    what = measure(teacher.name, before.match.spec)
    _check_alike(teacher, student, before, after, task)
    told = on_read or (lambda _, __, ___: None)

    def opened(side: Side, longest: int = 0) -> Gemma:
        gemma = load(side.name, memory=memory, on_progress=on_load)
        if memory is not None and what == "tokens":
            memory.read(gemma.subject, _whole(longest))
        return gemma

    layers: tuple[float, ...] = ()
    top_k = 0
    if what == "vectors":
        texts = [passage.plain for passage in task.chosen]
        captured = _kept(before, task.chosen, kept, lambda: {
            "vectors": _vectors(opened(teacher), texts, partial(told, "teacher"))
        })  # fmt: skip
        mx.clear_cache()  # the teacher is gone
        own = _vectors(opened(student), texts, partial(told, "student"))
        kinds = _near(
            [passage.kind for passage in task.chosen],
            np.array(captured["vectors"], np.float64),
            np.array(own, np.float64),
        )
    else:
        chosen = task.windows(Processor(teacher.folder), before.match.spec.context)
        longest = max(len(window.tokens) for window in chosen)
        captured = _kept(before, chosen, kept, lambda: packed(
            capture(opened(teacher, longest), chosen, partial(told, "teacher"))
        ))  # fmt: skip
        mx.clear_cache()
        said = unpacked(captured)
        kinds, layers = _judged(opened(student, longest), chosen, said, partial(told, "student"))
        top_k = said.said[0].ids.shape[1]
    return Judgement(
        teacher=teacher.public, student=student.public, measure=what, texts=task.name, window=task.window,
        top_k=top_k, kinds=kinds, layers=layers, computed=_computed(),
    )  # fmt: skip


def _kept(
    checkpoint: Checkpoint,
    what: Sequence[Window] | Sequence[Passage],
    kept: Path | None,
    made: Callable[[], dict[str, mx.array]],
) -> dict[str, mx.array]:
    """What the teacher said, as it is kept, or from now on."""
    path = (kept or teaching.folder()) / f"{teaching.key(checkpoint, what)}.safetensors"
    arrays = teaching.load(path)
    if arrays is None:
        arrays = made()
        try:
            teaching.save(path, arrays)
        except OSError as error:
            raise InputError(
                f"What the teacher said cannot be kept in {path.parent}: {error.strerror or error}.",
                "Make room there, or name another folder for caches: XDG_CACHE_HOME.",
            ) from error
    return arrays


def _whole(tokens: int) -> Reading:
    return Reading(tokens=tokens, answer=1, chunk=tokens, whole=True, kv_bits=None, held=0)


def _judged(
    gemma: Gemma, read_windows: Sequence[Window], teacher: Capture, on_read: OnRead
) -> tuple[tuple[Figures, ...], tuple[float, ...]]:
    """The figures of each kind, and the error of each layer."""
    total, done = sum(len(window.tokens) for window in read_windows), 0
    rows: list[tuple[str, NDArray[np.float64]]] = []
    errors: list[list[float]] = []
    comparable, place = len(gemma.decoder.spec.layers) == len(teacher.layers), 0
    for window, said, places in zip(read_windows, teacher.said, sampled(len(read_windows)), strict=True):
        on_read(done, total)
        with watched(gemma.decoder, places) as noted:
            first, found = 0, []
            for part in read(gemma, window.tokens):
                last = first + part.following.shape[0]
                theirs = type(said)(*(array[first:last] for array in said))
                own = mx.take_along_axis(part.logits, part.following[:, None], axis=-1)[:, 0]
                own = own - mx.logsumexp(part.logits, axis=-1)
                same = mx.argmax(part.logits, axis=-1) == theirs.top
                row = mx.stack([divergence(theirs, part.logits), same.astype(mx.float32), theirs.log_next, own])
                mx.eval(row, noted)
                found.append(np.array(row, np.float64))
                first = last
        rows.append((window.kind, np.concatenate(found, axis=1)))
        comparable = comparable and all(noted[i].shape[1] == layer.shape[1] for i, layer in enumerate(teacher.layers))
        if places and comparable:
            stretch = slice(place, place + len(places))
            errors.append([_squared_error(noted[i], layer[stretch]) for i, layer in enumerate(teacher.layers)])
            place += len(places)
        done += len(window.tokens)
    on_read(done, total)
    layers = tuple(math.sqrt(value) for value in np.mean(errors, axis=0)) if errors else ()
    return _by_kind(rows), layers


def _squared_error(student: mx.array, teacher: mx.array) -> float:
    """Mean over the rows of |student - teacher|² / |teacher|²."""
    shares = mx.square(student - teacher).sum(axis=-1) / mx.maximum(mx.square(teacher).sum(axis=-1), 1e-30)
    return cast(float, shares.mean().item())


def _by_kind(rows: Iterable[tuple[str, NDArray[np.float64]]]) -> tuple[Figures, ...]:
    """Figures of all, then of each kind, from rows of (divergence, same token, log p, log q) by position."""
    found: dict[str, list[NDArray[np.float64]]] = {ALL: []}
    for kind, row in rows:
        found.setdefault(kind, []).append(row)
        found[ALL].append(row)
    made = []
    for kind, parts in found.items():
        distance, same, theirs, own = np.concatenate(parts, axis=1)
        values = {
            "kl_mean": distance.mean(),
            "kl_p999": np.quantile(distance, _WORST),
            "same_top": same.mean(),
            "perplexity_teacher": np.exp(-theirs.mean()),
            "perplexity_student": np.exp(-own.mean()),
        }
        made.append(
            Figures(kind=kind, count=distance.size, values={name: float(value) for name, value in values.items()})
        )
    return tuple(made) if len(made) > 2 else tuple(made[:1])


def _vectors(gemma: Gemma, texts: list[str], on_read: OnRead) -> mx.array:
    return gemma.embed(texts, truncate=True, on_progress=on_read)


def _near(kinds: list[str], teacher: NDArray[np.float64], student: NDArray[np.float64]) -> tuple[Figures, ...]:
    """How far the vectors of both are from each other, kind by kind."""
    distance = 1 - (teacher * student).sum(axis=1)
    nearest = []
    for vectors in (teacher, student):
        near = vectors @ vectors.T
        np.fill_diagonal(near, -np.inf)
        nearest.append(near.argmax(axis=1))
    same = nearest[0] == nearest[1]
    made = []
    for kind in (ALL, *dict.fromkeys(kinds)):
        chosen = np.array([kind in (ALL, one) for one in kinds])
        values = {
            "distance_mean": float(distance[chosen].mean()),
            "distance_max": float(distance[chosen].max()),
            "same_nearest": float(same[chosen].mean()),
        }
        made.append(Figures(kind=kind, count=int(chosen.sum()), values=values))
    return tuple(made) if len(made) > 2 else tuple(made[:1])


def _check_alike(teacher: Side, student: Side, before: Checkpoint, after: Checkpoint, task: Task) -> None:
    """Sees whether both read a text as the same ids.

    Raises:
        UnsupportedModelError: of one nothing can be compared.
        InputError: they do other things, or have other vocabularies.
    """
    one, other = measure(teacher.name, before.match.spec), measure(student.name, after.match.spec)
    if one != other:
        raise InputError(
            f"{teacher.name} ({before.match.model_type}) and {student.name} ({after.match.model_type}) do not do the "
            "same, so there is nothing to compare.",
            "Compare a model with one that was made of it.",
        )
    rows = before.match.spec.vocab, after.match.spec.vocab
    if rows[0] != rows[1]:
        raise InputError(
            f"{teacher.name} has a vocabulary of {rows[0]:,} entries and {student.name} one of {rows[1]:,}, so their "
            "predictions cannot be compared.",
            "Compare a model with one that was made of it.",
        )
    ours = Processor(teacher.folder).tokenizer
    try:
        theirs = Processor(student.folder).tokenizer
    except TokenizerError:  # the teacher's serves for both
        return
    if any(ours.encode(passage.plain) != theirs.encode(passage.plain) for passage in task.chosen):
        raise InputError(
            f"The tokenizers of {teacher.name} and {student.name} make different ids of the same text.",
            "Compare a model with one that was made of it.",
        )


def _computed() -> str:
    dtype = str(compute_dtype()).rpartition(".")[2]
    return f"gemma {__version__}, MLX {importlib.metadata.version('mlx')}, {dtype}"
