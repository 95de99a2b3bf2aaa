"""One version as one file: an uncompressed tar of its manifest and then its files, in the manifest's order.

Why tar, and this tar: it is written and read from front to back, so it goes through pipes and object stores; a file is
described once (a zip does so twice, and the two may disagree); nothing is compressed, since weights hardly shrink and a
bomb then cannot be; `tar -tvf` shows what is in it. The manifest comes first, so a reader knows every header before it
reads it, and takes these bytes or refuses: links, devices, folders, pax records, sparse files, `..`, duplicates, other
sizes are all the same to it. Equal versions make equal archives. It knows no store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from paceline.protocol.errors import StoreError
from paceline.store.manifest import (
    MANIFEST_BYTES_MAX,
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    decode_foreign,
    encode_manifest,
)
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import check_name, is_version
from paceline.store.tar_header import BLOCK_BYTES, END, describe, header, padding, size_of

SUFFIX = ".paceline"
ARCHIVE_FILES_MAX = 10_000
ARCHIVE_BYTES_MAX = 2**40

# Saves of a name that an archive brought along count on from its number: leave them nine tenths of all numbers.
ARCHIVE_VERSION_MAX = 99_999_999

_CHUNK_BYTES = 1024 * 1024
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}

Progress = Callable[[int, int], None]


class Source(Protocol):
    """Where an archive comes from: a file, a pipe, a remote file."""

    def read(self, size: int, /) -> bytes: ...


def archive_chunks(version: StoredVersion, progress: Progress | None = None) -> Iterator[bytes]:
    """The archive of `version`, without the seal of its store. Trust is not asked: nothing is loaded.

    progress: called with (bytes of files so far, of all). Raises StoreError (damaged), VersionNotFound (deleted
    meanwhile); what came before the error is then an archive that no reader accepts.
    """
    manifest = replace(version.manifest, hmac="")
    data = encode_manifest(manifest)
    yield header(MANIFEST_NAME, len(data)) + data + padding(len(data))
    done = 0
    for entry in manifest.files:
        yield header(entry.path, entry.bytes)
        for chunk in version.chunks(entry.path):
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(done, manifest.bytes)
        yield padding(entry.bytes)
    yield END


def archive_name(version: StoredVersion) -> str:
    """What an archive of `version` is called in a folder: "net-3.paceline"."""
    return f"{version.manifest.name}-{version.manifest.version}{SUFFIX}"


class ArchiveReader:
    """Reads an archive once, from front to back: `manifest` at once, then `chunks` of each of its files, then `end`.

    Whatever is not as `archive_chunks` writes it raises StoreError, as does a source that cannot be read.
    """

    def __init__(self, source: Source, what: str) -> None:
        self._source = source
        self._what = what
        self.manifest = self._read_manifest()

    def chunks(self, entry: FileEntry) -> Iterator[bytes]:
        """The bytes of the next file, which must be `entry`. Their hash is for the caller to compare: who writes them
        takes it anyway."""
        self._expect(header(entry.path, entry.bytes), f"the file {entry.path!r} of {entry.bytes} bytes")
        left = entry.bytes
        while left:
            chunk = self._exactly(min(left, _CHUNK_BYTES))
            left -= len(chunk)
            yield chunk
        self._expect(padding(entry.bytes), f"zeros after {entry.path!r}")

    def end(self) -> None:
        """Raise StoreError unless the archive ends here, and the source with it."""
        self._expect(END, "its end, since its manifest names no other file")
        if self._read(1):
            raise StoreError(f"{self._what} goes on behind its end")

    def _read_manifest(self) -> Manifest:
        block = self._exactly(BLOCK_BYTES)
        size = size_of(block)
        if block != header(MANIFEST_NAME, max(size, 0)):
            raise StoreError(f"{self._what} is not an archive of `paceline models export`: {_first_sight(block)}")
        if size > MANIFEST_BYTES_MAX:
            raise StoreError(f"{self._what} has a manifest of {size} bytes, over the limit of {MANIFEST_BYTES_MAX}")
        manifest = decode_foreign(self._exactly(size), self._what)
        self._expect(padding(size), "zeros after the manifest")
        _check_limits(manifest, self._what)
        return manifest

    def _expect(self, expected: bytes, meaning: str) -> None:
        found = self._exactly(len(expected))
        if found != expected:
            raise StoreError(
                f"{self._what} holds {describe(found[:BLOCK_BYTES])} where it must hold {meaning}. An archive holds "
                f"the files that its manifest names, in that order, and nothing else."
            )

    def _exactly(self, count: int) -> bytes:
        pieces = [self._read(count)]
        missing = count - len(pieces[0])
        while missing:  # a pipe gives what it has
            pieces.append(self._read(missing))
            if not pieces[-1]:
                raise StoreError(f"{self._what} is cut short")
            missing -= len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read(self, count: int) -> bytes:
        try:
            return self._source.read(count)
        except OSError as error:
            raise StoreError(f"cannot read {self._what}: {error.strerror or error}") from error


def _check_limits(manifest: Manifest, what: str) -> None:
    check_name(manifest.name)
    if not is_version(manifest.version) or int(manifest.version) > ARCHIVE_VERSION_MAX:
        raise StoreError(f"{what} has the version {manifest.version!r}, expected 1 to {ARCHIVE_VERSION_MAX}")
    if len(manifest.files) > ARCHIVE_FILES_MAX:
        raise StoreError(f"{what} has {len(manifest.files)} files, over the limit of {ARCHIVE_FILES_MAX}")
    if manifest.bytes > ARCHIVE_BYTES_MAX:
        raise StoreError(f"{what} has {manifest.bytes} bytes of files, over the limit of {ARCHIVE_BYTES_MAX}")


def _first_sight(block: bytes) -> str:
    for magic, name in _COMPRESSED.items():
        if block.startswith(magic):
            return f"it is compressed ({name})"
    return f"it begins with {describe(block)}"
