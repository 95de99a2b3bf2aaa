"""The model store: immutable versions below `<home>/models/<name>/<version>/`, written so that no reader sees
half of one.

    models/net/1/ {manifest.json, model.safetensors, ...}     a version: complete from the moment it has this name
    models/net/.reserved/1/                                   its number is taken, for ever
    models/net/.aliases/prod                                  holds the number of the version that net@prod names
    models/.tmp/save-1f3a.../                                 being written, locked by its writer
    models/.tmp/delete-77c0.../                               was a version
    store.key                                                 random, 0600: what it signs was saved here

Readers take no lock. Saves need none among each other: numbers are taken by mkdir, versions appear by rename. Who
changes what exists (aliases, deletion, a number that an archive brings) holds the lock of the model's folder.
Imports no torch; the supervisor, API server, CLI and workers all read through it.
"""

from __future__ import annotations

import builtins
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paceline.protocol.errors import ModelNotFound, StoreError, VersionNotFound
from paceline.protocol.signature import MethodSpec
from paceline.store import finding
from paceline.store.aliases import check_alias, read_alias, read_aliases, remove_alias, write_alias
from paceline.store.archive import ArchiveReader, Progress, Source, archive_chunks, archive_name
from paceline.store.arrival import already_there, receive
from paceline.store.draft import Draft, storage_errors
from paceline.store.folders import locked_folder, make_folder
from paceline.store.key import make_key
from paceline.store.manifest import Manifest, checked_labels, checked_metadata
from paceline.store.places import opened, opened_url, send, shown, write_archive
from paceline.store.publication import publish_next, reserve
from paceline.store.removal import drop, sweep, take_away
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import Tag, check_name, parse_tag

logger = logging.getLogger(__name__)

_FIND_TRIES_MAX = 100


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


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an archive: the version in this store, and whether it is new or was there already."""

    version: StoredVersion
    is_new: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """What went: the version, the aliases that named it, and how many bytes its files had."""

    tag: Tag
    aliases: tuple[str, ...]
    freed_bytes: int


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

    def names(self) -> builtins.list[str]:
        """Names of the models that have a version, sorted."""
        return finding.names(self._models)

    def versions(self, name: str) -> builtins.list[str]:
        """Complete versions of `name`, ascending by number; empty if there is no such model."""
        return finding.versions(self._models, name)

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

    def list(self, name: str | None = None, *, labels: Mapping[str, str] | None = None) -> builtins.list[StoredVersion]:
        """Every version, sorted by name and number; one that cannot be read is logged, not listed.

        name: of this model only, or of those that a pattern with "*", "?" or "[...]" fits. labels: only versions that
        have all of these. Raises ModelNotFound if `name` is no pattern and unknown.

        >>> [str(version.tag) for version in store.list("text-*", labels={"stage": "dev"})]
        ['text-large:2', 'text-small:7']
        """
        wanted = checked_labels(labels or {}).items()
        found = []
        for tag in self.tags(name):
            try:
                version = self._read(tag, trusted=False)
            except VersionNotFound:
                continue  # deleted meanwhile
            except StoreError as error:
                logger.warning("stored version is unreadable", extra={"tag": str(tag), "error": str(error)})
                continue
            if wanted <= version.manifest.labels.items():
                found.append(version)
        return found

    def tags(self, name: str | None = None) -> builtins.list[Tag]:
        """As `list`, but tags alone, those of unreadable versions too."""
        return finding.tags(self._models, name)

    def resolve(self, tag: str | Tag) -> Tag:
        """Name and number of the version that `tag` names now, whatever its state. Raises as `get` does."""
        return finding.resolve(self._models, parse_tag(tag))

    def aliases(self, name: str) -> dict[str, str]:
        """The aliases of the model `name`, each with the version number that it names. Raises StoreError."""
        return read_aliases(self._models, check_name(name))

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
        with self._draft() as draft:
            pending = PendingVersion(draft)
            yield pending
            with storage_errors(self.home):
                key = make_key(self.home, self._temporary)
                stored = publish_next(self._models, draft, manifest, key)
            pending._saved = StoredVersion(stored, self._models / name / stored.version, saved_here=True, trusted=True)

    def set_alias(self, tag: str | Tag, alias: str) -> str | None:
        """Let `name@alias` name the version that `tag` names now; the number that it named before, None if it is new.

        Raises ModelNotFound, VersionNotFound, StoreError (no alias, `latest`, damaged version, disk full).

        >>> store.set_alias("net:3", "prod")
        '2'
        """
        parsed = parse_tag(tag)
        check_alias(alias)
        with self._changing(parsed.name, "changed"):
            exact = self._find(parsed, trusted=False).tag
            before = read_alias(self._models, exact.name, alias)
            if before != exact.version:
                write_alias(self._models / exact.name, self._temporary, alias, str(exact.version))
        return before

    def remove_alias(self, tag: str | Tag) -> str:
        """Remove the alias that `tag` ("net@prod") spells; the version stays. The number that it named.

        Raises ModelNotFound, VersionNotFound (no such alias), StoreError (no alias, disk).
        """
        parsed = parse_tag(tag)
        if parsed.alias is None:
            raise StoreError(f"{str(tag)!r} names no alias; expected name@alias such as '{parsed.name}@prod'")
        with self._changing(parsed.name, "changed"):
            before = read_alias(self._models, parsed.name, parsed.alias)
            if before is None or not remove_alias(self._models / parsed.name, parsed.alias):
                raise finding.no_alias(self._models, parsed)
        return before

    def delete(self, tag: str | Tag, *, force: bool = False) -> Deleted:
        """Remove one version, at once for readers; `tag` must name a version, an alias or `latest`. Its number stays
        taken. force: remove it, and its aliases, although aliases name it.

        Raises ModelNotFound, VersionNotFound, StoreError (a bare name: use `delete_model`; an alias names it).
        """
        if isinstance(tag, str) and ":" not in tag and "@" not in tag:
            raise StoreError(f"delete which version of {tag!r}? Expected a tag such as {tag + ':1'!r}")
        parsed = parse_tag(tag)
        with self._changing(parsed.name, "deleted"):
            exact = finding.resolve(self._models, parsed)
            named_by = self._named_by(exact)
            if named_by and not force:
                shown = ", ".join(f"{exact.name}@{alias}" for alias in named_by)
                raise StoreError(
                    f"{exact} is what {shown} names; move the alias to another version first, or say --force (in "
                    f"Python: force=True) to delete both"
                )
            reserve(self._models, exact.name, str(exact.version))
            doomed = take_away(self._models / exact.name / str(exact.version), self._temporary, exact)
            for alias in named_by:
                remove_alias(self._models / exact.name, alias)
        return Deleted(exact, named_by, drop(doomed))

    def delete_model(self, name: str) -> None:
        """Remove all versions and aliases of `name`, at once for readers; numbers start again at 1.

        Raises ModelNotFound, StoreError.
        """
        with self._changing(name, "deleted"):
            doomed = take_away(self._models / name, self._temporary, Tag(name))
        drop(doomed)

    def sweep(self) -> int:
        """Remove temporary entries older than an hour that no living process holds; returns how many. For start-up."""
        swept = sweep(self._temporary, self._wall_clock())
        if swept:
            logger.info("store swept", extra={"entries": swept})
        return swept

    # Archives

    def export(
        self, tag: str | Tag, path: Path, *, replace: bool = False, progress: Progress | None = None
    ) -> StoredVersion:
        """Write a version as one file (see `paceline.store.archive`), whole or not at all; which version it was.

        replace: overwrite `path`. progress: called with (bytes so far, of all). Raises as `get` does, and StoreError:
        damaged, `path` exists, disk full.

        >>> str(store.export("net:latest", Path("net.paceline")).tag)
        'net:3'
        """
        version = self.get(tag)
        write_archive(path, archive_chunks(version, progress), replace_it=replace)
        return version

    def import_archive(
        self, source: Path | Source, *, name: str | None = None, progress: Progress | None = None
    ) -> Imported:
        """Store the version in an archive (a file, or anything with `read`), under its own tag.

        name: store it as the next version of this model instead. What is imported was not saved here: code in it needs
        trust. A tag that is taken is an error, unless by a version of the same digest, which then stays as it is.

        Raises StoreError: no archive, hostile, damaged, tag taken, disk full; the store is then as before.
        """
        if isinstance(source, Path):
            with opened(source) as file:
                return self._import(ArchiveReader(file, str(source)), name, progress)
        return self._import(ArchiveReader(source, "the archive"), name, progress)

    def push(self, tag: str | Tag, url: str, *, replace: bool = False, progress: Progress | None = None) -> str:
        """As `export`, to any URL that fsspec knows ("s3://...", "sftp://..."; into it if it ends in "/"); where it is.

        Raises as `export` does, and ConfigError: fsspec or what it needs for this protocol is not installed.
        """
        version = self.get(tag)
        return send(url, archive_name(version), archive_chunks(version, progress), replace_it=replace)

    def pull(self, url: str, *, name: str | None = None, progress: Progress | None = None) -> Imported:
        """As `import_archive`, from any URL that fsspec knows. Raises as that and `push` do."""
        with opened_url(url) as file:
            return self._import(ArchiveReader(file, shown(url)), name, progress)

    # Private

    def _named_by(self, exact: Tag) -> tuple[str, ...]:
        return tuple(alias for alias, version in self.aliases(exact.name).items() if version == exact.version)

    def _find(self, tag: Tag, trusted: bool) -> StoredVersion:
        for _ in range(_FIND_TRIES_MAX):
            exact = finding.resolve(self._models, tag)
            try:
                return self._read(exact, trusted)
            except VersionNotFound:
                if tag.version is not None:
                    raise
                # It was deleted between the two steps: there is another latest one now, or the alias has moved.
        raise StoreError(f"{tag} changes faster than it can be read")

    def _read(self, tag: Tag, trusted: bool) -> StoredVersion:
        return finding.read_version(self.home, self._models, tag, trusted=trusted)

    def _import(self, reader: ArchiveReader, name: str | None, progress: Progress | None) -> Imported:
        if name is not None:
            check_name(name)
        elif (there := already_there(self.home, self._models, reader.manifest)) is not None:
            return Imported(there, is_new=False)
        with self._draft() as draft, storage_errors(self.home, "imported"):
            tag = receive(self._models, draft, reader, name, progress)
        return Imported(self._read(tag, trusted=False), is_new=True)

    @contextmanager
    def _draft(self) -> Iterator[Draft]:
        with storage_errors(self.home):
            self._make_folders()
            self.sweep()
            draft = Draft(self._temporary / f"save-{secrets.token_hex(8)}")
        try:
            yield draft
        finally:
            draft.close()

    @contextmanager
    def _changing(self, name: str, undone: str) -> Iterator[None]:
        """Hold the lock of the model `name`. Raises ModelNotFound; what the disk refuses becomes a StoreError."""
        finding.resolve(self._models, Tag(check_name(name)))
        with storage_errors(self.home, undone):
            self._make_folders()
            try:
                with locked_folder(self._models / name):
                    yield
            except FileNotFoundError as error:
                raise ModelNotFound(f'model "{name}" was deleted meanwhile') from error

    def _make_folders(self) -> None:
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        make_folder(self._models)
        make_folder(self._temporary)


def _context() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms, and only saving needs it

    try:
        ours = version("paceline")
    except PackageNotFoundError:  # a bare checkout
        ours = "unknown"
    return {"paceline": ours, "python": platform.python_version(), "platform": platform.platform()}
