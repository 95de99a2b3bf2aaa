"""Giving a finished draft its name: a number taken by mkdir, the manifest, one rename, in this order.

So a version appears last and with everything in place, and no number is used twice. Only ModelStore calls it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

from paceline.protocol.errors import StoreError
from paceline.store.draft import Draft
from paceline.store.folders import list_folder, locked_folder, make_folder, sync_folder
from paceline.store.manifest import Manifest, encode_manifest, seal
from paceline.store.tags import Tag, is_version

_RESERVED = ".reserved"
_TRIES_MAX = 1000


def publish_next(models: Path, draft: Draft, manifest: Manifest, key: bytes | None) -> Manifest:
    """`draft` as the next version of its model, sealed by `key` (None: it came from elsewhere); its manifest as stored.

    Raises StoreError, OSError; nothing is published then.
    """
    files = draft.adopt()
    for _ in range(_TRIES_MAX):
        number = _reserve_next(models / manifest.name)
        sealed = seal(replace(manifest, version=number, files=files), key)
        draft.write_manifest(encode_manifest(sealed))
        target = models / manifest.name / number
        try:
            os.rename(draft.path, target)
        except OSError as error:
            # Somebody put a version there meanwhile, or deleted the whole model: take another number.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            continue
        sync_folder(target.parent)
        return sealed
    raise _no_number(manifest.name)


def publish_as(models: Path, draft: Draft, manifest: Manifest) -> None:
    """`draft` as the very version that `manifest` says, without a seal.

    Raises StoreError if there is a version of this number or was one, OSError; nothing is published then.
    """
    folder = models / manifest.name
    draft.write_manifest(encode_manifest(seal(manifest, None)))
    _make_model_folder(folder)
    # The lock keeps a deletion of this number away between the question whether it was used, and the rename.
    with locked_folder(folder):
        if os.path.lexists(folder / manifest.version):
            raise StoreError(f"{manifest.tag} came into the store meanwhile; nothing was imported")
        if is_reserved(models, manifest.name, manifest.version):
            raise number_used(manifest.tag)
        os.rename(draft.path, folder / manifest.version)
        sync_folder(folder)
        reserve(models, manifest.name, manifest.version)


def is_reserved(models: Path, name: str, version: str) -> bool:
    """Whether this number is taken, by a version that is there or was."""
    return os.path.lexists(models / name / _RESERVED / version)


def reserve(models: Path, name: str, version: str) -> None:
    """See that the number of a version that is there stays taken when it goes."""
    reserved = models / name / _RESERVED
    make_folder(reserved)
    make_folder(reserved / version)


def number_used(tag: Tag) -> StoreError:
    """Why no other version may get this number."""
    return StoreError(
        f"the number of {tag} was used before: that version was deleted here, or is being saved. A number never names "
        f"anything else; import it under the next one: --as {tag.name}"
    )


def _reserve_next(folder: Path) -> str:
    """The next number of the model in `folder`, taken for ever: mkdir succeeds for one process only."""
    reserved = folder / _RESERVED
    for _ in range(_TRIES_MAX):
        try:
            _make_model_folder(folder)
            make_folder(reserved)
            taken = [entry for entry in list_folder(reserved) + list_folder(folder) if is_version(entry)]
            number = str(max(map(int, taken), default=0) + 1)
            if not is_version(number):
                break
            os.mkdir(reserved / number, 0o700)
        except (FileExistsError, FileNotFoundError):
            continue  # another save was faster, or the model is being deleted
        return number
    raise _no_number(folder.name)


def _make_model_folder(folder: Path) -> None:
    make_folder(folder)
    if folder.is_symlink():
        raise StoreError(f'the folder of model "{folder.name}" is a symbolic link; the store follows none')


def _no_number(name: str) -> StoreError:
    return StoreError(f'no version number of "{name}" could be taken')
