"""Reading the files of a version: what is hashed is what is handed out.

A file is opened once, below real directories and through no link, and read or mapped from that descriptor; replacing
it afterwards changes nothing here. It knows a folder and a FileEntry, nothing of tags or trust.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paceline.protocol.errors import StoreError
from paceline.store.manifest import FileEntry

_CHUNK_BYTES = 1024 * 1024


def read_file(root: Path, folders: tuple[str, ...], name: str, bytes_max: int) -> bytes:
    """The whole file `root/folders.../name`, unverified. Raises FileNotFoundError; StoreError for links and size."""
    with _opened(root, folders, name) as fd:
        size = os.fstat(fd).st_size
        if size > bytes_max:
            raise StoreError(f"{_shown(folders, name)} has {size} bytes, over the limit of {bytes_max}")
        return _read_all(fd, size)


def read_verified(root: Path, folders: tuple[str, ...], entry: FileEntry) -> bytes:
    """The bytes of a file, held in memory and checked against `entry`. Raises FileNotFoundError, StoreError."""
    with _opened(root, folders, entry.path) as fd:
        _check_size(fd, folders, entry)
        data = _read_all(fd, entry.bytes)
    _check_hash(hashlib.sha256(data).hexdigest(), folders, entry)
    return data


def map_verified(root: Path, folders: tuple[str, ...], entry: FileEntry) -> memoryview:
    """The bytes of a file as a private mapping, checked against `entry`; pages are shared with the page cache.

    Writable, because a model may write its buffers: such pages become the process's own, the file stays as it is.
    Raises FileNotFoundError, StoreError.
    """
    with _opened(root, folders, entry.path) as fd:
        _check_size(fd, folders, entry)
        if entry.bytes == 0:
            return memoryview(bytearray())
        mapping = mmap.mmap(fd, entry.bytes, access=mmap.ACCESS_COPY)
    _check_hash(hashlib.sha256(mapping).hexdigest(), folders, entry)
    return memoryview(mapping)


def verified_chunks(root: Path, folders: tuple[str, ...], entry: FileEntry) -> Iterator[bytes]:
    """The bytes of a file piece by piece, in constant memory; a bad hash shows after the last one.

    Raises FileNotFoundError, StoreError.
    """
    digest = hashlib.sha256()
    with _opened(root, folders, entry.path) as fd:
        _check_size(fd, folders, entry)
        left = entry.bytes
        while left and (chunk := os.read(fd, min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
            yield chunk
    _check_hash(digest.hexdigest(), folders, entry)


def verify_file(root: Path, folders: tuple[str, ...], entry: FileEntry) -> None:
    """Check a file against `entry` in constant memory. Raises FileNotFoundError, StoreError."""
    with _opened(root, folders, entry.path) as fd:
        _check_size(fd, folders, entry)
        _check_hash(hash_file(fd), folders, entry)


def hash_file(fd: int) -> str:
    """SHA-256 in hex of everything behind `fd`, from its start."""
    digest = hashlib.sha256()
    os.lseek(fd, 0, os.SEEK_SET)
    while chunk := os.read(fd, _CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _opened(root: Path, folders: tuple[str, ...], name: str) -> Iterator[int]:
    """A descriptor of the regular file; each component below `root` is opened from its parent and may not be a link."""
    fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for folder in folders:
            fds.append(_open_below(fds[-1], folder, os.O_DIRECTORY, folders, name))
        # O_NONBLOCK: a fifo in a file's place must not stop the reader.
        fds.append(_open_below(fds[-1], name, os.O_NONBLOCK, folders, name))
        if not stat.S_ISREG(os.fstat(fds[-1]).st_mode):
            raise StoreError(f"{_shown(folders, name)} is not a regular file")
        yield fds[-1]
    finally:
        for fd in fds:
            os.close(fd)


def _open_below(parent: int, component: str, flags: int, folders: tuple[str, ...], name: str) -> int:
    try:
        return os.open(component, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=parent)
    except FileNotFoundError:
        raise
    except OSError as error:
        if stat.S_ISLNK(os.lstat(component, dir_fd=parent).st_mode):
            raise StoreError(
                f"{_shown(folders, name)}: {component!r} is a symbolic link; the store follows none"
            ) from error
        raise StoreError(f"{_shown(folders, name)} cannot be opened: {error.strerror}") from error


def _read_all(fd: int, size: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as stream:
        return stream.read(size)


def _check_size(fd: int, folders: tuple[str, ...], entry: FileEntry) -> None:
    size = os.fstat(fd).st_size
    if size != entry.bytes:
        raise StoreError(
            f"{_shown(folders, entry.path)} is damaged: it has {size} bytes, its manifest says {entry.bytes}; "
            f"save the model again or restore the file"
        )


def _check_hash(found: str, folders: tuple[str, ...], entry: FileEntry) -> None:
    if found != entry.sha256:
        raise StoreError(
            f"{_shown(folders, entry.path)} is damaged: its SHA-256 is {found}, its manifest says {entry.sha256}; "
            f"save the model again or restore the file"
        )


def _shown(folders: tuple[str, ...], name: str) -> str:
    return f"{':'.join(folders)}/{name}"
