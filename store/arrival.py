"""What an archive brings, on its way into the store: compared, written through a draft like a save, named at last.

It gets no seal, since this store did not save it. Only ModelStore calls it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from paceline.protocol.errors import StoreError, VersionNotFound
from paceline.store.archive import ArchiveReader, Progress
from paceline.store.draft import Draft
from paceline.store.finding import read_version
from paceline.store.manifest import Manifest
from paceline.store.publication import is_reserved, number_used, publish_as, publish_next
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import Tag


def already_there(home: Path, models: Path, manifest: Manifest) -> StoredVersion | None:
    """The version of this tag, if there is one and it is the same by its digest.

    Raises StoreError if the tag is another version's, or its number was used before.
    """
    tag = manifest.tag
    try:
        there = read_version(home, models, tag, trusted=False)
    except VersionNotFound:
        if is_reserved(models, tag.name, manifest.version):
            raise number_used(tag) from None
        return None
    if there.digest != manifest.digest:
        raise StoreError(
            f"{tag} is another model here: its digest is {there.digest}, that of the archive {manifest.digest}. "
            f"Import it under the next number of a name: --as {tag.name}"
        )
    return there


def receive(models: Path, draft: Draft, reader: ArchiveReader, name: str | None, progress: Progress | None) -> Tag:
    """The version in an archive through `draft` into the store, as the next one of `name` if given; its tag.

    Raises StoreError, OSError; nothing is published then.
    """
    _fill(draft, reader, progress)
    if name is not None:
        return publish_next(models, draft, replace(reader.manifest, name=name), None).tag
    publish_as(models, draft, reader.manifest)
    return reader.manifest.tag


def _fill(draft: Draft, reader: ArchiveReader, progress: Progress | None) -> None:
    manifest = reader.manifest
    free = shutil.disk_usage(draft.path).free
    if manifest.bytes > free:
        raise StoreError(f"{manifest.tag} needs {manifest.bytes} bytes, {free} are free. Nothing was imported.")
    done = 0

    def counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(done, manifest.bytes)

    for entry in manifest.files:
        found = draft.write(entry.path, counted(reader.chunks(entry)))
        if found != entry:
            raise StoreError(
                f"the archive of {manifest.tag} is damaged: the SHA-256 of {entry.path!r} is {found.sha256}, its "
                f"manifest says {entry.sha256}"
            )
    reader.end()
