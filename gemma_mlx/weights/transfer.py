"""The files of a plan, several at once, each into a part that outlives whatever interrupts it.

A part is always a beginning of its file, or its hash will not be right: the process may be killed, the line cut, the
disk full at any byte. Two programs that want the same file wait for each other, by huggingface_hub's locks.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gemma_mlx.errors import CheckpointError
from gemma_mlx.weights import cached

OnProgress = Callable[[str, int, int], None]

_AT_ONCE: Final = 4
_LARGE_BYTES: Final = 10 << 20  # above it, going on is worth a part
_LOOK_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a repository.

    Attributes:
        name: from the repository's top folder.
        nbytes: its size; None where the hub does not tell.
        sha256: of its content, which the hub tells of large files.
        blob: git's hash of its content, which the hub tells of the others.
    """

    name: str
    nbytes: int | None
    sha256: str | None = None
    blob: str | None = None

    def digest(self) -> tuple[Any, str] | None:
        """A hash to feed with the content, and what it must come to; None where the hub told neither."""
        if self.sha256 is not None:
            return hashlib.sha256(), self.sha256
        if self.blob is not None and self.nbytes is not None:
            return hashlib.sha1(b"blob %d\0" % self.nbytes, usedforsecurity=False), self.blob
        return None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to fetch.

    Attributes:
        name: of the repository.
        commit: of its branch main.
        files: all that is read of it.
        here: bytes of them that are on this machine.
    """

    name: str
    commit: str
    files: tuple[File, ...]
    here: int

    @property
    def nbytes(self) -> int:
        """Of all files."""
        return sum(file.nbytes or 0 for file in self.files)

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return self.nbytes - self.here

    @property
    def weights(self) -> int:
        """Bytes of the weights' files."""
        return sum(file.nbytes or 0 for file in self.files if file.name.endswith((".safetensors", ".gguf")))

    @property
    def folder(self) -> Path:
        """Where its files are, once fetched."""
        return cached.repository(self.name) / "snapshots" / self.commit


class StoppedError(Exception):
    """Ends a thread's file because another one failed, or the user has had enough."""


class Transfer:
    """Fetches the files of a plan.

    Args:
        plan: which files.
        on_progress: called with ("from the hub", bytes done, bytes in all), from the thread that calls `run`.
    """

    def __init__(self, plan: Plan, on_progress: OnProgress | None = None) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._repository = cached.repository(plan.name)
        self._lock = threading.Lock()
        self._done = plan.here
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._files: queue.SimpleQueue[File] = queue.SimpleQueue()
        for file in sorted(plan.files, key=lambda file: (file.nbytes or 0) > _LARGE_BYTES):
            self._files.put(file)

    def run(self) -> None:
        """Fetches them all; raises what the first that failed raised."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self._report()
                for thread in threads:
                    thread.join(_LOOK_SECONDS / len(threads))
        except BaseException:
            self._stop.set()
            for thread in threads:  # one that waits for the hub may take longer, and ends with the program
                thread.join(_PATIENCE_SECONDS / len(threads))
            raise
        self._report()
        if self._error is not None:
            raise self._error

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress("from the hub", min(self._done, self._plan.nbytes), self._plan.nbytes)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._bring(self._files.get_nowait())
            except queue.Empty:
                return
            except BaseException as error:  # noqa: BLE001  whatever it is, `run` raises it
                with self._lock:
                    if self._error is None and not isinstance(error, StoppedError):
                        self._error = error
                self._stop.set()

    def _bring(self, file: File) -> None:
        """Sees that a file is in the snapshot, whole."""
        from huggingface_hub import constants, hf_hub_download

        path = self._plan.folder / file.name
        if path.exists():
            if file.nbytes is None or path.stat().st_size == file.nbytes:
                return
            cached.discard(path)
        large = file.sha256 is not None or (file.nbytes or 0) > _LARGE_BYTES
        # What is larger than a hub serves in one piece comes through its own protocol, which verifies, too.
        if large and (file.nbytes or 0) <= constants.MAX_HTTP_DOWNLOAD_SIZE:
            self._download(file)
        before = path.exists()
        hf_hub_download(self._plan.name, file.name, revision=self._plan.commit)
        if not large and not before:
            self._advance(path.stat().st_size)
            self._check(file, path)

    def _check(self, file: File, path: Path) -> None:
        """Holds a small file against what the hub told of it."""
        digest = file.digest()
        if digest is not None:
            running, expected = digest
            running.update(path.read_bytes())
            if running.hexdigest() != expected:
                cached.discard(path)
                raise _differs(self._plan, file, running.hexdigest(), expected)

    def _download(self, file: File) -> None:
        """Fetches a large file into the cache's blobs; huggingface_hub then finds it there, and links to it."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self._plan.name, file.name, revision=self._plan.commit)
        headers = build_hf_headers()
        name = get_hf_file_metadata(url, headers=headers).etag or file.sha256 or file.blob
        blob = self._repository / "blobs" / str(name)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with self._alone(blob.name):
            if blob.exists():
                if file.nbytes is None or blob.stat().st_size == file.nbytes:
                    return
                blob.unlink()
            part = blob.with_name(f"{blob.name}.incomplete")
            with Part(part, file, self._advance) as sink:
                if sink.size != file.nbytes:
                    stream: Any = sink
                    http_get(url, stream, resume_size=sink.size, headers=headers, displayed_filename=file.name)
                found, expected = sink.size, file.nbytes
                if expected is not None and found != expected:
                    sink.remove()
                    raise _differs(self._plan, file, f"{found:,} bytes", f"{expected:,}")
                if sink.expected is not None and sink.hash != sink.expected:
                    sink.remove()
                    raise _differs(self._plan, file, sink.hash, sink.expected)
            part.replace(blob)

    @contextmanager
    def _alone(self, blob: str) -> Iterator[None]:
        """Holds the lock that huggingface_hub takes for this file, in whichever program."""
        from huggingface_hub.utils import WeakFileLock

        path = cached.root() / ".locks" / self._repository.name / f"{blob}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            while True:
                if self._stop.is_set():
                    raise StoppedError
                try:
                    held.enter_context(WeakFileLock(path, timeout=_LOOK_SECONDS))
                    break
                except TimeoutError:  # another program fetches it
                    continue
            yield

    def _advance(self, nbytes: int) -> None:
        if self._stop.is_set():
            raise StoppedError
        with self._lock:
            self._done += nbytes


class Part:
    """The beginning of a file, to which more is written; it knows its size and hash.

    It is as much of a file as huggingface_hub writes to: `write`, and `seek` with `truncate` where the hub would not go
    on and sends the file from its first byte.

    Args:
        path: where it lies; there may be some of it.
        file: which file it becomes.
        advance: called with the number of bytes that came.
    """

    def __init__(self, path: Path, file: File, advance: Callable[[int], None]) -> None:
        self._path = path
        self._file = file
        self._advance = advance
        self._stream = path.open("a+b")
        self._start()
        self.size = 0
        most = file.nbytes
        if most is not None and path.stat().st_size > most:
            self._stream.truncate(0)
        self._stream.seek(0)
        while chunk := self._stream.read(1 << 22):
            self._take(chunk)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def hash(self) -> str:
        """Of what is there."""
        return "" if self._digest is None else str(self._digest[0].hexdigest())

    @property
    def expected(self) -> str | None:
        """The hash it must have; None where the hub did not tell."""
        return None if self._digest is None else self._digest[1]

    def write(self, data: bytes) -> int:
        """Appends what came."""
        self._stream.write(data)
        self._stream.flush()
        self._take(data)
        self._advance(len(data))
        return len(data)

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.size

    def seek(self, offset: int) -> int:
        """Goes nowhere: `truncate` begins anew, and all else appends."""
        del offset
        return self.size

    def truncate(self) -> int:
        """Throws away what is there."""
        self._advance(-self.size)
        self._stream.truncate(0)
        self.size = 0
        self._start()
        return 0

    def remove(self) -> None:
        """Deletes it."""
        self._path.unlink(missing_ok=True)

    def _start(self) -> None:
        self._digest: tuple[Any, str] | None = self._file.digest()

    def _take(self, data: bytes) -> None:
        self.size += len(data)
        if self._digest is not None:
            self._digest[0].update(data)


def _differs(plan: Plan, file: File, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{file.name} of {plan.name} arrived damaged, and was removed: it is {_short(found)}, and the hub says "
        f"{_short(expected)}.",
        f"Fetch it again: gemma pull {plan.name}; if that ends so, too, something on the way to the hub changes it.",
    )


def _short(value: str) -> str:
    return value if len(value) < 40 else f"{value[:12]}..."
