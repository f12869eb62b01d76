"""Counts what every network of the catalogue reads and computes.

python -m tests.benchmarks.networks --write

writes quantize/counts.json, out of which `gemma fit` answers without building them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from gemma_mlx import catalog, registry
from gemma_mlx.errors import GemmaError
from gemma_mlx.quantize.counts import FILE, as_json
from gemma_mlx.quantize.traffic import traffic


def counts() -> dict[str, dict[str, Any]]:
    """Network -> what is kept of it, of those that this version runs."""
    networks = {row.network.name: row.network for row in catalog.rows() if row.network is not None}
    found = {}
    for name, network in sorted(networks.items()):
        try:
            match = registry.match(network.config)
        except GemmaError:
            continue
        found[name] = as_json(traffic(match.spec, match.architecture.build(match.spec)))
    return found


def text() -> str:
    """The file: a network to a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(kept)}" for name, kept in counts().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        FILE.write_text(text(), encoding="utf-8")
    else:
        print(text())
