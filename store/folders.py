"""Folders of the store: made 0700, listed without complaint when missing, synced so that names survive a power cut."""

from __future__ import annotations

import os
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
