"""What is kept of the catalogue's networks is what counting them anew gives."""

from __future__ import annotations

import pytest

from gemma_mlx import catalog, registry
from gemma_mlx.quantize import counts
from gemma_mlx.quantize.formats import FORMATS
from gemma_mlx.quantize.traffic import traffic
from tests.benchmarks import networks


def test_the_file_is_what_the_networks_are() -> None:
    written = counts.FILE.read_text(encoding="utf-8")
    assert written == networks.text(), "python -m tests.benchmarks.networks --write"
    assert written.count("\n") > 40


@pytest.mark.parametrize("name", ["gemma4:e2b", "gemma4:26b-a4b", "t5gemma:9b-2b-ul2", "gemma4:e4b-assistant"])
def test_every_format_has_the_bytes_of_a_built_model(name: str) -> None:
    network = catalog.find(name).network
    assert network is not None
    match = registry.match(network.config)
    live, kept = traffic(match.spec, match.architecture.build(match.spec)), counts.counted(network.name, match.spec)
    assert kept is not None
    assert len(kept.matrices) < len(live.matrices)
    for each in FORMATS.values():
        assert kept.stored(each) == live.stored(each)
    assert kept.prompt(3000) == live.prompt(3000)
    assert kept.step(3000) == live.step(3000)


def test_a_network_that_was_not_counted() -> None:
    network = catalog.find("gemma3:4b").network
    assert network is not None
    assert counts.counted("gemma-9-1t", registry.match(network.config).spec) is None
