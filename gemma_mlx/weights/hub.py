"""A model's name -> the folder it lies in: a path, the model in the box, or a Hugging Face repository.

This and its neighbours (cached, pull, remote, transfer) keep to huggingface_hub's cache and settings. HF_HOME,
HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere, and what other programs fetched is
taken.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gemma_mlx import catalog, registry
from gemma_mlx.catalog import Meant, Row
from gemma_mlx.config import read_config
from gemma_mlx.errors import GemmaError, ModelNotFoundError, UnsupportedModelError
from gemma_mlx.gguf.places import SUFFIX
from gemma_mlx.spec import DrafterSpec, EncoderSpec
from gemma_mlx.weights import cached, made, pull
from gemma_mlx.weights.files import check_folder, located
from gemma_mlx.weights.transfer import OnProgress

DEMO: Final = "demo"
DEMO_FOLDER: Final = Path(__file__).resolve().parent.parent / "demo"

# Newest first. Both names of Gemma 3 are one generation.
_GENERATIONS: Final = (("gemma3", "gemma3_text"), ("gemma2", "vaultgemma"), ("gemma",))
_OWNER_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}")


Role = Literal["chat", "embed", "judge"]


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

    @property
    def role(self) -> Role | None:
        """What it is for; None for a drafter, which does nothing by itself."""
        return None if self.drafts else "embed" if self.embeds else "judge" if self.judges else "chat"


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
    if name.lower().endswith(SUFFIX):
        raise ModelNotFoundError(f"There is no file {name}.", "Name a GGUF file that is here, or the folder it is in.")
    if (meant := short(name)) is not None and (found := here(meant.row, meant.form)):
        return found[0].name, found[0].folder
    name = checked(repository(name))
    whole = cached.complete(name)
    return name, None if whole is None else located(whole)


@dataclass(frozen=True, kw_only=True)
class Here:
    """A variant of a model of the catalogue that is on this machine: its name to type, its variant, its files."""

    name: str
    form: str
    folder: Path

    @property
    def nbytes(self) -> int:
        """Of the files of its weights."""
        return _weight_bytes(self.folder)


def short(name: str) -> Meant | None:
    """What a name of the catalogue means that leaves open which repository; None for a folder, and all other names."""
    if name == DEMO or not name.strip() or "\0" in name or os.path.exists(os.path.expanduser(name)):
        return None
    try:
        meant = catalog.meant(name)
    except ModelNotFoundError:
        return None
    return None if meant.exact else meant


def here(row: Row, form: str | None = None) -> list[Here]:
    """The variants of a model that are on this machine and whole, finest first: in the cache, or made here.

    Args:
        row: the model.
        form: only this variant.
    """
    names = [("bf16", row.repository), *((each.form, each.repository) for each in catalog.packed() if each.row is row)]
    found = [
        Here(name=name, form=kind, folder=located(folder))
        for kind, name in names
        if name is not None and (folder := cached.complete(name)) is not None
    ]
    found += [Here(name=each.name, form=each.form, folder=each.folder) for each in made.everything() if each.row is row]
    order = list(catalog.FORMS)
    return sorted((each for each in found if form in (None, each.form)), key=lambda each: order.index(each.form))


def published(name: str) -> tuple[str, Path | None]:
    """As `look`, but a name of the catalogue means the files as they were published, for QAT those trained for it.

    Raises:
        ModelNotFoundError, UnsupportedModelError: see `look`.
    """
    meant = short(name)
    row = None if meant is None or meant.form not in (None, "QAT", "bf16") else meant.row
    if row is not None and meant is not None and meant.form == "QAT":
        row = catalog.kin(row, catalog.TRAINED)
    return look(name if row is None or row.repository is None else row.repository)


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
        meant = catalog.meant(name)
    except ModelNotFoundError:
        near = [model for model, _ in cached.repositories() if model.rpartition("/")[2].lower() == name.lower()]
        if not near:
            raise
        raise _no_such_name(name) from None
    row = meant.row
    if meant.form is not None:
        return _of_variant(row, meant.form)
    if row.repository is None:
        raise ModelNotFoundError(
            f"{row.name} is not published as one repository: {row.note}.", "For example: gemma chat gemma3:4b"
        )
    if not registry.reads(row.format):
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


# What to say where there is none, and which to fetch then.
_NONE: Final[dict[Role, tuple[str, str]]] = {
    "embed": (
        "There is no embedding model on this machine, and none was named.",
        "Fetch one by its name: gemma embed -m google/embeddinggemma-300m TEXT",
    ),
    "judge": (
        "There is no ShieldGemma on this machine, and no model was named.",
        "Fetch one by its name: gemma classify -m google/shieldgemma-2b TEXT",
    ),
}


def default(role: Role, fits: Callable[[Installed], bool] = lambda _: True) -> tuple[str, str]:
    """The model to take where none is named: (its name, the sentence that says why).

    To talk to, the newest generation on this machine, and of it the largest that fits; one without a chat template
    stands behind all that have one; the model in the box where there is none. To embed and to judge, the one that came
    last.

    Args:
        role: what it is for.
        fits: whether there is memory for a model.

    Raises:
        ModelNotFoundError: there is none to embed or to judge.
    """
    models = [model for model in installed() if model.role == role]
    if role == "chat":
        models.sort(key=lambda model: (not model.chats, _generation(model), -model.nbytes))
    else:
        models.sort(key=lambda model: -model.modified)
    for model in models:
        if fits(model):
            why = "is the newest Gemma on this machine that fits" if role == "chat" else "came last to this machine"
            return model.name, f"{model.name} {why}."
    if role != "chat":
        if not models:
            raise ModelNotFoundError(*_NONE[role])
        return models[0].name, f"{models[0].name} came last to this machine, and may not fit."
    what = "No Gemma was found on this machine" if not models else (
        f"None of the {len(models)} Gemmas on this machine fits into its memory"
        if len(models) > 1
        else f"{models[0].name}, the only Gemma on this machine, does not fit or cannot be read"
    )  # fmt: skip
    why = f"{what}, so this is the model in the box: tiny, made to try the program, and no help with real questions."
    return DEMO, why


def _generation(model: Installed) -> int:
    return next((index for index, kinds in enumerate(_GENERATIONS) if model.model_type in kinds), len(_GENERATIONS))


def _scan() -> Iterator[Installed]:
    snapshots = [(name, cached.snapshot(path)) for name, path in cached.repositories()]
    for name, folder in [*snapshots, *((each.name, each.folder) for each in made.everything())]:
        if folder is None or not cached.is_complete(folder):
            continue
        try:
            config = read_config(folder)
            kind = config.get("model_type")
            if kind not in registry.MODULES:
                continue
            spec = registry.match(config).spec
            nbytes = _weight_bytes(folder)
            modified = (folder / "config.json").stat().st_mtime
        except (GemmaError, OSError):  # no Gemma we run, or gone while we looked
            continue
        yield Installed(
            name=name,
            folder=folder,
            model_type=str(kind),
            embeds=isinstance(spec, EncoderSpec),
            drafts=isinstance(spec, DrafterSpec),
            nbytes=nbytes,
            modified=modified,
            chats=_has_template(folder),
            judges=_judges(name, folder),
        )


def _weight_bytes(model: Path) -> int:
    """Of the files that hold the weights of a folder, or of the one GGUF file that a model is."""
    files = [model] if model.is_file() else model.glob("model*.safetensors")
    return sum(file.stat().st_size for file in files)


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


def _of_variant(row: Row, form: str) -> str:
    """The repository that holds a variant of a model, ready to run.

    Raises:
        ModelNotFoundError: none does that this version reads.
    """
    if form == "bf16" and row.repository is not None:
        return row.repository
    for each in catalog.packed():
        if each.row is row and each.form == form and registry.reads(each.format):
            return each.repository
    name = catalog.spelled(row, form)
    raise ModelNotFoundError(
        f"{row.label} is not published in {form}, and was not packed on this machine.",
        f"gemma pull {name} fetches {row.repository} and packs it.",
    )


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
