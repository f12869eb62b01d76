"""`gemma embed`: texts to vectors; made for pipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemma_mlx.cli import options as flags
from gemma_mlx.cli.console import say
from gemma_mlx.cli.opening import admission, found
from gemma_mlx.cli.render.bars import Progress
from gemma_mlx.cli.texts import Files, Texts, all_texts
from gemma_mlx.errors import InputError

if TYPE_CHECKING:
    import mlx.core as mx

    from gemma_mlx.gemma import Gemma

TASK_NAMES = "query, document, question-answering, fact-checking, code, classification, clustering, similarity or none"


def embed(
    texts: Texts = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", show_default=False,
            help="A folder, or a name on Hugging Face; the newest embedding model on this machine where none is named.",
        ),
    ] = None,
    file: Files = None,
    task: Annotated[
        str, typer.Option("--task", "-t", metavar="TASK", help=f"What the vectors are for: {TASK_NAMES}.")
    ] = "document",
    document_title: Annotated[
        str | None,
        typer.Option("--document-title", metavar="TEXT", help="The title of the documents.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            "--size", metavar="N", show_default=False,
            help="Keep the first N numbers: 512, 256 or 128 of EmbeddingGemma's 768; all where not given.",
        ),
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Make each vector as long as 1.")
    ] = True,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Texts at once, at most.")] = 32,
    as_json: flags.Json = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print a JSON object for each text, which is the default.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE.npy", show_default=False,
            help="Write an array of float32, a row for each text, and print nothing.",
        ),
    ] = None,
    force: flags.Force = False,
    quiet: flags.Quiet = False,
) -> None:  # fmt: skip
    """Make a vector of each text.

    Prints a line for each text, in their order: an object with index, text and embedding. A blank line is an empty
    text, so that lines and vectors keep step. With --json one object is printed, with model, task, size and
    embeddings, a list of such objects.
    """
    if as_json + as_jsonl + (out is not None) > 1:
        raise InputError("--json, --jsonl and --out exclude each other.", "Name one of them.")
    if out is not None and out.suffix != ".npy":
        raise InputError(f"--out writes a .npy file, and was given {out}.", f"--out {out.with_suffix('.npy')}")
    given = list(
        all_texts(texts or [], file or [], 'gemma embed "a text" "another", or --file FILE, or lines on stdin.')
    )
    with Progress(quiet=quiet) as progress:
        gemma = opened(flags.one_model(model, None), progress, force=force, quiet=quiet)
        progress.stop()
        progress.start()
        vectors = gemma.embed(
            given, task=task, title=document_title, size=size, normalize=normalize, truncate=truncate, batch=batch,
            on_progress=progress.embedding,
        )  # fmt: skip
    if out is not None:
        save(out, vectors)
        return
    rows = ({"index": index, "text": text, "embedding": numbers(vectors[index])} for index, text in enumerate(given))
    if as_json:
        found = {"model": gemma.name, "task": task, "size": vectors.shape[1], "embeddings": list(rows)}
        print(json.dumps(found, ensure_ascii=False))
        return
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


def opened(name: str | None, progress: Progress, *, force: bool, quiet: bool) -> Gemma:
    """The embedding model, refused where it is none before its weights are read."""
    from gemma_mlx.gemma import load
    from gemma_mlx.weights import hub
    from gemma_mlx.weights.load import materialize

    if name is None:
        name, _ = hub.default("embed")
        if not quiet:
            say(f"Taking {name}, the embedding model that came last to this machine.")
    name, _ = found(name, quiet=quiet)
    gemma = load(name, memory=admission(force=force, quiet=quiet))
    _ = gemma.embedder
    materialize(gemma.model, progress.loading)
    return gemma


def numbers(vector: mx.array) -> list[Any]:
    """The vector as JSON has it; 9 digits tell all float32 apart."""
    return [float(f"{number:.9g}") for number in vector.tolist()]  # type: ignore[union-attr]


def save(path: Path, vectors: mx.array) -> None:
    """Writes a .npy file, which is whole or not there."""
    import numpy as np

    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as stream:
            np.save(stream, np.array(vectors))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
