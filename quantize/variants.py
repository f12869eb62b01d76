"""Which variant of a model to take on a machine: one that is here, one that is published packed, or one packed here.

What is here and fits comes first: it costs nothing. Of what can be had, `fit.best` chooses, as `gemma fit` shows it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from gemma_mlx import catalog
from gemma_mlx.catalog import Meant, Row
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.quantize import formats, plan, sources, subject
from gemma_mlx.quantize.fit import VERDICTS, Answer, Asked, Judge, best, survey
from gemma_mlx.quantize.machine import Machine
from gemma_mlx.weights import cached, made
from gemma_mlx.weights.hub import Here

Way = Literal["here", "fetch", "make"]

# Variant -> how `gemma quantize` is asked for it.
_RECIPES: Final = MappingProxyType[str, dict[str, Any]](
    {
        "8-bit": {"recipe_name": "uniform", "bits": 8},
        "6-bit": {"recipe_name": "uniform", "bits": 6},
        "QAT": {"recipe_name": "qat"},
        "mixed": {"recipe_name": "gemma"},
        "4-bit": {"recipe_name": "uniform", "bits": 4},
    }
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The variant of a model to take on a machine.

    Attributes:
        row: of the catalogue.
        form: the variant, as in `catalog.FORMS`.
        way: how it is had: it is here, or fetched ready, or made here of something that may have to be fetched.
        name: to open it by, once it is here: a repository, or what is typed for one that is made.
        repository: to fetch; None where it is here.
        folder: where it is, or will be made; None where it is fetched.
        nbytes: about those of its files.
        answer: how it does there.
        reason: why it is taken, as a sentence.
    """

    row: Row
    form: str
    way: Way
    name: str
    repository: str | None
    folder: Path | None
    nbytes: int
    answer: Answer
    reason: str


def choose(
    meant: Meant | str,
    on: Machine,
    asked: Asked | None = None,
    *,
    here: Sequence[Here] = (),
    without: Collection[str] = (),
) -> Choice:
    """The variant of a model to take on a machine.

    Args:
        meant: the model, and the variant if one is named; or a name that says so.
        on: `machine.here()`, or a Mac of the table.
        asked: what is to be done with it.
        here: variants that are on this machine.
        without: variants that were found not to do.

    Raises:
        ModelNotFoundError: the name means no model, or several; or there is no such variant.
        UnsupportedModelError: this version does not run it.
    """
    meant = catalog.meant(meant) if isinstance(meant, str) else meant
    judge = Judge(subject.of_row(meant.row), asked or Asked())
    local = [(_local(judge, each, on), each) for each in here if meant.form in (None, each.form)]
    answers = [answer for answer in judge.answers(on) if answer.format not in without]
    if meant.form is not None:
        answers = [answer for answer in answers if answer.format == meant.form]
    fitting = [pair for pair in local if meant.form is not None or pair[0].verdict in ("comfortable", "tight")]
    if fitting:
        return _here(judge, fitting, on)
    if not answers:
        raise ModelNotFoundError(f"{meant.row.label} cannot be had in that variant.", f"gemma fit {meant.row.label}")
    # What can be packed of files that are here need not be fetched at all.
    top = best([replace(answer, ready=answer.ready or _raw_is_here(meant.row, answer.format)) for answer in answers])
    if local and VERDICTS.index(best([answer for answer, _ in local]).verdict) <= VERDICTS.index(top.verdict):
        return _here(judge, local, on)
    return _had(judge, meant, top, answers, on)


def _local(judge: Judge, each: Here, on: Machine) -> Answer:
    """How a variant does whose files are here: by their size, whatever it is called."""
    return judge.answer(each.form, formats.FORMATS[each.form], on, each.nbytes)


def _here(judge: Judge, local: Sequence[tuple[Answer, Here]], on: Machine) -> Choice:
    answer = best([answer for answer, _ in local])
    each = next(each for found, each in local if found is answer)
    assert judge.subject.row is not None, "it is of the catalogue"
    fits = "is here, and fits" if answer.verdict in ("comfortable", "tight") else "is here, and does not fit"
    return Choice(
        row=judge.subject.row,
        form=each.form,
        way="here",
        name=each.name,
        repository=None,
        folder=each.folder,
        nbytes=each.nbytes,
        answer=answer,
        reason=f"{each.name} {fits}: {_needs(answer, on)}.",
    )


def _had(judge: Judge, meant: Meant, answer: Answer, answers: Sequence[Answer], on: Machine) -> Choice:
    """The choice of what is not here yet; `answers` are for all that could be had."""
    row, form = meant.row, answer.format
    source = sources.ready(row, form)
    raw = sources.raw(row, form)
    if raw is not None and (source is None or _raw_is_here(row, form)):
        source = raw
    if source is None:
        raise ModelNotFoundError(f"{row.label} is not published.", "gemma models")
    nbytes = judge.nbytes(form, source.nbytes if source.ready else None)
    name = catalog.spelled(row, form)
    way: Way = "fetch" if source.ready else "make"
    what = f"{row.label} in {form}, {nbytes / 1e9:.1f} GB"
    if answer.verdict == "no" and meant.form is None:
        reason = f"{row.label} does not fit, not even in {form}. {answer.reason}"
    elif meant.form is not None:
        reason = f"{what}: {_needs(answer, on)}, {answer.verdict}."
    else:
        fits = {"comfortable": "is the best that fits", "tight": "just fits"}.get(
            answer.verdict, f"fits after {answer.command}"
        )
        reason = f"{what}, {fits}: {_needs(answer, on)}. {_another(row, answer, answers)}"
    if way == "make" and (answer.verdict != "no" or meant.form is not None):
        reason += f" It is packed here, out of {source.repository}."
    return Choice(
        row=row,
        form=form,
        way=way,
        name=source.repository if source.ready else name,
        repository=source.repository,
        folder=None if source.ready else made.folder(row, form),
        nbytes=nbytes,
        answer=answer,
        reason=reason,
    )


def _another(row: Row, taken: Answer, answers: Sequence[Answer]) -> str:
    """How another variant is taken: by its name, for example that of the next best one."""
    others = [each for each in answers if each.format != taken.format and each.ready and each.verdict == "comfortable"]
    if not others:
        return f"gemma fit {row.label} shows the others."
    return f"{catalog.spelled(row, best(others).format)} names another."


def _needs(answer: Answer, on: Machine) -> str:
    quick = f", {answer.decode.tokens_per_second:.0f} tokens per second" if answer.decode else ""
    return f"{answer.memory.peak / 1e9:.1f} of {on.limit_bytes / 1e9:.1f} GB{quick}"


def _raw_is_here(row: Row, form: str) -> bool:
    raw = sources.raw(row, form)
    return raw is not None and cached.complete(raw.repository) is not None


def instead(on: Machine, asked: Asked | None = None) -> Answer | None:
    """The best of all models that fit a machine; None where none does."""
    return next((answer for answer, _ in survey(on, asked or Asked())[0]), None)


def of_files(choice: Choice, held: int, on: Machine) -> Answer:
    """How a choice does on a machine with files of so many bytes, as the hub tells them."""
    judge = Judge(subject.of_row(choice.row), Asked())
    return judge.answer(choice.form, formats.FORMATS[choice.form], on, held)


def packing(choice: Choice, folder: Path) -> plan.Plan:
    """What becomes of the files in `folder`, so that the variant comes out.

    Raises:
        GemmaError: they cannot be packed so.
    """
    return plan.plan(folder, **_RECIPES[choice.form])


def judged(name: str, config: Mapping[str, Any], nbytes: int, on: Machine) -> Answer:
    """How files of so many bytes do on a machine, of which only config.json is known.

    Raises:
        ConfigError, UnsupportedModelError: it cannot be told.
    """
    model = subject.of_config(name, config)
    return Judge(model, Asked()).answer("4-bit", formats.FORMATS["4-bit"], on, nbytes)
