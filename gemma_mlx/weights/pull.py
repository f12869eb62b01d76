"""From a hub into the Hugging Face cache: what is to be fetched (`plan`), and fetching it (`fetch`).

huggingface_hub fetches a file under a new name each time and deletes it when it is interrupted: 9 of 10 GB are lost to
a Ctrl-C. So large files are fetched here, into `blobs/HASH.incomplete`, under huggingface_hub's own locks and with its
own requests; a file gets its name in the cache when its size and hash are those that the hub told, and never before.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from gemma_mlx import registry
from gemma_mlx.config import read_config
from gemma_mlx.errors import ModelNotFoundError, UnsupportedModelError
from gemma_mlx.gguf.places import first_part, models
from gemma_mlx.weights import cached
from gemma_mlx.weights.files import INDEX, SINGLE, check_folder, check_names
from gemma_mlx.weights.transfer import File, OnProgress, Plan, Transfer

# What we read of a repository; patterns of fnmatch, from its top folder.
WANTED: Final = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    INDEX,
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "*processor_config.json",
    "tdc_prompts.json",  # TxGemma's tasks, to be filled in
    "README.md",  # the model's card: `gemma quantize` keeps it
    # of embedding models
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
    "*_Dense/config.json",
    f"*_Dense/{SINGLE}",
)

_GO_ON: Final = "Run the command again: it goes on where it stopped."
CHECK_NETWORK: Final = "Check the network and try again; the model in the box needs none: gemma chat demo"
_ENDPOINT: Final = "HF_ENDPOINT names the hub; without it, it is https://huggingface.co."
_MAKE_ROOM: Final = (
    "Remove models you do not need (gemma models --here, gemma rm NAME), or let HF_HOME name a folder on another disk; "
    "what was fetched is kept."
)


def plan(name: str) -> Plan:
    """Asks the hub what the repository `name` holds, and fetches its config.json: the rest may not be worth it.

    Raises:
        ModelNotFoundError: there is none, it may not be fetched, or the hub cannot be reached.
        ConfigError, UnsupportedModelError: it cannot be run.
    """
    from huggingface_hub import hf_hub_download

    begun = f"{name} is not on this machine"
    if (found := cached.find(name)) is not None:
        begun = f"What is here of {name} is not complete" if found.folder is None else f"{name} is on this machine"
    commit, every = listed(name, begun)
    wanted = _gguf(name, [file.name for file in every])
    if wanted is None:
        with sentences(name, f"The download of {name} stopped", _GO_ON), _quietly(True):
            registry.match(read_config(Path(hf_hub_download(name, "config.json", revision=commit)).parent))
        wanted = [file.name for file in every if any(fnmatch(file.name, pattern) for pattern in WANTED)]
    files = tuple(file for file in every if file.name in wanted)
    here = sum(_bytes_here(cached.repository(name), commit, file) for file in files)
    return Plan(name=name, commit=commit, files=files, here=here)


def listed(name: str, begun: str) -> tuple[str, list[File]]:
    """The newest commit of a repository in the Hugging Face layout, or of GGUF files, and all its files.

    Args:
        name: of the repository.
        begun: what is here of it, as half a sentence.

    Raises:
        ModelNotFoundError, UnsupportedModelError, WeightsError: see `plan`.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise ModelNotFoundError(
            f"{begun}, and HF_HUB_OFFLINE forbids to fetch it.", f"HF_HUB_OFFLINE=0 gemma pull {name}"
        )
    with sentences(name, f"{begun}, and {constants.ENDPOINT} cannot be reached", CHECK_NETWORK):
        # One request, without the waits between attempts that a download has.
        info = HfApi().model_info(name, files_metadata=True)
    if info.sha is None:
        raise ModelNotFoundError(f"{constants.ENDPOINT} does not say which commit of {name} it has.", _ENDPOINT)
    files = [
        File(
            name=file.rfilename,
            nbytes=file.size,
            sha256=file.lfs.sha256 if file.lfs is not None else None,
            blob=file.blob_id if file.lfs is None else None,
        )
        for file in info.siblings or []
    ]
    names = [file.name for file in files]
    check_names(f"The repository {name}", names)
    if "config.json" not in names and not _is_of_gguf(names):
        raise UnsupportedModelError(
            f"The repository {name} has no config.json, so it is not in the Hugging Face layout.",
            "Fetch the repository that this one was made from, for example google/gemma-3-1b-it.",
        )
    return info.sha, files


def _is_of_gguf(names: Sequence[str]) -> bool:
    return not any(name.endswith(".safetensors") for name in names) and bool(models(names))


def _gguf(name: str, names: Sequence[str]) -> list[str] | None:
    """What is to be fetched of a repository of GGUF files: the only model in it; None of any other repository.

    Raises:
        UnsupportedModelError: there are several.
    """
    if not _is_of_gguf(names):
        return None
    found = models(names)
    if len(found) > 1:
        raise UnsupportedModelError(
            f"The repository {name} holds {len(found)} GGUF files, each of them a whole model: "
            f"{', '.join(found[:4])}{' and others' if found[4:] else ''}.",
            f"Fetch the one you want: hf download {name} {found[0]} --local-dir FOLDER; then: gemma chat FOLDER",
        )
    return [part for part in names if first_part(part) == found[0]]


def _bytes_here(repository: Path, commit: str, file: File) -> int:
    """How much of `file` need not be fetched."""
    blob = file.sha256 or file.blob
    for path in (
        repository / "snapshots" / commit / file.name,
        *([repository / "blobs" / blob, repository / "blobs" / f"{blob}.incomplete"] if blob else []),
    ):
        try:
            return min(path.stat().st_size, file.nbytes or 0)
        except OSError:
            continue
    return 0


def fetch(plan: Plan, on_progress: OnProgress | None = None, *, verify: bool = False) -> Path:
    """Fetches what is missing and looks whether the model is whole; the folder it is in.

    Args:
        plan: what to fetch.
        on_progress: called with ("from the hub" or "to verify it", bytes done, bytes in all). Without it
            huggingface_hub's bars show what is done.
        verify: compare the hashes of files that are here already, too. A file that differs is fetched again.

    Raises:
        ModelNotFoundError: it cannot be fetched or stored; what was fetched is kept.
        CheckpointError: a file arrived damaged, and was removed; or the repository is no whole model.
    """
    from gemma_mlx.weights.load import inspect

    _check_room(plan)
    with sentences(plan.name, f"The download of {plan.name} stopped", _GO_ON):
        if verify:
            _discard_damaged(plan, on_progress)
        with _quietly(on_progress is not None):
            Transfer(plan, on_progress).run()
    check_folder(plan.folder)
    inspect(plan.folder)
    with sentences(plan.name, "", ""):
        cached.point(plan.name, plan.commit)
    return plan.folder


def _discard_damaged(plan: Plan, on_progress: OnProgress | None) -> None:
    """Removes files whose content is not what the hub has."""
    done = 0
    for file in plan.files:
        path, digest = plan.folder / file.name, file.digest()
        if digest is None or not path.exists():
            continue
        running, expected = digest
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                running.update(chunk)
                done += len(chunk)
                if on_progress is not None:
                    on_progress("to verify it", done, plan.here)
        if running.hexdigest() != expected:
            cached.discard(path)


@contextmanager
def _quietly(quiet: bool) -> Iterator[None]:
    """Keeps huggingface_hub from drawing and warning on a line that is ours."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    if not quiet:
        yield
        return
    verbosity, drawn = logging.get_verbosity(), constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    drawn = drawn and not are_progress_bars_disabled()
    logging.set_verbosity(max(verbosity, logging.ERROR))
    if drawn:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if drawn:
            enable_progress_bars()


@contextmanager
def sentences(name: str, broken: str, hint: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into sentences; `broken` is the one for a line that fails."""
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/{name}"
    try:
        yield
    except errors.GatedRepoError as error:
        login = "hf auth login (or HF_TOKEN=...)"
        raise ModelNotFoundError(
            f"{name} is a gated repository: its terms must be accepted before it can be fetched.",
            f"Accept them at {page}, then log in on this machine: {login}"
            if get_token() is None
            else f"Accept them at {page} with the account of this machine's token; for another account: {login}",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise _no_such_repository(name) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise ModelNotFoundError(
            f"{name} cannot be fetched: {constants.ENDPOINT} answers with error {status}.",
            "This machine's token is not accepted; log in again: hf auth login"
            if status in (401, 403)
            else "Try again later; what was fetched is kept.",
        ) from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.XetDownloadError, ConnectionError) as error:
        raise ModelNotFoundError(f"{broken}.", hint) from error
    except errors.FileMetadataError as error:
        raise ModelNotFoundError(
            f"{constants.ENDPOINT} does not answer as a hub does: {' '.join(str(error).split())[:200]}",
            _ENDPOINT,
        ) from error
    except OSError as error:
        if error.errno is None:  # a length that is not what was announced
            raise ModelNotFoundError(f"{broken}: {' '.join(str(error).split())[:200]}", hint) from error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ModelNotFoundError(
            f"{name} cannot be stored in {constants.HF_HUB_CACHE}: {error.strerror or error}.",
            _MAKE_ROOM if full else "HF_HOME says where the cache lies; let it name a folder you can write to.",
        ) from error


def _no_such_repository(name: str) -> ModelNotFoundError:
    close = [model for model in cached.near(name) if model != name]
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return ModelNotFoundError(
        f"There is no repository {name} on Hugging Face that this machine may see.",
        hint + "For a private one log in first: hf auth login",
    )


def free_bytes() -> int:
    """Room on the disk that the cache is on."""
    root = cached.root()
    return shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free


def _check_room(plan: Plan) -> None:
    """Raises ModelNotFoundError where the disk has no room for what is still to be fetched."""
    if plan.missing > (free := free_bytes()):
        needs, root = f"{plan.missing / 1e9:,.1f} GB of disk", cached.root()
        raise ModelNotFoundError(f"{plan.name} needs {needs}, and {root} has {free / 1e9:,.1f} GB left.", _MAKE_ROOM)
