"""The store's own key: 32 random bytes in `<home>/store.key`, mode 0600. What it signs was saved by this store."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from paceline.protocol.errors import StoreError

KEY_NAME = "store.key"
KEY_BYTES = 32


def load_key(home: Path) -> bytes | None:
    """The key, or None if the store has none yet. Raises StoreError if others may read it or it is no key."""
    path = home / KEY_NAME
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"the store's key {path} cannot be read: {error.strerror}") from error
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
            raise StoreError(f"the store's key {path} is open to other users; run: chmod 600 {path}")
        key = os.read(fd, KEY_BYTES + 1)
    finally:
        os.close(fd)
    if len(key) != KEY_BYTES:
        raise StoreError(
            f"the store's key {path} has {len(key)} bytes, expected {KEY_BYTES}; delete it to get a new one"
        )
    return key


def make_key(home: Path, temporary: Path) -> bytes:
    """The key, made if there is none: whole or not at all, and the same for all processes that ask at once."""
    key = load_key(home)
    if key is not None:
        return key
    draft = temporary / f"key-{secrets.token_hex(8)}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, secrets.token_bytes(KEY_BYTES))
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.link(draft, home / KEY_NAME)  # unlike rename, fails if another process was faster
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    made = load_key(home)
    assert made is not None
    return made
