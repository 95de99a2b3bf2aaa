"""Objects that the user stores beside a model, by name: a tokenizer, class names, a preprocessing function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from paceline.protocol.errors import ConfigError, StoreError
from paceline.store import PendingVersion, StoredVersion, pickled

CUSTOM_FILE = "custom_objects.pkl"


def dump_custom_objects(custom_objects: Mapping[str, object] | None, modules: Sequence[ModuleType]) -> bytes | None:
    """The objects as bytes, classes of `modules` by value; None if there are none. Raises ConfigError."""
    if custom_objects is None:
        return None
    if not isinstance(custom_objects, Mapping):
        raise ConfigError(
            f"custom_objects is a {type(custom_objects).__name__}, "
            f'expected a mapping such as {{"tokenizer": tokenizer}}'
        )
    return pickled.dump(dict(custom_objects), what="custom_objects", by_value=modules)


def write_custom_objects(pending: PendingVersion, dumped: bytes | None) -> None:
    """Write the objects' file, if there are any."""
    if dumped is not None:
        pending.write(CUSTOM_FILE, [dumped])


def load_custom_objects(version: StoredVersion) -> dict[str, object]:
    """What was given as custom_objects; empty if nothing was. Runs code. Raises StoreError: not trusted, damaged."""
    version.require_trusted()
    if not version.manifest.has_file(CUSTOM_FILE):
        return {}
    what = f"{version.tag} (custom_objects)"
    saved_python = version.manifest.context.get("python", "")
    loaded = pickled.load(version.read(CUSTOM_FILE), what=what, saved_python=saved_python)
    if not isinstance(loaded, dict):
        raise StoreError(f"{what} holds a {type(loaded).__name__}, expected a dict")
    return loaded
