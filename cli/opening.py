"""From the name on the command line to a model, with what there is to say on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from gemma_mlx.cli.console import confirm, say, without_echo
from gemma_mlx.cli.render.bars import Progress, lasting
from gemma_mlx.cli.render.tables import size
from gemma_mlx.errors import GemmaError, InputError, MemoryLimitError

if TYPE_CHECKING:
    from pathlib import Path

    from gemma_mlx.gemma import Gemma
    from gemma_mlx.generate.asked import Asked
    from gemma_mlx.quantize.admission import Admission
    from gemma_mlx.session import Session
    from gemma_mlx.weights.hub import Installed
    from gemma_mlx.weights.transfer import Plan

# More is not fetched before someone says yes: with --yes, or on a terminal.
ASK_ABOVE_BYTES: Final = 2 * 10**9


def chosen(name: str | None, *, quiet: bool = False) -> str:
    """The name given, or where none is, the model to take, with a sentence on stderr that says which and why."""
    if name is not None:
        return name
    from gemma_mlx.weights import hub

    name, why = hub.default("chat", fits)
    if not quiet:
        say(why)
    return name


def fits(model: Installed) -> bool:
    """Whether there is memory here for a model and a short prompt; admission asks again before it is loaded."""
    from gemma_mlx.quantize.admission import fits_here

    try:
        return fits_here(model.name, model.folder)
    except GemmaError:  # damaged: `gemma show` says how
        return False


def found(name: str | None, *, exact: bool = False, force: bool = False, quiet: bool = False) -> tuple[str, Path]:
    """The name of a model and the folder its files are in, fetched if they must be.

    Args:
        name: of a model; the newest here where None.
        exact: the files as they were published, and no variant of them.
        force: a variant, even where none fits.
        quiet: say nothing.
    """
    from gemma_mlx.cli.variant import Asking, taken
    from gemma_mlx.weights import hub, pull

    name = chosen(name, quiet=quiet)
    if exact:
        known, folder = hub.published(name)
    elif (one := taken(name, Asking(force=force, quiet=quiet))) is not None:
        return one.choice.name, one.folder
    else:
        known, folder = hub.look(name)
    return name, folder if folder is not None else fetch(pull.plan(known), quiet=quiet)


def admission(*, force: bool = False, quiet: bool = False) -> Admission:
    """What asks whether there is memory, and says on stderr what it changes."""
    from gemma_mlx.quantize.admission import Admission

    def tell(sentence: str) -> None:
        if not quiet:
            say(sentence, dim=not force)

    return Admission.here(force=force, tell=tell)


def open_model(name: str | None, *, force: bool = False, quiet: bool = False, **how: Any) -> Gemma:
    """Loads a model, with progress where it takes a while; `how` is `gemma_mlx.load`'s slice and per_layer."""
    from gemma_mlx.gemma import load

    name, _ = found(name, exact=how.get("slice") is not None, force=force, quiet=quiet)
    with Progress(quiet=quiet) as progress:
        memory = admission(force=force, quiet=quiet)
        return load(name, memory=memory, on_progress=progress.loading, **how)


def open_session(
    name: str | None, *, system: str | None, force: bool = False, quiet: bool = False, **options: Any
) -> Session:
    """Loads a model and begins a conversation, with progress where it takes a while; see `Session.open`."""
    from gemma_mlx.session import Session

    name, _ = found(name, exact=options.get("slice") is not None, force=force, quiet=quiet)
    with Progress(quiet=quiet) as progress:
        memory = admission(force=force, quiet=quiet)
        return Session.open(name, system=system, memory=memory, on_progress=progress.loading, **options)


def fitting(gemma: Gemma, lengths: list[tuple[int, int]], kv_bits: int | None) -> tuple[int, int | None]:
    """The chunk, and the bits of keys and values, with which there is memory for all lengths.

    Raises:
        MemoryLimitError: there are none.
    """
    from dataclasses import replace

    from gemma_mlx.generate.sampling import Options

    cache = gemma.make_cache(kv_bits)
    options: Asked = Options()
    for read, written in lengths:
        options = gemma.admitted(cache, read, replace(options, max_tokens=written))
        if options.max_tokens != written:
            raise MemoryLimitError(
                f"Behind a prompt of {read:,} tokens there is memory for {options.max_tokens:,}, not for {written:,}.",
                "Ask for fewer with --prompt and --generate; --force tries them all the same.",
            )
    return options.chunk, cache.cache.kv_bits


def fetch(
    plan: Plan, *, yes: bool = False, verify: bool = False, quiet: bool = False, command: str | None = None
) -> Path:
    """Fetches what is missing, with progress; what is large, only after someone said yes.

    Args:
        plan: what to fetch.
        yes: do not ask.
        verify: see `pull.fetch`.
        quiet: say nothing.
        command: the name for `gemma pull` that fetches the same; the repository's where None.

    Raises:
        InputError: nobody said yes.
        GemmaError: as `pull.fetch` raises.
    """
    from gemma_mlx.weights import pull

    command = f"gemma pull {command or plan.name}"
    if plan.missing and not quiet:
        say(_told(plan))
    if plan.missing > ASK_ABOVE_BYTES and not yes:
        answer = confirm("Fetch it?", enter=True)
        if answer is None:
            raise InputError(
                f"{plan.name} has {size(plan.missing)} to fetch, and nobody is here to say yes to that.",
                f"{command} --yes",
            )
        if not answer:
            raise InputError("Nothing was fetched.", command)
    begun = time.monotonic()
    try:
        with without_echo(), Progress(quiet=quiet) as progress:
            folder = pull.fetch(plan, progress.fetching, verify=verify)
    except KeyboardInterrupt:
        if not quiet:
            say(f"Stopped. What was fetched is kept: {command} goes on where it was.")
        raise
    if plan.missing and not quiet:
        seconds = time.monotonic() - begun
        say(f"Fetched and verified: {size(plan.missing)} in {lasting(seconds)}, {size(plan.missing / seconds)}/s.")
    return folder


def _told(plan: Plan) -> str:
    """What will be fetched, the room there is for it, and how it does on this machine, as far as that is known."""
    from gemma_mlx.config import read_config
    from gemma_mlx.quantize import machine, variants
    from gemma_mlx.weights.pull import free_bytes

    here = f", {size(plan.here)} of them here" if plan.here * 20 > plan.nbytes else ""
    text = f"{plan.name}: {size(plan.nbytes)}{here}; the disk has {size(free_bytes())} left."
    try:
        answer = variants.judged(plan.name, read_config(plan.folder), plan.weights, machine.here())
    except GemmaError:  # a machine that does not tell, or a model of which nobody can
        return text
    return text if answer.verdict == "comfortable" else f"{text} {answer.reason}"
