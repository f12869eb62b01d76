"""A model's name -> the folder it lies in: a path, the model in the box, or a Hugging Face repository.

This and its neighbours (cached, pull, remote, transfer) keep to huggingface_hub's cache and settings. HF_HOME,
HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere, and what other programs fetched is
taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gemma_mlx import catalog, registry
from gemma_mlx.config import read_config
from gemma_mlx.errors import GemmaError, ModelNotFoundError, UnsupportedModelError
from gemma_mlx.spec import DrafterSpec, EncoderSpec
from gemma_mlx.weights import cached, pull
from gemma_mlx.weights.files import check_folder, located
from gemma_mlx.weights.foreign import READ
from gemma_mlx.weights.transfer import OnProgress

DEMO: Final = "demo"
DEMO_FOLDER: Final = Path(__file__).resolve().parent.parent / "demo"

# Memory for each byte of weights: caches and working space come on top. A guess until there is an estimate.
HEADROOM: Final = 1.2

# Newest first. Both names of Gemma 3 are one generation.
_GENERATIONS: Final = (("gemma3", "gemma3_text"), ("gemma2", "vaultgemma"), ("gemma",))
_OWNER_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A Gemma in the Hugging Face cache that this version runs.

    Attributes:
        name: of the repository.
        folder: its newest files.
        model_type: config.json's.
        nbytes: of its weights' files.
        modified: when config.json came, in seconds since 1970.
        chats: whether a chat template came with it.
        embeds: whether it makes vectors of texts, and writes none.
        drafts: whether it proposes tokens to another model, and writes none by itself.
        judges: whether its template asks about a policy, as ShieldGemma's does, rather than chat.
    """

    name: str
    folder: Path
    model_type: str
    nbytes: int
    modified: float
    chats: bool
    embeds: bool = False
    drafts: bool = False
    judges: bool = False


def resolve(name: str, on_progress: OnProgress | None = None) -> Path:
    """The folder of the model called `name`, fetched from Hugging Face where it is not on this machine yet.

    Args:
        name: a folder, "demo", the id of a repository, which is "owner/name", or a name that the catalogue knows.
        on_progress: see `pull.fetch`.

    Raises:
        ModelNotFoundError: there is no such model, the name means several, or it cannot be fetched.
        ConfigError, UnsupportedModelError: the repository cannot be run; known before its weights are fetched.
    """
    known, folder = look(name)
    return folder if folder is not None else located(pull.fetch(pull.plan(known), on_progress))


def look(name: str) -> tuple[str, Path | None]:
    """What `name` means, without asking the network: the repository's id and its folder, None where it is not here.

    A folder is itself, and so is the model in the box.

    Raises:
        ModelNotFoundError: it means no model, or several.
        UnsupportedModelError: it means one that cannot be read.
    """
    if name == DEMO:
        if not (DEMO_FOLDER / "config.json").exists() or not any(DEMO_FOLDER.glob("*.safetensors")):
            raise ModelNotFoundError(
                "The model in the box is not in this installation: its weights are missing.",
                "Install the package again, or name a model: gemma chat google/gemma-3-1b-it",
            )
        return name, DEMO_FOLDER
    if not name.strip() or "\0" in name:
        raise ModelNotFoundError("An empty name is no model's.", "gemma chat demo")
    folder = Path(os.path.expanduser(name))
    if os.path.exists(folder):  # which, unlike Path.exists, answers for a name that is too long, too
        check_folder(folder)
        return name, located(folder)
    name = checked(repository(name))
    here = cached.complete(name)
    return name, None if here is None else located(here)


def checked(name: str) -> str:
    """`name`, if it may be the id of a repository; else ModelNotFoundError."""
    if not _OWNER_NAME.fullmatch(name) or name.endswith((".", ".git")) or ".." in name or "--" in name:
        raise _no_such_name(name)
    return name


def repository(name: str) -> str:
    """The id of the repository that `name` means, where the catalogue says so; else `name`, if it may be an id."""
    if "/" in name:
        row = catalog.named(name)
        return name if row is None or row.repository is None else row.repository
    if name.startswith("~"):
        return name
    try:
        row = catalog.find(name)
    except ModelNotFoundError:
        near = [model for model, _ in cached.repositories() if model.rpartition("/")[2].lower() == name.lower()]
        if not near:
            raise
        raise _no_such_name(name) from None
    if row.repository is None:
        raise ModelNotFoundError(
            f"{row.name} is not published as one repository: {row.note}.", "For example: gemma chat gemma3:4b"
        )
    if row.format not in READ:
        raise UnsupportedModelError(
            f"{row.repository} is {row.note}, and cannot be read here ({row.format}).",
            "Take the model it was made from, in safetensors.",
        )
    return row.repository


def installed() -> list[Installed]:
    """Every Gemma in the Hugging Face cache that is complete and of an architecture this version runs.

    Reads configs and the sizes of files, no weights; sorted by name.
    """
    return sorted(_scan(), key=lambda model: model.name)


def default_model(limit_bytes: int | None) -> tuple[str, Path, str]:
    """What to run where no model is named: (name, folder, the sentence that says why).

    The newest generation on this machine, and of it the largest that fits; a model without a chat template stands
    behind all that have one. The model in the box where there is none.

    Args:
        limit_bytes: memory that a model may take; None where it is not known.
    """
    from gemma_mlx.weights.load import PER_LAYER, inspect

    writers = [model for model in installed() if not (model.embeds or model.drafts or model.judges)]
    models = sorted(writers, key=lambda model: (not model.chats, _generation(model), -model.nbytes))
    for model in models:
        try:
            needed = inspect(model.folder).memory_bytes(per_layer=PER_LAYER) * HEADROOM
        except GemmaError:  # damaged: `gemma show` says how
            continue
        if limit_bytes is None or needed <= limit_bytes:
            fits = "" if limit_bytes is None else f" that fits in {limit_bytes / 1e9:.0f} GB"
            return model.name, model.folder, f"{model.name} is the newest Gemma on this machine{fits}."
    what = "No Gemma was found on this machine" if not models else (
        f"None of the {len(models)} Gemmas on this machine fits in {(limit_bytes or 0) / 1e9:.0f} GB of memory"
        if len(models) > 1
        else f"{models[0].name}, the only Gemma on this machine, does not fit or cannot be read"
    )  # fmt: skip
    why = f"{what}, so this is the model in the box: tiny, made to try the program, and no help with real questions."
    return DEMO, resolve(DEMO), why


def default_embedder() -> str:
    """The embedding model to take where none is named: the one that came last to this machine.

    Raises:
        ModelNotFoundError: there is none.
    """
    models = sorted((model for model in installed() if model.embeds), key=lambda model: model.modified)
    if not models:
        raise ModelNotFoundError(
            "There is no embedding model on this machine, and none was named.",
            "Fetch one by its name: gemma embed -m google/embeddinggemma-300m TEXT",
        )
    return models[-1].name


def default_classifier() -> str:
    """The model to take for judging texts where none is named: the one that came last to this machine.

    Raises:
        ModelNotFoundError: there is none.
    """
    models = sorted((model for model in installed() if model.judges), key=lambda model: model.modified)
    if not models:
        raise ModelNotFoundError(
            "There is no ShieldGemma on this machine, and no model was named.",
            "Fetch one by its name: gemma classify -m google/shieldgemma-2b TEXT",
        )
    return models[-1].name


def _generation(model: Installed) -> int:
    return next((index for index, kinds in enumerate(_GENERATIONS) if model.model_type in kinds), len(_GENERATIONS))


def _scan() -> Iterator[Installed]:
    for name, path in cached.repositories():
        folder = cached.snapshot(path)
        if folder is None or not cached.is_complete(folder):
            continue
        try:
            config = read_config(folder)
            kind = config.get("model_type")
            if kind not in registry.MODULES:
                continue
            spec = registry.match(config).spec
            files = [path.stat().st_size for path in folder.glob("model*.safetensors")]
            modified = (folder / "config.json").stat().st_mtime
        except (GemmaError, OSError):  # no Gemma we run, or gone while we looked
            continue
        yield Installed(
            name=name,
            folder=folder,
            model_type=str(kind),
            embeds=isinstance(spec, EncoderSpec),
            drafts=isinstance(spec, DrafterSpec),
            nbytes=sum(files),
            modified=modified,
            chats=_has_template(folder),
            judges=_judges(name, folder),
        )


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    try:
        return b'"chat_template"' in (folder / "tokenizer_config.json").read_bytes()
    except OSError:
        return False


def _judges(name: str, folder: Path) -> bool:
    """Whether the name or the template is ShieldGemma's, whose template asks for a guideline."""
    if "shieldgemma" in name.lower():
        return True
    for file in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json"):
        try:
            text = (folder / file).read_bytes()
        except OSError:
            continue
        if re.search(rb"\{\{[^{}]*\bguideline\b[^{}]*\}\}", text):
            return True
    return False


def _no_such_name(name: str) -> ModelNotFoundError:
    shown = name if len(name) <= 100 else name[:97] + "..."
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        return ModelNotFoundError(
            f"There is no folder {shown}.", "A checkpoint's folder holds config.json and *.safetensors."
        )
    near = cached.near(name)
    hint = f"Did you mean {' or '.join(near)}?" if near else "For example: gemma chat google/gemma-3-1b-it"
    return ModelNotFoundError(
        f"{shown!r} is neither a folder here nor the id of a repository, which is owner/name.", hint
    )
