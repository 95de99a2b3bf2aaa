"""Aliases: movable names of one model's versions, each a small file `<name>/.aliases/<alias>` with a number in it.

Readers take no lock: a file appears and changes by rename, whole. Who writes holds the model's lock, so that what was
checked (the version is there, no alias names it) still holds when it acts. It knows folders, nothing of manifests.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from paceline.protocol.errors import StoreError
from paceline.store.artefact import read_file
from paceline.store.folders import list_folder, make_folder
from paceline.store.tags import LATEST, is_alias, is_version

_FOLDER = ".aliases"
_BYTES_MAX = 16


def check_alias(alias: object) -> str:
    """`alias`, if it may name a version. Raises StoreError that says what was given and what was expected."""
    if isinstance(alias, str) and is_alias(alias):
        return alias
    if alias == LATEST:
        raise StoreError(f'"{LATEST}" cannot be set: it always names the highest version')
    raise StoreError(
        f"{alias!r} is not an alias; expected 1 to 64 of a-z, 0-9, '.', '_', '-', starting with a letter, such as prod"
    )


def read_alias(models: Path, name: str, alias: str) -> str | None:
    """The version number that `alias` names, None if there is no such alias. Raises StoreError: damaged, a link."""
    try:
        text = read_file(models, (name, _FOLDER), alias, _BYTES_MAX).decode("ascii", "replace").removesuffix("\n")
    except FileNotFoundError:
        return None
    if not is_version(text):
        raise StoreError(f"the alias {name}@{alias} is damaged: it holds {text!r}, expected a version; set it again")
    return text


def read_aliases(models: Path, name: str) -> dict[str, str]:
    """All aliases of `name`, sorted, with the version number of each. Raises as `read_alias` does."""
    found = {
        alias: read_alias(models, name, alias)
        for alias in sorted(list_folder(models / name / _FOLDER))
        if is_alias(alias)
    }
    return {alias: version for alias, version in found.items() if version is not None}


def write_alias(folder: Path, temporary: Path, alias: str, version: str) -> None:
    """Let `alias` of the model in `folder` name `version`, durably, whole or not at all. The caller holds the lock."""
    make_folder(folder / _FOLDER)
    draft = temporary / f"alias-{secrets.token_hex(8)}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{version}\n".encode())
        os.fsync(fd)
        folder_fd = _open_folder(folder)
        try:
            os.rename(draft, alias, dst_dir_fd=folder_fd)
            os.fsync(folder_fd)
        finally:
            os.close(folder_fd)
    finally:
        os.close(fd)
        draft.unlink(missing_ok=True)


def remove_alias(folder: Path, alias: str) -> bool:
    """Remove `alias` of the model in `folder`, durably; False if there is none. The caller holds the lock."""
    try:
        folder_fd = _open_folder(folder)
    except FileNotFoundError:
        return False
    try:
        os.unlink(alias, dir_fd=folder_fd)
        os.fsync(folder_fd)
    except FileNotFoundError:
        return False
    finally:
        os.close(folder_fd)
    return True


def _open_folder(folder: Path) -> int:
    return os.open(folder / _FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
