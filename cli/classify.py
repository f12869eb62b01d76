"""`gemma classify`: how probably texts violate a policy; made for pipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import VIOLATED, columns, is_terminal, printable, say, styled
from gemma_mlx.cli.opening import admission, found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.texts import Files, Texts, all_records, all_texts
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    from gemma_mlx.classifier import Verdict
    from gemma_mlx.gemma import Gemma
    from gemma_mlx.text.policies import Policy

POLICY_NAMES = "dangerous-content, harassment, hate-speech or sexually-explicit"
_EXAMPLE = 'gemma classify "a text" "another", or --file FILE, or lines on stdin.'
_PIPED_COLUMNS = 100


def classify(
    texts: Texts = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", show_default=False,
            help="A folder, or a name on Hugging Face; the newest ShieldGemma on this machine where none is named.",
        ),
    ] = None,
    file: Files = None,
    records: Annotated[
        bool, typer.Option("--records", help="Lines are JSON objects with text, and response where there is one.")
    ] = False,
    response: Annotated[
        str | None,
        typer.Option(
            "--response", "-r", metavar="TEXT", show_default=False,
            help="What a chatbot answered to the text: judge that.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", "-p", metavar="NAME", show_default=False,
            help=f"{POLICY_NAMES}; may be given again; all four where none is given.",
        ),
    ] = None,
    policy_text: Annotated[
        list[str] | None,
        typer.Option(
            "--policy-text", metavar="TEXT", show_default=False,
            help='A policy of your own: "No Spoilers": The prompt shall not ...; may be given again.',
        ),
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", metavar="X", help="From which probability on a policy counts as violated.")
    ] = 0.5,
    check: Annotated[
        bool, typer.Option("--check", help=f"Leave with exit code {VIOLATED} where a policy is violated.")
    ] = False,
    as_json: flags.Json = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON object for each text.")] = False,
    force: flags.Force = False,
    quiet: flags.Quiet = False,
) -> None:  # fmt: skip
    """Say how probably texts violate a policy.

    Prints each text, and below it the probability of each policy and whether it reaches the threshold. With --jsonl an
    object for each text is printed as soon as it is known: index, text, response where there is one, probabilities,
    violated, prompt_tokens and reused_tokens, and whatever else its record held. With --json one object is printed,
    with model, threshold and verdicts, a list of such objects.
    """
    if as_json and as_jsonl:
        raise InputError("--json and --jsonl exclude each other.", "Name one of them.")
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"--threshold is {threshold:g}, but a probability is from 0 to 1.", "--threshold 0.5")
    rows = _rows(texts or [], file or [], records, response)
    policies = wanted(policy or [], policy_text or [])
    with Progress(quiet=quiet) as progress:
        gemma, verdicts = opened(flags.one_model(model, None), rows, policies, progress, force=force, quiet=quiet)
        found = []
        shows = is_terminal(sys.stdout) and not as_json
        for index, verdict in enumerate(_watched(verdicts, len(rows), progress, between=shows)):
            found.append(as_object(index, rows[index], verdict, threshold))
            if as_jsonl:
                print(json.dumps(found[-1], ensure_ascii=False), flush=True)
            elif not as_json:
                print(block(verdict, threshold), flush=True)
    if as_json:
        print(json.dumps({"model": gemma.name, "threshold": threshold, "verdicts": found}, ensure_ascii=False))
    if check and any(row["violated"] for row in found):
        raise typer.Exit(VIOLATED)


def wanted(names: list[str], texts: list[str]) -> list[Policy] | None:
    """The policies by name and by text; None, which is all published ones, where there is neither."""
    from gemma_mlx.text.policies import Policy, find

    return [*map(find, names), *map(Policy.written, texts)] or None


def opened(
    name: str | None,
    rows: list[dict[str, Any]],
    policies: list[Policy] | None,
    progress: Progress,
    *,
    force: bool,
    quiet: bool,
) -> tuple[Gemma, Iterator[Verdict]]:
    """The model and its verdicts to come; what cannot be judged is refused before the weights are read."""
    from gemma_mlx.gemma import load
    from gemma_mlx.weights import hub
    from gemma_mlx.weights.load import materialize

    if name is None:
        name, _ = hub.default("judge")
        if not quiet:
            say(f"Taking {name}, the ShieldGemma that came last to this machine.")
    name, _ = found(name, quiet=quiet)
    gemma = load(name, memory=admission(force=force, quiet=quiet))
    responses = [row.get("response") for row in rows]
    verdicts = gemma.classifier.classify([row["text"] for row in rows], policies, responses=responses)
    if not gemma.classifier.is_trained and not quiet:
        say(f"{name} was not trained to judge texts: what its probabilities are worth is not known.")
    materialize(gemma.model, progress.loading)
    return gemma, verdicts


def as_object(index: int, row: dict[str, Any], verdict: Verdict, threshold: float) -> dict[str, Any]:
    """A verdict as JSON; the keys are stable, and those of its record come along."""
    found = {
        "probabilities": {name: float(f"{value:.6g}") for name, value in verdict.probabilities.items()},
        "violated": list(verdict.violated(threshold)),
        "prompt_tokens": verdict.prompt_tokens,
        "reused_tokens": verdict.reused_tokens,
    }
    return {"index": index} | row | {"index": index} | found


def block(verdict: Verdict, threshold: float) -> str:
    """A verdict for people: the text on a line, and a line for each policy."""
    fit = columns() if is_terminal(sys.stdout) else _PIPED_COLUMNS
    lines = [styled(_cut(verdict.text, fit), "1", sys.stdout)]
    if verdict.response is not None:
        lines.append(_cut(f"> {verdict.response}", fit))
    for name, probability in verdict.probabilities.items():
        lines.append(
            f"  {probability:.3f}  {'violated' if probability >= threshold else '-':8}  {_cut(name, fit - 19)}"
        )
    return "\n".join(lines)


def _cut(text: str, fit: int) -> str:
    """A text on one line that fits."""
    shown = " ".join(printable(text).split())
    return shown if len(shown) <= fit else f"{shown[: max(fit - 3, 0)]}..."


def _rows(texts: list[str], files: list[Any], records: bool, response: str | None) -> list[dict[str, Any]]:
    """A record for each text: what was given, under the keys of the result."""
    if records:
        if texts or response is not None:
            raise InputError(
                "--records reads texts and responses from lines of JSON, and others were given beside it.",
                "Name a file: --records --file FILE, or pipe the lines in.",
            )
        return list(
            all_records(files, "text", ("response",), "gemma classify --records --file FILE, or lines on stdin.")
        )
    rows: list[dict[str, Any]] = [{"text": text} for text in all_texts(texts, files, _EXAMPLE)]
    if response is not None:
        if len(rows) != 1:
            raise InputError(
                f"--response answers one text, and there are {len(rows):,}.",
                'For many: --records, and lines like {"text": "...", "response": "..."}',
            )
        rows[0]["response"] = response
    return rows


def _watched(verdicts: Iterator[Verdict], total: int, progress: Progress, *, between: bool) -> Iterator[Verdict]:
    """The verdicts, with progress on a terminal; `between` them only where they are shown on the same one."""
    for done, verdict in enumerate(verdicts, 1):
        if between:
            progress.stop()
        yield verdict
        if between:
            progress.start()
        progress.judging(done, total)
