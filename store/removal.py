"""Removing: first out of every reader's sight by one rename into the temporary folder, then from the disk.

What a killed process leaves in the temporary folder, a later sweep takes. Only ModelStore calls it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from paceline.protocol.errors import VersionNotFound
from paceline.store.folders import list_folder, sync_folder
from paceline.store.tags import Tag

SWEEP_AGE_S = 3600.0


def take_away(path: Path, temporary: Path, tag: Tag) -> Path:
    """Move `path` out of sight, durably; where to. Raises VersionNotFound naming `tag` if it is gone, OSError."""
    doomed = temporary / f"delete-{secrets.token_hex(8)}"
    try:
        os.rename(path, doomed)
    except FileNotFoundError as error:
        raise VersionNotFound(f"{tag} was deleted meanwhile") from error
    sync_folder(path.parent)
    return doomed


def drop(doomed: Path) -> int:
    """Remove from the disk what was taken away; how many bytes its files had."""
    freed = sum(path.lstat().st_size for path in doomed.rglob("*") if path.is_file() and not path.is_symlink())
    shutil.rmtree(doomed, ignore_errors=True)
    return freed


def sweep(temporary: Path, now: float) -> int:
    """Remove entries older than an hour (`now`: wall clock) that no living process holds; returns how many."""
    stale = [path for path in map(temporary.joinpath, list_folder(temporary)) if _is_stale(path, now)]
    for path in stale:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(stale)


def _is_stale(path: Path, now: float) -> bool:
    try:
        if now - path.lstat().st_mtime < SWEEP_AGE_S:
            return False
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # its writer lives
    finally:
        os.close(fd)
    return True
