"""Names to folders: paths, the model in the box, the Hugging Face cache, and a hub that listens on this machine.

huggingface_hub reads its settings when it is imported, so what talks to the hub runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import pytest

from gemma_mlx.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from gemma_mlx.weights import hub
from tests.hub import COMMIT, TINY, Hub, environment, repository_files, server
from tests.tiny import tiny_config, write_tiny

__all__ = ["server"]

# Runs each name through `resolve` and prints what came of it, a JSON line each.
RESOLVE: Final = """
import json, sys
from gemma_mlx.errors import GemmaError
from gemma_mlx.weights import hub
for name in sys.argv[1:]:
    try:
        found = {"folder": str(hub.resolve(name))}
    except GemmaError as error:
        found = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    print(json.dumps(found | {"online": "httpx2" in sys.modules or "httpx" in sys.modules}))
"""


def _run(home: Path, *names: str, url: str | None, **more: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-W", "ignore", "-c", RESOLVE, *names]
    done = subprocess.run(
        command, env=environment(home, url, **more), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_fetches_what_is_read_and_never_twice(tmp_path: Path, server: Hub) -> None:
    files = repository_files(tmp_path, shard_bytes=200_000)
    server.models[TINY] = files
    home = tmp_path / "home"
    (found,) = _run(home, TINY, url=server.url)
    folder = Path(found["folder"])
    wanted = set(files) - {"pytorch_model.bin"}
    assert {path.name for path in folder.iterdir()} == wanted
    assert all((folder / name).read_bytes() == files[name] for name in wanted)
    assert folder.is_relative_to(home)
    assert not any("pytorch_model.bin" in request for request in server.requests)
    (again,) = _run(home, TINY, url=None)
    assert again == {"folder": str(folder), "online": False}, "what is here must be found without the network"
    (offline,) = _run(home, TINY, url=None, HF_HUB_OFFLINE="1")
    assert offline["folder"] == str(folder)


def test_each_refusal_is_a_sentence(tmp_path: Path, server: Hub) -> None:
    files = repository_files(tmp_path)
    server.models |= {
        "google/gemma-gated": files,
        "someone/gemma-GGUF": {"gemma-Q4_K_M.gguf": b"GGUF", "gemma-Q8_0.gguf": b"GGUF", "mmproj-f16.gguf": b"GGUF"},
        "someone/llama": files | {"config.json": b'{"model_type": "llama"}'},
        "someone/gemma-bin": {name: files[name] for name in ("config.json", "pytorch_model.bin", "tokenizer.json")},
        "someone/gemma-odd": {"weights.safetensors": b"x"},
        "google/gemma-huge": files,
        "someone/broken": files,
    }
    server.gated.add("google/gemma-gated")
    server.broken.add("someone/broken")
    server.sizes["google/gemma-huge", "model.safetensors"] = 10**18
    names = [*server.models, "google/gemma-3-1b-itt"]
    found = dict(zip(names, _run(tmp_path / "home", *names, url=server.url), strict=True))
    said = {
        "google/gemma-gated": ("ModelNotFoundError", "is a gated repository", "hf auth login"),
        "someone/gemma-GGUF": ("UnsupportedModelError", "someone/gemma-GGUF holds 2 GGUF files", "hf download"),
        "someone/llama": ("UnsupportedModelError", "'llama' is not a Gemma", "mlx-lm"),
        "someone/gemma-bin": ("UnsupportedModelError", "holds PyTorch pickles", "save_pretrained"),
        "someone/gemma-odd": ("UnsupportedModelError", "has no config.json", "made from"),
        "google/gemma-huge": ("ModelNotFoundError", "needs 1,000,000,000.0 GB of disk", "gemma rm"),
        "someone/broken": ("ModelNotFoundError", "answers with error 500", "again"),
        "google/gemma-3-1b-itt": ("ModelNotFoundError", "There is no repository", "Did you mean google/gemma-3-1b-it"),
    }
    for name, (error, message, hint) in said.items():
        assert found[name].get("error") == error, (name, found[name])
        assert message in found[name]["message"], (name, found[name])
        assert name in found[name]["message"] or error != "ModelNotFoundError"
        assert hint in found[name]["hint"], (name, found[name])
    assert not any(".safetensors" in request and "GET" in request for request in server.requests), (
        "none of these may be fetched before it is refused"
    )


def test_no_network(tmp_path: Path) -> None:
    (unreachable,) = _run(tmp_path / "home", TINY, url=None)
    assert unreachable["error"] == "ModelNotFoundError"
    assert (
        "google/gemma-tiny is not on this machine, and http://127.0.0.1:9 cannot be reached" in unreachable["message"]
    )
    assert "gemma chat demo" in unreachable["hint"]
    (offline,) = _run(tmp_path / "home", TINY, url=None, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids" in offline["message"]
    assert offline["hint"] == "HF_HUB_OFFLINE=0 gemma pull google/gemma-tiny"


def test_a_download_that_is_not_complete_and_no_network(tmp_path: Path, server: Hub) -> None:
    files = repository_files(tmp_path, shard_bytes=200_000)
    server.models[TINY] = files
    home = tmp_path / "home"
    (found,) = _run(home, TINY, url=server.url)
    next(Path(found["folder"]).glob("model-00002*")).unlink()
    (cut,) = _run(home, TINY, url=None)
    assert "What is here of google/gemma-tiny is not complete" in cut["message"]
    (mended,) = _run(home, TINY, url=server.url)
    assert len(list(Path(mended["folder"]).glob("model-*"))) == len([name for name in files if "model-" in name])


def test_a_folder_is_itself(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_tiny(tmp_path / "my gemma")
    assert hub.resolve("~/my gemma") == tmp_path / "my gemma"


def test_a_folder_that_looks_like_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "google" / "gemma-3-1b-it")
    assert hub.resolve("google/gemma-3-1b-it") == Path("google/gemma-3-1b-it")


@pytest.mark.parametrize(
    ("name", "says", "hint"),
    [
        ("", "An empty name", "gemma chat demo"),
        ("  ", "An empty name", "gemma chat demo"),
        ("\0", "An empty name", "gemma chat demo"),
        ("models/none.GGUF", "There is no file models/none.GGUF", "GGUF file"),
        ("./nowhere", "There is no folder ./nowhere", "config.json"),
        ("/nowhere/at/all", "There is no folder /nowhere/at/all", "config.json"),
        ("~/nowhere", "There is no folder ~/nowhere", "config.json"),
        ("a/b/c", "There is no folder a/b/c", "config.json"),
        ("gema3-4b-it", "'gema3-4b-it' is no published Gemma", "Did you mean gemma3:4b"),
        ("gemma3", "'gemma3' is 5 models: gemma3:270m, ", "gemma3:270m"),
        ("dolphingemma", "DolphinGemma is not published as one repository", "gemma3:4b"),
        ("google/gemma-3-4b-itt.git", "is neither", "google/gemma-3-4b-it"),
        ("../google/gemma", "There is no folder", "config.json"),
        ("google/../../etc", "There is no folder", "config.json"),
        ("google/gemma..2b", "is neither", "google/gemma-2b"),
        ("x" * 5_000, "is no published Gemma", "the path of a folder"),
        ("google/" + "x" * 5_000, "is neither", "gemma chat"),
        ("ge\nmma", "is no published Gemma", "Did you mean gemma"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_names_that_are_none(name: str, says: str, hint: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        hub.resolve(name)
    assert says in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match="cut short"):
        hub.resolve(str(tmp_path / "model.gguf"))
    (tmp_path / "model.gguf").rename(tmp_path / "mmproj.gguf")
    with pytest.raises(UnsupportedModelError, match="the tower for pictures"):
        hub.resolve(str(tmp_path))


# ---- what is installed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def _install(cache: Path, name: str, kind: str, *, chats: bool = True, **changes: Any) -> Path:
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / COMMIT
    write_tiny(folder, kind, **changes)
    (folder / "tokenizer.json").write_text("{}")
    if chats:
        (folder / "chat_template.jinja").write_text("")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return folder


def test_installed_lists_gemmas_that_run(cache: Path) -> None:
    one = _install(cache, "google/gemma-2-2b-it", "gemma2")
    two = _install(cache, "mlx-community/gemma-3-1b-it-4bit", "gemma3_text", quantize={"bits": 4, "group_size": 64})
    _install(cache, "google/gemma-broken", "gemma").joinpath("config.json").write_text("{")
    _install(cache, "google/gemma-half", "gemma").joinpath("model.safetensors").unlink()
    _install(cache, "google/gemma-odd", "gemma").joinpath("config.json").write_text(
        json.dumps(tiny_config("gemma") | {"use_bidirectional_attention": True})
    )
    _install(cache, "meta/llama", "gemma").joinpath("config.json").write_text('{"model_type": "llama"}')
    (cache / "models--no--refs" / "snapshots").mkdir(parents=True)
    (cache / "datasets--google--x").mkdir()
    (cache / "version.txt").write_text("1")
    found = hub.installed()
    assert [model.name for model in found] == ["google/gemma-2-2b-it", "mlx-community/gemma-3-1b-it-4bit"]
    assert [model.folder for model in found] == [one, two]
    assert [model.model_type for model in found] == ["gemma2", "gemma3_text"]
    assert found[0].nbytes == (one / "model.safetensors").stat().st_size
    assert found[0].modified == (one / "config.json").stat().st_mtime
    assert hub.resolve("google/gemma-2-2b-it") == one


def test_installed_where_there_is_no_cache(cache: Path) -> None:
    cache.rmdir()
    assert hub.installed() == []


def test_the_newest_then_the_largest_that_fits(cache: Path) -> None:
    _install(cache, "google/gemma-2-9b-it", "gemma2", num_hidden_layers=9)
    _install(cache, "google/gemma-3-1b-it", "gemma3_text")
    _install(cache, "google/gemma-3-4b-it", "gemma3", num_hidden_layers=6)
    why = "is the newest Gemma on this machine that fits."
    assert hub.default("chat") == ("google/gemma-3-4b-it", f"google/gemma-3-4b-it {why}")
    small = hub.default("chat", lambda model: model.name != "google/gemma-3-4b-it")
    assert small == ("google/gemma-3-1b-it", f"google/gemma-3-1b-it {why}")


def test_a_base_model_stands_behind_those_that_chat(cache: Path) -> None:
    _install(cache, "google/gemma-3-1b-pt", "gemma3_text", chats=False)
    _install(cache, "google/gemma-2b-it", "gemma")
    assert hub.default("chat")[0] == "google/gemma-2b-it"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny(tmp_path / "box")
    monkeypatch.setattr(hub, "DEMO_FOLDER", tmp_path / "box")
    return tmp_path / "box"


def test_the_model_in_the_box(cache: Path, box: Path) -> None:
    def nothing(_: hub.Installed) -> bool:
        return False

    assert hub.resolve("demo") == box
    name, why = hub.default("chat")
    assert name == "demo"
    assert "No Gemma was found on this machine, so this is the model in the box" in why
    _install(cache, "google/gemma-3-1b-it", "gemma3_text")
    assert "google/gemma-3-1b-it, the only Gemma on this machine, does not fit" in hub.default("chat", nothing)[1]
    _install(cache, "google/gemma-2b-it", "gemma")
    name, why = hub.default("chat", nothing)
    assert name == "demo"
    assert "None of the 2 Gemmas on this machine fits" in why


def test_an_empty_box(box: Path) -> None:
    (box / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="weights are missing"):
        hub.resolve("demo")


def test_scanning_reads_no_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(cache, "google/gemma-3-1b-it", "gemma3_text")
    monkeypatch.setattr(mx, "load", lambda *_: pytest.fail("weights were read"))
    assert hub.default("chat")[0] == "google/gemma-3-1b-it"
