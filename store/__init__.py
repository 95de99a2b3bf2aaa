"""Models on disk: tags, versions, manifests, atomic writes."""

from paceline.store.manifest import FileEntry, Manifest
from paceline.store.model_store import Deleted, Imported, ModelStore, PendingVersion, default_home
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import Tag, parse_tag

__all__ = [
    "Deleted",
    "FileEntry",
    "Imported",
    "Manifest",
    "ModelStore",
    "PendingVersion",
    "StoredVersion",
    "Tag",
    "default_home",
    "parse_tag",
]
