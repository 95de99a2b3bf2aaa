"""The places where archives lie: files, and every URL that fsspec knows.

A file appears whole or not at all, whoever is killed or runs out of disk. fsspec is an extra, imported when a URL is
opened. It carries bytes and knows nothing of what is in them.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from paceline.protocol.errors import ConfigError, StoreError
from paceline.store.draft import write_all
from paceline.store.folders import sync_folder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_SECRET = re.compile(r"(?<=://)[^/@]*@")


def write_archive(path: Path, chunks: Iterable[bytes], *, replace_it: bool = False) -> None:
    """Write the file `path`, synced, whole or not at all. Raises StoreError: it exists, disk full, no permission."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        if path.exists() and not replace_it:
            raise _exists(str(path))
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in chunks:
                write_all(fd, memoryview(chunk))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}. Nothing was written.") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file `path` for reading. Raises StoreError."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def opened_url(url: str) -> Iterator[BinaryIO]:
    """What lies at `url` for reading. Raises ConfigError (no fsspec, no such protocol), StoreError."""
    with _remote_errors("read", url):
        system, path = _remote(url)
        with system.open(path, "rb") as file:
            yield file


def send(url: str, name: str, chunks: Iterable[bytes], *, replace_it: bool = False) -> str:
    """Write an archive to `url`, or as `name` into it if it ends in "/"; where it went, without a password.

    It appears when it is complete, where the place can do that. Raises ConfigError (no fsspec, no such protocol),
    StoreError.
    """
    if url.endswith("/"):
        url += name
    with _remote_errors("write", url):
        system, path = _remote(url)
        if "file" in _protocols(system):  # fsspec would write to /tmp and copy
            write_archive(Path(path), chunks, replace_it=replace_it)
            return shown(url)
        if system.exists(path) and not replace_it:
            raise _exists(shown(url))
        with system.transaction, system.open(path, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
    return shown(url)


def shown(url: str) -> str:
    """`url` for people and logs: without a user and password."""
    return _SECRET.sub("", url)


def _remote(url: str) -> tuple[AbstractFileSystem, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError("URLs need fsspec, an extra of Paceline: pip install 'paceline[remote]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # no such protocol, or it needs a package of its own
        raise ConfigError(f"{shown(url)} cannot be opened: {error}") from error
    return system, path


def _protocols(system: AbstractFileSystem) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def _remote_errors(verb: str, url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {verb} {shown(url)}: {error.strerror or error}") from error


def _exists(where: str) -> StoreError:
    return StoreError(f"{where} is there already; say --force to replace it, or choose another name")
