"""From a short name to a variant of that model for this machine: taken from here, fetched, or packed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gemma_mlx.cli.console import confirm, say
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.render.tables import size
from gemma_mlx.errors import InputError, MemoryLimitError, ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.catalog import Meant
    from gemma_mlx.quantize.machine import Machine
    from gemma_mlx.quantize.variants import Choice
    from gemma_mlx.weights.transfer import Plan

_WORSE: Final = ("needs sysctl", "no")


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How much is asked and said: `yes` asks nothing, `force` takes what does not fit, `quiet` says nothing."""

    yes: bool = False
    force: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A variant that is on this machine now: what was chosen, the folder it is in, and the bytes fetched for it."""

    choice: Choice
    folder: Path
    fetched: int = 0


def taken(name: str, asking: Asking) -> Taken | None:
    """The variant of the model that `name` means, fetched or packed if it must be; None for all other names, and where
    there is no estimate to choose by.

    Raises:
        MemoryLimitError: no variant fits this machine.
        InputError: nobody said yes.
        GemmaError: as `pull` and `quantize` raise.
    """
    from gemma_mlx.quantize import machine
    from gemma_mlx.weights import hub

    meant = hub.short(name)
    if meant is None or meant.row.repository is None:
        return None
    try:
        on = machine.here()
        choice = _chosen(meant, on, asking)
    except (InputError, UnsupportedModelError):  # a machine that does not tell, or a model that cannot be judged
        return None
    if choice.way == "here":
        assert choice.folder is not None, "it is here"
        return Taken(choice=choice, folder=choice.folder)
    return _had(meant, choice, on, asking)


def _chosen(meant: Meant, on: Machine, asking: Asking, without: frozenset[str] = frozenset()) -> Choice:
    from gemma_mlx.quantize import variants
    from gemma_mlx.weights import hub

    here = hub.here(meant.row, meant.form)
    choice = variants.choose(meant, on, here=here, without=without)
    if choice.way == "here":
        if len(here) > 1 and not asking.quiet:
            say(choice.reason, dim=True)
        return choice
    if choice.answer.verdict == "no" and meant.form is None and not asking.force:
        smaller = variants.instead(on)
        hint = f"gemma pull {choice.answer.fetch} fetches it all the same."
        raise MemoryLimitError(
            choice.reason, hint if smaller is None else f"{smaller.model} fits: gemma chat {smaller.model}. {hint}"
        )
    if not asking.quiet:
        say(choice.reason)
    return choice


def _had(meant: Meant, choice: Choice, on: Machine, asking: Asking) -> Taken:
    """What was chosen, fetched or made; another variant where the hub's files turn out not to fit."""
    from gemma_mlx.quantize import variants
    from gemma_mlx.weights import pull

    left: frozenset[str] = frozenset()
    while True:
        assert choice.repository is not None, "it is not here"
        plan = pull.plan(choice.repository)
        if choice.way == "make":
            return _make(choice, plan, asking)
        real = variants.of_files(choice, plan.weights, on)
        if meant.form is not None or real.verdict not in _WORSE or choice.answer.verdict in _WORSE:
            break
        if not asking.quiet:
            say(f"{plan.name} holds {size(plan.weights)}, more than its name says: {real.reason}")
        left |= {choice.form}
        choice = _chosen(meant, on, asking, left)
        if choice.way == "here":
            assert choice.folder is not None, "it is here"
            return Taken(choice=choice, folder=choice.folder)
    from gemma_mlx.cli.opening import fetch

    folder = fetch(plan, yes=asking.yes, quiet=asking.quiet, command=choice.answer.fetch)
    return Taken(choice=choice, folder=folder, fetched=plan.missing)


def _make(choice: Choice, plan: Plan, asking: Asking) -> Taken:
    """Fetches what is to be packed, if it must be, and packs it; offers to remove what was fetched."""
    from gemma_mlx.cli.opening import ASK_ABOVE_BYTES, fetch
    from gemma_mlx.quantize import variants
    from gemma_mlx.quantize.convert import quantize
    from gemma_mlx.weights.cached import is_complete

    assert choice.folder is not None, "it is made there"
    _check_room(choice, plan)
    named = choice.answer.fetch
    both = plan.missing + choice.nbytes
    if both > ASK_ABOVE_BYTES and not asking.yes:
        what = f"Fetch {size(plan.missing)} and pack them" if plan.missing else "Pack it"
        if (answer := confirm(f"{what} into {size(choice.nbytes)}?", enter=True)) is None:
            raise InputError(
                f"{named} is {size(plan.missing)} to fetch and {size(choice.nbytes)} to write, and nobody is here to "
                "say yes to that.",
                f"gemma pull {named} --yes",
            )
        if not answer:
            raise InputError("Nothing was fetched.", f"gemma pull {named}")
    fetched = plan.missing
    source = fetch(plan, yes=True, quiet=asking.quiet, command=named)
    if is_complete(choice.folder):  # another process was at it, too
        return Taken(choice=choice, folder=choice.folder, fetched=fetched)
    try:
        with Progress(quiet=asking.quiet) as progress:
            quantize(variants.packing(choice, source), choice.folder, on_progress=progress.quantizing)
    except KeyboardInterrupt:
        if not asking.quiet:
            say(f"Stopped. gemma pull {named} goes on where it was.")
        raise
    if not asking.quiet:
        say(f"Packed: {choice.folder}")
    if fetched:
        _offer_to_remove(choice, asking)
    return Taken(choice=choice, folder=choice.folder, fetched=fetched)


def _check_room(choice: Choice, plan: Plan) -> None:
    from gemma_mlx.weights import pull

    free, both = pull.free_bytes(), plan.missing + choice.nbytes
    if both > free:
        raise ModelNotFoundError(
            f"{choice.answer.fetch} is packed here: {size(plan.missing)} to fetch and {size(choice.nbytes)} to write, "
            f"and the disk has {size(free)} left.",
            f"gemma fit {choice.row.label} shows other variants; gemma rm NAME makes room.",
        )


def _offer_to_remove(choice: Choice, asking: Asking) -> None:
    """What it was made of is not needed to run; nobody's yes, nobody's loss."""
    from gemma_mlx.weights import cached

    assert choice.repository is not None, "it was made of something"
    found = cached.find(choice.repository)
    if found is None:
        return
    answer = None
    if not (asking.yes or asking.quiet):
        answer = confirm(f"Remove {found.name}, {size(found.nbytes)}, which is not needed any more?", enter=False)
    if answer:
        cached.remove(found.name)
    elif not asking.quiet:
        say(f"gemma rm {found.name} gives back {size(found.nbytes)}: they are not needed to run it.", dim=True)
