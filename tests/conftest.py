"""What every test runs under: checked array shapes, the CPU, no network, private folders, a terminal of 80 columns.

GEMMA_TEST_DEVICE=gpu computes on the GPU instead, for which no tolerances are agreed: for hunting, not for deciding.
Nothing of gemma_mlx may be imported above the import hook: only modules loaded after it are checked.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

import tests.typecheck

HOME = Path(tempfile.mkdtemp(prefix="gemma-tests-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Set here and not in a fixture: huggingface_hub, typer and rich read some of these when they are imported.
for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "HF_TOKEN", "HF_HUB_CACHE", "HF_ENDPOINT", "TERM_PROGRAM"):
    os.environ.pop(name, None)
os.environ |= {
    "HOME": str(HOME),
    "XDG_CACHE_HOME": str(HOME / "cache"),
    "XDG_CONFIG_HOME": str(HOME / "config"),
    "XDG_DATA_HOME": str(HOME / "data"),
    "XDG_STATE_HOME": str(HOME / "state"),
    "HF_HOME": str(HOME / "huggingface"),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "COLUMNS": "80",
    "LINES": "24",
    "TERM": "xterm-256color",
    "NO_COLOR": "1",
    "LC_ALL": "C.UTF-8",
}

install_import_hook("gemma_mlx", f"{tests.typecheck.__name__}.checked")

# MLX itself only now: it costs nothing to the tests that do not use it, and its default device is the process's.
import mlx.core as mx  # noqa: E402

mx.set_default_device(mx.gpu if os.environ.get("GEMMA_TEST_DEVICE") == "gpu" else mx.cpu)

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test that opens a connection to anything but this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if host is not None and not str(host).startswith(LOOPBACK):
            # No Exception: library code that catches those must not hide it.
            pytest.fail(f"a test opened a connection to {host}", pytrace=True)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> Iterator[None]:
    """Seeds MLX before each test, and leaves none of its arrays behind for the next one's memory figures."""
    mx.random.seed(0)
    yield
    mx.clear_cache()
