"""Which variant is chosen, and why; and that it is the one `gemma fit` shows."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from gemma_mlx import catalog, registry
from gemma_mlx.errors import ModelNotFoundError
from gemma_mlx.macs import find
from gemma_mlx.quantize import machine, variants
from gemma_mlx.quantize.fit import Asked, survey
from gemma_mlx.quantize.machine import Machine
from gemma_mlx.quantize.variants import choose
from gemma_mlx.weights.hub import Here

READ: Final = frozenset(("safetensors",))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "FORMATS", READ)


def on(words: str) -> Machine:
    return machine.of(find(words))


@pytest.mark.parametrize(
    ("name", "mac", "way", "form", "reason"),
    [
        (
            "12b",
            "MacBook Air M4 16",
            "make",
            "QAT",
            "gemma4:12b in QAT, 7.5 GB, is the best that fits: 9.8 of 12.7 GB, 11",
        ),
        ("e4b", "m4 max 64", "fetch", "8-bit", "gemma4:e4b in 8-bit, 8.9 GB, is the best that fits"),
        ("gemma3:12b", "MacBook Air M4 16", "fetch", "QAT", "gemma3:12b:4bit names another."),
        ("12b", "m3 24", "make", "QAT", "is the best that fits"),  # 4 bits are hardly quicker
        ("27b", "m3 24", "fetch", "QAT", "fits after sudo sysctl iogpu.wired_limit_mb="),
        ("270m", "MacBook Air M4 16", "fetch", "bf16", "gemma3:270m in bf16"),  # small even so
        ("embeddinggemma", "MacBook Air M4 16", "fetch", "bf16", "in bf16"),
        ("1b", "MacBook Air M4 16", "fetch", "8-bit", "gemma3:1b in 8-bit, 1.1 GB"),
        ("gemma4:12b-pt", "m4 max 64", "make", "8-bit", "It is packed here, out of google/gemma-4-12B."),
        ("31b", "MacBook Air M4 16", "fetch", "4-bit", "gemma4:31b does not fit, not even in 4-bit. It needs "),
        ("12b:8bit", "MacBook Air M4 16", "fetch", "8-bit", "no."),  # by its name, whether it fits or not
        ("12b:bf16", "m4 max 64", "fetch", "bf16", "gemma4:12b in bf16, 23.9 GB"),
    ],
)
def test_choosing(name: str, mac: str, way: str, form: str, reason: str) -> None:
    choice = choose(name, on(mac))
    assert (choice.way, choice.form) == (way, form)
    assert reason in choice.reason
    assert "\n" not in choice.reason
    assert (choice.folder is None) == (way == "fetch")


def test_a_packed_file_that_becomes_readable_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FORMATS", READ | {"gguf"})
    choice = choose("12b", on("MacBook Air M4 16"))
    assert (choice.way, choice.repository) == ("fetch", "google/gemma-4-12B-it-qat-q4_0-gguf")


@pytest.mark.parametrize("mac", ["MacBook Air M2 8", "MacBook Air M4 16", "m4 pro 24", "m4 pro 48", "M3 Ultra 96"])
def test_what_fit_shows_is_what_is_fetched(mac: str) -> None:
    machine_ = on(mac)
    for answer, _ in survey(machine_, Asked())[0]:
        assert answer.fetch == catalog.spelled(catalog.find(answer.model), answer.format)
        for name in (answer.model, answer.fetch):
            choice = choose(name, machine_)
            assert (choice.form, choice.repository) == (answer.format, answer.repository), (name, choice.reason)
            assert (choice.way == "fetch") == answer.ready


def here(tmp_path: Path, name: str, form: str, gigabytes: float) -> Here:
    folder = tmp_path / name.replace("/", "--")
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(int(gigabytes * 1e9))  # sparse
    return Here(name=name, form=form, folder=folder)


def test_what_is_here_and_fits_comes_first(tmp_path: Path) -> None:
    air = on("MacBook Air M4 16")
    four = here(tmp_path, "mlx-community/gemma-4-12B-it-4bit", "4-bit", 6.77)
    choice = choose("12b", air, here=[four])
    assert (choice.way, choice.name, choice.folder) == ("here", four.name, four.folder)
    assert "is here, and fits: 9.1 of 12.7 GB" in choice.reason
    eight = here(tmp_path, "mlx-community/gemma-4-12B-it-8bit", "8-bit", 12.75)
    assert choose("12b", air, here=[eight, four]).name == four.name, "8 bits are here, and do not fit"
    assert choose("12b", air, here=[eight]).way == "make", "what does not fit is passed over"
    assert choose("12b", on("m4 max 64"), here=[eight, four]).name == eight.name, "the finest that fits"
    assert choose("12b:8bit", air, here=[eight, four]).name == eight.name, "by its name, whether it fits or not"
    bloated = here(tmp_path, "gemma4:12b:qat", "QAT", 11.0)
    assert choose("12b", air, here=[bloated, four]).name == four.name, "files count, not names"


def test_what_is_here_is_taken_where_nothing_fits(tmp_path: Path) -> None:
    four = here(tmp_path, "mlx-community/gemma-4-31b-it-4bit", "4-bit", 18.4)
    choice = choose("31b", on("MacBook Air M4 16"), here=[four])
    assert choice.name == four.name
    assert "is here, and does not fit" in choice.reason


def test_what_is_here_unpacked_is_packed_and_nothing_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants.cached, "complete", lambda name: Path() if name == "google/gemma-3-4b-it" else None)
    choice = choose("gemma3:4b", on("MacBook Air M4 16"))
    assert (choice.way, choice.form, choice.repository) == ("make", "8-bit", "google/gemma-3-4b-it")


def test_without_what_did_not_do() -> None:
    assert choose("e4b", on("m4 max 64"), without={"8-bit"}).form == "6-bit"
    with pytest.raises(ModelNotFoundError, match="cannot be had in that variant"):
        choose("e4b:8bit", on("m4 max 64"), without={"8-bit"})


def test_the_best_of_all() -> None:
    answer = variants.instead(on("MacBook Air M4 16"))
    assert answer is not None
    assert answer.model == "gemma4:12b"


def test_files_of_which_only_config_json_is_known() -> None:
    network = catalog.find("gemma3:4b").network
    assert network is not None
    small = variants.judged("x/y", network.config, 3_000_000_000, on("MacBook Air M2 8"))
    large = variants.judged("x/y", network.config, 8_000_000_000, on("MacBook Air M2 8"))
    assert (small.verdict, large.verdict) == ("comfortable", "no")
    assert small.memory.weights == pytest.approx(3e9, rel=0.02)
