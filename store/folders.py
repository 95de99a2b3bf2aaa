"""Folders of the store: made 0700, listed without complaint when missing, synced so that names survive a power cut,
locked by who changes what is in them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paceline.protocol.errors import StoreError


def make_folder(folder: Path) -> None:
    """Make one 0700 folder if it is missing, durably; its parent must exist."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return
    sync_folder(folder.parent)


def list_folder(folder: Path) -> list[str]:
    """Names in `folder`; none if there is no such folder. Raises StoreError if this user may not look."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise StoreError(f"cannot look into {folder}: {error.strerror}; is it the store of another user?") from error


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` among writers; it waits for another holder, and a killed one holds nothing.

    Raises FileNotFoundError if there is no such folder, also one that was renamed away while we waited.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not os.path.samestat(os.fstat(fd), os.stat(folder)):
            raise FileNotFoundError(f"{folder} was replaced")
        yield
    finally:
        os.close(fd)
