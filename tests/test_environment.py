"""What conftest.py promises to every other test."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import mlx.core as mx
import pytest
from huggingface_hub import constants


def test_no_network() -> None:
    with socket.socket() as outside, pytest.raises(pytest.fail.Exception, match=r"opened a connection to 192\.0\.2\.1"):
        outside.connect(("192.0.2.1", 443))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as inside:
        inside.connect(server.getsockname())


def test_private_folders() -> None:
    home = Path(os.environ["HOME"])
    assert home.name.startswith("gemma-tests-")
    assert Path.home() == home
    assert Path(constants.HF_HUB_CACHE).is_relative_to(home)
    assert constants.HF_HUB_OFFLINE


def test_terminal() -> None:
    assert shutil.get_terminal_size().columns == 80


@pytest.mark.skipif(os.environ.get("GEMMA_TEST_DEVICE") == "gpu", reason="asked for the GPU")
def test_the_cpu_computes_and_draws_the_same_numbers_every_time() -> None:
    assert mx.default_device() == mx.Device(mx.cpu)
    drawn = mx.random.uniform(shape=(4,)).tolist()
    mx.random.seed(0)
    assert mx.random.uniform(shape=(4,)).tolist() == drawn
