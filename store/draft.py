"""A version while it is being written: a folder of its own in the store's temporary area, invisible to readers.

Files are hashed while they are written and synced before the manifest names them. Dropped without `publish` (an
exception, a kill) it leaves nothing that a reader could see. Only ModelStore makes drafts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from paceline.protocol.errors import StoreError
from paceline.protocol.tensor import Buffer
from paceline.store.artefact import hash_file
from paceline.store.manifest import MANIFEST_NAME, FileEntry, is_file_name

# One write call: Linux takes at most 2 GiB - 4 KiB, and a smaller piece costs nothing.
_WRITE_BYTES_MAX = 64 * 1024 * 1024

# How far hashing may fall behind writing. A chunk behind stays in memory, which counts if it was copied from a GPU.
_CHUNKS_BEHIND_MAX = 4


class Draft:
    """`path` is a fresh 0700 folder, locked while this process holds it, so that no sweep takes it away.

    Use `write` for what is in memory; what a tool wrote into `path` by itself is hashed and synced at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, FileEntry] = {}
        # In lower case: on some disks `A.bin` and `a.bin` are one file, and a version may be copied there.
        self._taken: set[str] = set()
        os.mkdir(path, 0o700)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def write(self, name: str, chunks: Iterable[Buffer]) -> FileEntry:
        """Write the file `name` from `chunks` (C-contiguous buffers), hash and sync it.

        Raises StoreError for a name that is not one plain component, and when the disk is full or refuses.

        >>> draft.write("labels.txt", [b"cat\\n", b"dog\\n"])
        FileEntry(path='labels.txt', bytes=8, sha256='...')
        """
        if not is_file_name(name) or name.lower() in self._taken:
            raise StoreError(
                f"{name!r} cannot be a file of a version: expected a new name without a folder, which differs from the "
                f"others not only by upper and lower case"
            )
        self._taken.add(name.lower())
        with storage_errors(self.path.parent.parent):
            self._entries[name] = _write_file(self._fd, name, chunks)
        return self._entries[name]

    def adopt(self) -> tuple[FileEntry, ...]:
        """All files of the draft in order of name, those included that a tool wrote into `path`; all of them synced."""
        for name in sorted(os.listdir(self.path)):
            if name not in self._entries and name != MANIFEST_NAME:
                if name.lower() in self._taken:
                    raise StoreError(f"the draft holds {name!r} twice, differing by upper and lower case only")
                self._taken.add(name.lower())
                self._entries[name] = _adopt_file(self._fd, name)
        return tuple(self._entries[name] for name in sorted(self._entries))

    def write_manifest(self, data: bytes) -> None:
        """Put `data` in place as the manifest, synced, and sync the folder. May be repeated with other data."""
        if os.path.lexists(self.path / MANIFEST_NAME):
            os.unlink(MANIFEST_NAME, dir_fd=self._fd)
        _write_file(self._fd, MANIFEST_NAME, [data])
        os.fsync(self._fd)

    def close(self) -> None:
        """Release the lock and remove what is left at `path`; after a rename nothing is."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


@contextmanager
def storage_errors(path: Path, undone: str = "saved") -> Iterator[None]:
    """Turn an OSError of a write into a StoreError that says what happened to the store: nothing was `undone`."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write below {path}: {error.strerror or error}. Nothing was {undone}, the store is as before."
        ) from error


def write_all(fd: int, data: memoryview) -> None:
    """All of `data` (bytes) to `fd`."""
    while data.nbytes:
        written = os.write(fd, data[:_WRITE_BYTES_MAX])
        data = data[written:]


def _write_file(folder_fd: int, name: str, chunks: Iterable[Buffer]) -> FileEntry:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
    try:
        size, sha256 = _write_hashed(fd, chunks)
    finally:
        os.close(fd)
    return FileEntry(name, size, sha256)


def _write_hashed(fd: int, chunks: Iterable[Buffer]) -> tuple[int, str]:
    """Write and sync in this thread, hash in another: one after the other takes twice as long (measured)."""
    digest = hashlib.sha256()
    size = 0
    behind: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as hasher:
        for chunk in chunks:
            data = memoryview(chunk)
            if data.nbytes == 0:  # a view with a zero in its shape cannot be cast
                continue
            data = data.cast("B")
            size += data.nbytes
            behind.append(hasher.submit(digest.update, data))
            write_all(fd, data)
            if len(behind) > _CHUNKS_BEHIND_MAX:
                behind.popleft().result()
        os.fsync(fd)
    return size, digest.hexdigest()


def _adopt_file(folder_fd: int, name: str) -> FileEntry:
    if not is_file_name(name):
        raise StoreError(f"the draft holds {name!r}, which cannot be a file of a version")
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StoreError(f"the draft holds {name!r}, which is not a regular file; a version has no folders")
        os.fchmod(fd, 0o600)
        os.fsync(fd)
        return FileEntry(name, os.fstat(fd).st_size, hash_file(fd))
    finally:
        os.close(fd)
