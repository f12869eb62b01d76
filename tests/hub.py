"""A hub on this machine: as much of one as huggingface_hub asks for, with the faults that hubs and lines have.

Large files lie elsewhere, as they do on Hugging Face: the answer names their hash and size, and another address.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import pytest

from tests.tiny import write_tiny

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
TINY: Final = "google/gemma-tiny"


class Hub(ThreadingHTTPServer):
    """Models, their trees, and their files with ranges.

    Attributes:
        models: repository -> file -> content.
        commits: repository -> the commit of its branch main, where it is not COMMIT.
        gated: repositories that answer 403.
        broken: repositories that answer 500.
        sizes: (repository, file) -> a size to claim.
        lies: (repository, file) -> content to send in place of what was announced.
        cut: (repository, file) -> bytes to send of it, once, before the line breaks.
        portion: bytes of content sent at once.
        slow: seconds to wait between two portions.
        ranges: whether a part of a file can be asked for.
        requests: "METHOD path range" of every request.
        tokens: (host asked, token) of every request that brought one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, str] = {}
        self.gated: set[str] = set()
        self.broken: set[str] = set()
        self.sizes: dict[tuple[str, str], int] = {}
        self.lies: dict[tuple[str, str], bytes] = {}
        self.cut: dict[tuple[str, str], int] = {}
        self.portion = 1 << 20
        self.slow = 0.0
        self.ranges = True
        self.requests: list[str] = []
        self.tokens: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fetched(self, file: str) -> list[str]:
        """The requests that asked for content of `file`."""
        return [request for request in self.requests if request.startswith("GET") and file in request]


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the other side was interrupted, as tests mean it to be
            self.close_connection = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path} {self.headers.get('Range') or ''}".strip())
        if token := self.headers.get("Authorization"):
            self.server.tokens.append((str(self.headers["Host"]).split(":")[0], token))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:5] == ["tree"])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]))
        elif parts[0] == "cdn":
            self._content("/".join(parts[1:3]), "/".join(parts[3:]))
        else:
            self._answer(404, b"{}")

    def _api(self, name: str, tree: bool) -> None:
        if name in self.server.broken:
            self._answer(500, b"{}")
        elif name not in self.server.models:
            self._answer(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif tree:
            files = [
                {"type": "file", "path": file, "size": len(content), "oid": _git(content)}
                for file, content in self.server.models[name].items()
            ]
            self._answer(200, json.dumps(files).encode())
        else:
            siblings = [self._sibling(name, file, content) for file, content in self.server.models[name].items()]
            self._answer(
                200, json.dumps({"id": name, "sha": self._commit(name) or None, "siblings": siblings}).encode()
            )

    def _sibling(self, name: str, file: str, content: bytes) -> dict[str, Any]:
        size = self.server.sizes.get((name, file), len(content))
        told: dict[str, Any] = {"rfilename": file, "size": size, "blobId": _git(content)}
        if _large(file):
            told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return told

    def _commit(self, name: str) -> str:
        return self.server.commits.get(name, COMMIT)

    def _file(self, name: str, file: str) -> None:
        if name in self.server.broken:
            return self._answer(500, b"{}")
        if name not in self.server.models:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = {"X-Repo-Commit": self._commit(name)}
        if name in self.server.gated:
            return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        content = self.server.models[name].get(file)
        if content is None:
            return self._answer(404, b"", commit | {"X-Error-Code": "EntryNotFound"})
        if not _large(file):
            return self._content(name, file, commit)
        elsewhere = {
            "Location": f"http://localhost:{self.server.server_address[1]}/cdn/{quote(name)}/{quote(file)}",
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        return self._answer(302, b"", commit | elsewhere)

    def _content(self, name: str, file: str, headers: dict[str, str] | None = None) -> None:
        content = self.server.models[name][file]
        etag = hashlib.sha256(content).hexdigest() if _large(file) else _git(content)
        headers = {**(headers or {}), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        content = self.server.lies.get((name, file), content)
        asked = self.headers.get("Range") if self.server.ranges else None
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        if asked:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        cut = None if self.command == "HEAD" else self.server.cut.pop((name, file), None)
        self._answer(206 if asked else 200, content[start:stop], headers, cut)

    def _answer(
        self, status: int, content: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(content[:cut]), self.server.portion):
                self.wfile.write(content[:cut][start : start + self.server.portion])
                time.sleep(self.server.slow)
        if cut is not None:
            self.close_connection = True


def _large(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def listening() -> Iterator[Hub]:
    """A hub that answers."""
    running = Hub()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[Hub]:
    """A hub of its own for the test."""
    with listening() as running:
        yield running


def repository_files(tmp_path: Path, kind: str = "gemma", **changes: Any) -> dict[str, bytes]:
    """A repository as they are: a checkpoint, a tokenizer, and much that we do not read."""
    write_tiny(tmp_path / "made", kind, **changes)
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    return files | {
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"chat_template": ""}',
        "pytorch_model.bin": b"no",
    }


def environment(home: Path, url: str | None, **more: str) -> dict[str, str]:
    """What a program of its own needs to ask the hub at `url`; None for one where nobody listens."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_HOME": str(home),
        "HF_ENDPOINT": url or "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        **more,
    }


@pytest.fixture
def online(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, asked by this process, with a cache that is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # of a megabyte as 10 MB are of a gigabyte
    server.models[TINY] = repository_files(tmp_path, shard_bytes=200_000)
    return server
