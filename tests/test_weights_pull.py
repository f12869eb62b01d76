"""What is to be fetched of a repository, what is refused, and what happens to a model that is here already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gemma_mlx.errors import ModelNotFoundError, WeightsError
from gemma_mlx.weights import cached, hub, pull
from tests import gguf_files
from tests.hub import COMMIT, TINY, Hub, online, repository_files, server
from tests.tiny import write_tiny

__all__ = ["online", "server"]

NEWER = "f" * 40


def get(*, verify: bool = False) -> Path:
    return pull.fetch(pull.plan(TINY), verify=verify)


def test_a_plan(online: Hub) -> None:
    plan = pull.plan(TINY)
    files = {name: len(data) for name, data in online.models[TINY].items() if name != "pytorch_model.bin"}
    assert {file.name: file.nbytes for file in plan.files} == files
    assert plan.commit == COMMIT
    assert plan.nbytes == sum(files.values())
    assert plan.here == files["config.json"], "which says whether the rest is worth it"
    assert plan.weights == sum(nbytes for name, nbytes in files.items() if name.endswith(".safetensors"))
    assert all((file.sha256 is None) != file.name.endswith(".safetensors") for file in plan.files)
    pull.fetch(plan)
    assert pull.plan(TINY).missing == 0


def test_progress_counts_all_bytes_once(online: Hub) -> None:
    seen: list[tuple[str, int, int]] = []
    plan = pull.plan(TINY)
    pull.fetch(plan, lambda *step: seen.append(step))
    assert {what for what, _, _ in seen} == {"from the hub"}
    done = [done for _, done, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == ("from the hub", plan.nbytes, plan.nbytes)


def test_what_is_here_is_not_fetched_again(online: Hub) -> None:
    folder = get()
    online.requests.clear()
    assert get() == folder
    assert not any("resolve" in request and request.startswith("GET") for request in online.requests)


def test_a_newer_commit_fetches_what_differs(online: Hub) -> None:
    old = get()
    online.models[TINY] = online.models[TINY] | {"tokenizer.json": b'{"new": 1}'}
    online.commits[TINY] = NEWER
    online.requests.clear()
    assert hub.resolve(TINY) == old, "nobody asked for a newer one"
    assert online.requests == []
    new = get()
    assert new.name == NEWER
    assert (new / "tokenizer.json").read_bytes() == b'{"new": 1}'
    assert not any("/cdn/" in request and request.startswith("GET") for request in online.requests)
    assert hub.resolve(TINY) == new


def test_a_newer_one_that_does_not_come_leaves_the_old_one(online: Hub) -> None:
    old = get()
    online.models[TINY] = online.models[TINY] | {"tokenizer.json": b'{"new": 1}'}
    online.commits[TINY] = NEWER
    online.lies[TINY, "tokenizer.json"] = b'{"new": 2}'
    with pytest.raises(Exception, match="arrived damaged"):
        get()
    assert hub.resolve(TINY) == old


def test_verify_mends_what_differs(online: Hub) -> None:
    folder = get()
    weights = min(folder.glob("*.safetensors"))
    right = weights.read_bytes()
    damaged = bytearray(right)
    damaged[-1] ^= 1
    weights.resolve().write_bytes(damaged)
    get()
    assert weights.read_bytes() == damaged, "only --verify reads all of it"
    get(verify=True)
    assert weights.read_bytes() == right


def test_a_file_that_is_too_short_is_fetched_again(online: Hub) -> None:
    folder = get()
    weights = min(folder.glob("*.safetensors"))
    right = weights.read_bytes()
    weights.resolve().write_bytes(right[:-5])
    assert get() == folder
    assert weights.read_bytes() == right


def test_a_broken_repository_is_found_at_once(online: Hub, tmp_path: Path) -> None:
    other = repository_files(tmp_path / "other", hidden_size=32)
    online.models[TINY] = repository_files(tmp_path / "one") | {"model.safetensors": other["model.safetensors"]}
    with pytest.raises(WeightsError):
        get()
    assert hub.look(TINY)[1] is None, "it must not be offered as a model that is here"
    assert cached.find(TINY) is not None, "but it can be removed"


def test_a_gated_one(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    online.gated.add(TINY)
    with pytest.raises(ModelNotFoundError, match="is a gated repository") as caught:
        pull.plan(TINY)
    assert f"{online.url}/{TINY}" in str(caught.value.hint)
    assert "hf auth login (or HF_TOKEN=...)" in str(caught.value.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with pytest.raises(ModelNotFoundError, match="is a gated repository") as caught:
        pull.plan(TINY)
    assert "with the account of this machine's token" in str(caught.value.hint)


def test_no_room(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "free_bytes", lambda: 1000)
    with pytest.raises(ModelNotFoundError, match=r"needs 0\.0 GB of disk, and .* has 0\.0 GB left") as caught:
        get()
    assert "gemma rm NAME" in str(caught.value.hint)
    assert not list(cached.repository(TINY).glob("blobs/*.incomplete"))


def test_a_cache_that_cannot_be_written(online: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(ModelNotFoundError, match=f"{TINY} cannot be stored in ") as caught:
        pull.plan(TINY)
    assert "HF_HOME" in str(caught.value.hint)


def test_a_hub_without_commits(online: Hub) -> None:
    online.commits[TINY] = ""
    with pytest.raises(ModelNotFoundError, match="does not say which commit"):
        pull.plan(TINY)


def test_a_hub_that_is_none(online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        pull.plan(TINY)


def test_a_repository_of_one_gguf_file(online: Hub, tmp_path: Path) -> None:
    name = "google/gemma-3-1b-it-qat-q4_0-gguf"
    write_tiny(tmp_path / "source", "gemma3_text")
    file = gguf_files.converted(old_ropes_aside(tmp_path / "source"), tmp_path / "gemma-q8_0.gguf")
    files = {file.name: file.read_bytes(), "mmproj-f16.gguf": b"GGUF", "README.md": b"-"}
    online.models[name] = files
    plan = pull.plan(name)
    assert [one.name for one in plan.files] == [file.name]
    assert plan.weights == plan.nbytes == len(files[file.name])
    folder = pull.fetch(plan)
    assert cached.complete(name) == folder
    assert hub.look("gemma3:1b-qat-gguf") == (name, folder / file.name)
    assert hub.resolve(name) == folder / file.name
    (folder / file.name).unlink()
    assert cached.complete(name) is None


def old_ropes_aside(folder: Path) -> Path:
    """The config in the newer spelling, which the writer of GGUF files reads."""
    config = json.loads((folder / "config.json").read_text())
    ropes = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 5e3}}
    layers = ["sliding_attention"] * (config["num_hidden_layers"] - 1) + ["full_attention"]
    config |= {"rope_parameters": ropes, "layer_types": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
