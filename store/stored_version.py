"""One complete version, found but not loaded: its manifest, and its files as bytes that were verified.

Whether code in it may be loaded is decided when it is found; here it is asked. Frameworks read through it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.protocol.errors import StoreError, VersionNotFound
from paceline.store.artefact import map_verified, read_verified, verified_chunks, verify_file
from paceline.store.manifest import MANIFEST_NAME, Manifest
from paceline.store.tags import Tag


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One complete version. `saved_here`: this store's key signed its manifest. `trusted`: code in it may be loaded,
    because it was saved here, or the caller said so.

    Files are read through it, never by their path: what is returned is what was verified.
    """

    manifest: Manifest
    path: Path
    saved_here: bool
    trusted: bool

    @property
    def tag(self) -> Tag:
        return self.manifest.tag

    @property
    def digest(self) -> str:
        """SHA-256 over framework, methods and files: which model this is, whatever its name."""
        return self.manifest.digest

    def require_trusted(self) -> None:
        """Raise StoreError unless loading this version may run code that it brings along."""
        if not self.trusted:
            raise StoreError(
                f"{self.tag} ({self.manifest.framework}) can run code when it is loaded, and this store did not save "
                f"it. If you trust its origin, pass --trust (in Python: trust=True), or pin its digest {self.digest}."
            )

    def read(self, path: str) -> bytes:
        """The verified bytes of the file `path`, in memory.

        Raises StoreError (unknown, damaged, a link, not trusted), VersionNotFound (deleted meanwhile).

        >>> version.read("labels.txt")
        b'cat\\ndog\\n'
        """
        with self._reading():
            return read_verified(self._models, self._folders, self.manifest.file(path))

    def map(self, path: str) -> memoryview:
        """The verified bytes of the file `path` as a private mapping (uint8, writable, never written back).

        Replacing the file does not change it; writing into the very same file does, so versions are never edited in
        place. Raises as `read` does.
        """
        with self._reading():
            return map_verified(self._models, self._folders, self.manifest.file(path))

    def chunks(self, path: str) -> Iterator[bytes]:
        """The bytes of the file `path` piece by piece, for copying: trust is not asked.

        Raises as `read` does; StoreError for other bytes than the manifest says comes after the last piece.
        """
        with _missing_as_error(self.manifest, self.path):
            yield from verified_chunks(self._models, self._folders, self.manifest.file(path))

    def look_into(self, path: str) -> memoryview:
        """As `map`, for looking at data, never for loading: trust is not asked."""
        with _missing_as_error(self.manifest, self.path):
            return map_verified(self._models, self._folders, self.manifest.file(path))

    def verify(self) -> None:
        """Check size and hash of every file and that there is no other; trust is not asked.

        Raises StoreError that names the first bad file, VersionNotFound (deleted meanwhile).
        """
        with _missing_as_error(self.manifest, self.path):
            for entry in self.manifest.files:
                verify_file(self._models, self._folders, entry)
            known = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME}
            extra = sorted(set(os.listdir(self.path)) - known)
        if extra:
            raise StoreError(f"{self.tag} holds {extra[0]!r}, which its manifest does not name")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self.manifest.code_bearing:
            self.require_trusted()
        with _missing_as_error(self.manifest, self.path):
            yield

    @property
    def _models(self) -> Path:
        return self.path.parent.parent

    @property
    def _folders(self) -> tuple[str, str]:
        return self.manifest.name, self.manifest.version


@contextmanager
def _missing_as_error(manifest: Manifest, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if path.exists():
            raise StoreError(f"{manifest.tag} is damaged: its file {Path(error.filename).name!r} is missing") from error
        raise VersionNotFound(f"{manifest.tag} was deleted meanwhile") from error
