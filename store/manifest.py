"""The manifest of one stored version: what it is, what it offers, and the size and hash of every file.

One encoder and one decoder to JSON. `digest` identifies the content, `hmac` says "saved by this store". Read by the
supervisor, API server and CLI without torch; it knows nothing of folders or frameworks.
"""

from __future__ import annotations

import hashlib
import hmac as hmac_module
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import MethodSpec, spec_from_plain, spec_to_plain
from paceline.store.tags import Tag

MANIFEST_NAME = "manifest.json"
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
FORMAT = 1

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version: its name in the version's folder, size in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of one version without loading it.

    `context` names the versions it was saved with ("paceline", "python", "platform", "torch"). `created_at` is UTC,
    ISO 8601. `code_bearing`: loading it can run code that came with it. `digest` is the SHA-256 over framework, methods
    and files: equal digests load equal models. `hmac` is set by the store that saved it.
    """

    name: str
    version: str
    framework: str
    methods: dict[str, MethodSpec]
    files: tuple[FileEntry, ...]
    code_bearing: bool
    created_at: str
    labels: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    hmac: str = ""

    @property
    def tag(self) -> Tag:
        return Tag(self.name, self.version)

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.files)

    def has_file(self, path: str) -> bool:
        """Whether the version has a file `path`."""
        return any(entry.path == path for entry in self.files)

    def file(self, path: str) -> FileEntry:
        """The entry of the file `path`. Raises StoreError if the version has no such file."""
        for entry in self.files:
            if entry.path == path:
                return entry
        names = ", ".join(entry.path for entry in self.files)
        raise StoreError(f"{self.tag} has no file {path!r}; it has {names}")


def seal(manifest: Manifest, key: bytes | None) -> Manifest:
    """`manifest` with its digest and, by the store's `key`, its HMAC; without a key without one: saved elsewhere."""
    with_digest = replace(manifest, digest=content_digest(manifest), hmac="")
    return with_digest if key is None else replace(with_digest, hmac=_hmac(with_digest, key))


def is_sealed_by(manifest: Manifest, key: bytes) -> bool:
    """Whether `key` made this manifest's HMAC: the version was saved by the store that holds the key."""
    return hmac_module.compare_digest(manifest.hmac.encode(), _hmac(manifest, key).encode())


def content_digest(manifest: Manifest) -> str:
    """SHA-256 in hex over what decides how the version behaves: framework, methods, files."""
    content = {
        "framework": manifest.framework,
        "methods": [spec_to_plain(method) for method in manifest.methods.values()],
        "files": sorted([entry.path, entry.bytes, entry.sha256] for entry in manifest.files),
    }
    return hashlib.sha256(_canonical(content)).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON, UTF-8, one key a line."""
    return json.dumps(_to_plain(manifest), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode_manifest(data: bytes, tag: Tag) -> Manifest:
    """Read what `encode_manifest` wrote for `tag`. Raises StoreError for anything else, naming `tag`."""
    manifest = decode_foreign(data, str(tag))
    if manifest.tag != tag:
        raise StoreError(f"{tag}: its manifest says {manifest.tag}; the folder was renamed or copied by hand")
    return manifest


def decode_foreign(data: bytes, what: str) -> Manifest:
    """Read what `encode_manifest` wrote for any tag. Raises StoreError for anything else, naming `what`."""
    try:
        manifest = _from_plain(json.loads(data))
        encode_manifest(manifest)  # what JSON reads and cannot write: lone surrogates, NaN
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise StoreError(f"{what}: its manifest is damaged ({type(error).__name__}: {error})") from error
    if manifest.digest != content_digest(manifest):
        raise StoreError(f"{what}: its manifest is damaged (the digest does not match its content)")
    return manifest


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """The user's `labels`. Raises ConfigError unless they are strings by string."""
    if not isinstance(labels, Mapping):
        raise ConfigError(f'labels is {labels!r}, expected a mapping of strings such as {{"stage": "dev"}}')
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"labels: {key!r}: {value!r} is not a pair of strings; use metadata for other values")
    return dict(labels)


def checked_metadata(metadata: Mapping[str, object]) -> dict[str, object]:
    """The user's `metadata` as it will be read back: what is signed must be what the JSON says. Raises ConfigError."""
    if not isinstance(metadata, Mapping):
        raise ConfigError(f'metadata is {metadata!r}, expected a mapping such as {{"accuracy": 0.97}}')
    plain: dict[str, object] = {}
    for key, value in metadata.items():
        try:
            plain[str(key)] = json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"metadata[{key!r}] cannot be written as JSON: {error}") from error
    return plain


def is_file_name(path: str) -> bool:
    """Whether a version's file may be called `path`: one plain component, not hidden, not the manifest."""
    return _FILE_NAME.fullmatch(path) is not None and path != MANIFEST_NAME


def _hmac(manifest: Manifest, key: bytes) -> str:
    plain = _to_plain(replace(manifest, hmac=""))
    return hmac_module.new(key, _canonical(plain), "sha256").hexdigest()


def _canonical(plain: object) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _to_plain(manifest: Manifest) -> dict[str, object]:
    return {
        "format": FORMAT,
        "name": manifest.name,
        "version": manifest.version,
        "framework": manifest.framework,
        "methods": [spec_to_plain(method) for method in manifest.methods.values()],
        "labels": manifest.labels,
        "metadata": manifest.metadata,
        "context": manifest.context,
        "created_at": manifest.created_at,
        "code_bearing": manifest.code_bearing,
        "files": [{"path": entry.path, "bytes": entry.bytes, "sha256": entry.sha256} for entry in manifest.files],
        "digest": manifest.digest,
        "hmac": manifest.hmac,
    }


def _from_plain(plain: Mapping[str, object]) -> Manifest:
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']!r} is not {FORMAT}; a newer Paceline wrote it")
    methods = [spec_from_plain(_mapping(item)) for item in _sequence(plain["methods"])]
    files = tuple(_file(_mapping(item)) for item in _sequence(plain["files"]))
    if len({entry.path for entry in files}) < len(files):
        raise ValueError("a file is named twice")
    return Manifest(
        name=_text(plain["name"]),
        version=_text(plain["version"]),
        framework=_text(plain["framework"]),
        methods={method.name: method for method in methods},
        files=files,
        code_bearing=plain["code_bearing"] is not False,
        created_at=_text(plain["created_at"]),
        labels=_texts(plain["labels"]),
        metadata=dict(_mapping(plain["metadata"])),
        context=_texts(plain["context"]),
        digest=_text(plain["digest"]),
        hmac=_text(plain["hmac"]),
    )


def _file(plain: Mapping[str, object]) -> FileEntry:
    path, size, sha256 = _text(plain["path"]), plain["bytes"], _text(plain["sha256"])
    if not is_file_name(path):
        raise ValueError(f"file name {path!r} is not allowed")
    if type(size) is not int or size < 0 or not _SHA256.fullmatch(sha256):
        raise ValueError(f"file {path!r} has a bad size or hash")
    return FileEntry(path, size, sha256)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _texts(value: object) -> dict[str, str]:
    return {_text(key): _text(item) for key, item in _mapping(value).items()}


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not an object")
    return value


def _sequence(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not an array")
    return value
