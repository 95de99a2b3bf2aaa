"""The model store: immutable versions below `<home>/models/<name>/<version>/`, written so that no reader sees
half of one.

    models/net/1/ {manifest.json, model.safetensors, ...}     a version: complete from the moment it has this name
    models/net/.reserved/1/                                   its number is taken, for ever
    models/.tmp/save-1f3a.../                                 being written, locked by its writer
    models/.tmp/delete-77c0.../                               was a version
    store.key                                                 random, 0600: what it signs was saved here

Readers take no lock. Writers need none among each other: numbers are taken by mkdir, versions appear by rename.
Imports no torch; the supervisor, API server, CLI and workers all read through it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from paceline.protocol.errors import ModelNotFound, StoreError, VersionNotFound, did_you_mean
from paceline.protocol.signature import MethodSpec
from paceline.store.artefact import read_file
from paceline.store.draft import Draft, storage_errors
from paceline.store.folders import list_folder, make_folder, sync_folder
from paceline.store.key import load_key, make_key
from paceline.store.manifest import (
    MANIFEST_BYTES_MAX,
    MANIFEST_NAME,
    Manifest,
    checked_labels,
    checked_metadata,
    decode_manifest,
    encode_manifest,
    is_sealed_by,
    seal,
)
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import Tag, check_name, is_name, is_version, parse_tag

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 8
SWEEP_AGE_S = 3600.0
_PUBLISH_TRIES_MAX = 1000
_FIND_TRIES_MAX = 100
_VERSIONS_SHOWN_MAX = 20


def default_home() -> Path:
    """`PACELINE_HOME` if set, else `~/.paceline`."""
    return Path(os.environ.get("PACELINE_HOME") or "~/.paceline").expanduser()


class PendingVersion:
    """A version being made: write its files, then leave the `with` block, after which `saved` is the stored version."""

    def __init__(self, draft: Draft) -> None:
        self.path = draft.path
        self.write = draft.write
        self._saved: StoredVersion | None = None

    @property
    def saved(self) -> StoredVersion:
        """The version as stored. Raises StoreError inside the `with` block."""
        if self._saved is None:
            raise StoreError("the version is saved when its with block ends; read .saved after it")
        return self._saved


class ModelStore:
    """The models below one folder. Cheap to make: nothing is read or created before it is asked for.

    >>> store = ModelStore(Path("/srv/models"))
    >>> with store.create("net", framework="custom", methods={"__call__": MethodSpec("__call__")}) as pending:
    ...     pending.write("weights.bin", [b"..."])
    >>> str(pending.saved.tag)
    'net:1'
    """

    def __init__(self, home: Path | None = None, wall_clock: Callable[[], float] = time.time) -> None:
        self.home = home if home is not None else default_home()
        self._wall_clock = wall_clock
        self._models = self.home / "models"
        self._temporary = self._models / ".tmp"

    # Reading

    def names(self) -> list[str]:
        """Names of the models that have a version, sorted."""
        return [name for name in sorted(list_folder(self._models)) if is_name(name) and self.versions(name)]

    def versions(self, name: str) -> list[str]:
        """Complete versions of `name`, ascending by number; empty if there is no such model."""
        folder = self._models / name
        found = [
            entry for entry in list_folder(folder) if is_version(entry) and (folder / entry / MANIFEST_NAME).exists()
        ]
        return sorted(found, key=int)

    def get(self, tag: str | Tag, *, trust: bool = False, digest: str | None = None) -> StoredVersion:
        """The version that `tag` names; without a version the latest.

        trust: load code in it even if this store did not save it. digest: the content must be this one, which counts as
        trust. Raises ModelNotFound (names the nearest), VersionNotFound (lists versions), StoreError (bad tag, damaged
        manifest, other digest).

        >>> store.get("net:latest").manifest.framework
        'pytorch'
        """
        version = self._find(parse_tag(tag), trust or digest is not None)
        if digest is not None and digest != version.digest:
            raise StoreError(f"{version.tag} has the digest {version.digest}, not the pinned {digest}")
        return version

    def list(self, name: str | None = None) -> list[StoredVersion]:
        """Every version (of `name` if given), sorted by name and number; one that cannot be read is logged, not listed.

        Raises ModelNotFound if `name` is given and unknown.
        """
        if name is not None:
            self._resolve(Tag(check_name(name)))
        found = []
        for each in [name] if name is not None else self.names():
            for number in self.versions(each):
                try:
                    found.append(self._read(Tag(each, number), trusted=False))
                except VersionNotFound:
                    continue  # deleted meanwhile
                except StoreError as error:
                    logger.warning(
                        "stored version is unreadable", extra={"tag": f"{each}:{number}", "error": str(error)}
                    )
        return found

    def verify(self, tag: str | Tag) -> StoredVersion:
        """Check every byte of a version against its manifest. Raises as `get` and `StoredVersion.verify` do."""
        version = self.get(tag)
        version.verify()
        return version

    # Writing

    @contextmanager
    def create(
        self,
        name: str,
        *,
        framework: str,
        methods: Mapping[str, MethodSpec],
        labels: Mapping[str, str] | None = None,
        metadata: Mapping[str, object] | None = None,
        context: Mapping[str, str] | None = None,
        code_bearing: bool = False,
    ) -> Iterator[PendingVersion]:
        """A new version of `name`: write its files inside the `with` block; it appears, complete, when the block ends.

        An exception inside drops it. metadata: anything that JSON can hold. context: versions of libraries that matter,
        besides Paceline's and Python's. Raises StoreError (bad name, disk full, no permission), ConfigError (labels,
        metadata); the store is then as before.
        """
        check_name(name)
        manifest = Manifest(
            name=name,
            version="",
            framework=framework,
            methods=dict(methods),
            files=(),
            code_bearing=code_bearing,
            created_at=datetime.fromtimestamp(self._wall_clock(), UTC).isoformat(timespec="seconds"),
            labels=checked_labels(labels or {}),
            metadata=checked_metadata(metadata or {}),
            context=_context() | dict(context or {}),
        )
        with storage_errors(self.home):
            self._make_folders()
            self.sweep()
            key = make_key(self.home, self._temporary)
            draft = Draft(self._temporary / f"save-{secrets.token_hex(8)}")
        try:
            pending = PendingVersion(draft)
            yield pending
            with storage_errors(self.home):
                pending._saved = self._publish(draft, manifest, key)
        finally:
            draft.close()

    def delete(self, tag: str | Tag) -> Tag:
        """Remove one version, at once for readers; `tag` must name the version or say `latest`. Its number stays taken.

        Raises ModelNotFound, VersionNotFound, StoreError (a bare name: use `delete_model`).
        """
        if isinstance(tag, str) and ":" not in tag and "@" not in tag:
            raise StoreError(f"delete which version of {tag!r}? Expected a tag such as {tag + ':1'!r}")
        exact = self._resolve(parse_tag(tag))
        self._remove(self._models / exact.name / str(exact.version), exact)
        return exact

    def delete_model(self, name: str) -> None:
        """Remove all versions of `name`, at once for readers; numbers start again at 1. Raises ModelNotFound."""
        self._resolve(Tag(check_name(name)))
        self._remove(self._models / name, Tag(name))

    def sweep(self) -> int:
        """Remove temporary entries older than an hour that no living process holds; returns how many. For start-up."""
        swept = 0
        for entry in list_folder(self._temporary):
            path = self._temporary / entry
            if self._is_stale(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                swept += 1
        if swept:
            logger.info("store swept", extra={"entries": swept})
        return swept

    # Private

    def _find(self, tag: Tag, trusted: bool) -> StoredVersion:
        for _ in range(_FIND_TRIES_MAX):
            exact = self._resolve(tag)
            try:
                return self._read(exact, trusted)
            except VersionNotFound:
                if tag.version is not None:
                    raise
                # The latest version was deleted between the two steps: there is another latest one now.
        raise StoreError(f"{tag} changes faster than it can be read")

    def _resolve(self, tag: Tag) -> Tag:
        """`tag` with the number of a version that exists."""
        versions = self.versions(tag.name)
        if not versions:
            names = self.names()
            hint = did_you_mean(tag.name, names)
            if not names:
                hint = " The store is empty: save a model first, e.g. with paceline.pytorch.save()."
            elif not hint:
                shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
                hint = f" It holds {shown}; save the model first, or choose one of these."
            raise ModelNotFound(f'model "{tag.name}" is not in the store.{hint}')
        if tag.alias is not None:
            raise VersionNotFound(f'model "{tag.name}" has no alias "{tag.alias}"; {_shown(versions)}')
        if tag.version is None:
            return Tag(tag.name, versions[-1])
        if tag.version not in versions:
            raise VersionNotFound(f'model "{tag.name}" has no version {tag.version}; {_shown(versions)}')
        return tag

    def _read(self, tag: Tag, trusted: bool) -> StoredVersion:
        folders = (tag.name, str(tag.version))
        try:
            data = read_file(self._models, folders, MANIFEST_NAME, MANIFEST_BYTES_MAX)
        except FileNotFoundError as error:
            raise VersionNotFound(f"{tag} was deleted meanwhile") from error
        manifest = decode_manifest(data, tag)
        key = load_key(self.home)
        saved_here = key is not None and is_sealed_by(manifest, key)
        return StoredVersion(manifest, self._models.joinpath(*folders), saved_here, saved_here or trusted)

    def _make_folders(self) -> None:
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        make_folder(self._models)
        make_folder(self._temporary)

    def _publish(self, draft: Draft, manifest: Manifest, key: bytes) -> StoredVersion:
        """Number, manifest, rename: in this order, so that the name appears last and with everything in place."""
        files = draft.adopt()
        for _ in range(_PUBLISH_TRIES_MAX):
            number = self._reserve(manifest.name)
            sealed = seal(replace(manifest, version=number, files=files), key)
            draft.write_manifest(encode_manifest(sealed))
            target = self._models / manifest.name / number
            try:
                os.rename(draft.path, target)
            except OSError as error:
                # Somebody copied a version there by hand, or deleted the whole model meanwhile: take another number.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
                continue
            sync_folder(target.parent)
            return StoredVersion(sealed, target, saved_here=True, trusted=True)
        raise StoreError(f'no version number of "{manifest.name}" could be taken in {_PUBLISH_TRIES_MAX} tries')

    def _reserve(self, name: str) -> str:
        """The next number of `name`, taken for ever: mkdir succeeds for one process only."""
        reserved = self._models / name / ".reserved"
        for _ in range(_PUBLISH_TRIES_MAX):
            try:
                make_folder(reserved.parent)
                if reserved.parent.is_symlink():
                    raise StoreError(f'the folder of model "{name}" is a symbolic link; the store follows none')
                make_folder(reserved)
                taken = [entry for entry in list_folder(reserved) + list_folder(reserved.parent) if is_version(entry)]
                number = str(max(map(int, taken), default=0) + 1)
                os.mkdir(reserved / number, 0o700)
            except (FileExistsError, FileNotFoundError):
                continue  # another save was faster, or the model is being deleted
            return number
        raise StoreError(f'no version number of "{name}" could be taken in {_PUBLISH_TRIES_MAX} tries')

    def _remove(self, path: Path, tag: Tag) -> None:
        doomed = self._temporary / f"delete-{secrets.token_hex(8)}"
        with storage_errors(self.home, "deleted"):
            self._make_folders()
            try:
                os.rename(path, doomed)
            except FileNotFoundError as error:
                raise VersionNotFound(f"{tag} was deleted meanwhile") from error
            sync_folder(path.parent)
        shutil.rmtree(doomed, ignore_errors=True)  # what is left of it, the sweep removes

    def _is_stale(self, path: Path) -> bool:
        try:
            if self._wall_clock() - path.lstat().st_mtime < SWEEP_AGE_S:
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


def _shown(versions: list[str]) -> str:
    shown = ", ".join(versions[-_VERSIONS_SHOWN_MAX:])
    return f"it has {shown}" if len(versions) <= _VERSIONS_SHOWN_MAX else f"its newest are {shown}"


def _context() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms, and only saving needs it

    try:
        ours = version("paceline")
    except PackageNotFoundError:  # a bare checkout
        ours = "unknown"
    return {"paceline": ours, "python": platform.python_version(), "platform": platform.platform()}
