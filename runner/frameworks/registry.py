"""Which module writes and reads which framework's models. Importing this imports no framework."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from paceline.protocol.errors import StoreError, did_you_mean
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.store import StoredVersion

FRAMEWORKS = {
    "pytorch": "paceline.runner.frameworks.pytorch",
    "torchscript": "paceline.runner.frameworks.torchscript",
}


class Framework(Protocol):
    """A framework's module."""

    def load(self, version: StoredVersion, device: str) -> LoadedModel:
        """The model of `version`, in eval mode, on `device` ("cpu", "cuda:0"), from verified bytes.

        Raises StoreError: not trusted, damaged, a class that cannot be imported.
        """


def framework(name: str) -> Framework:
    """The module of the framework `name`, imported now. Raises StoreError if this Paceline has none such.

    >>> framework("pytorch").load(store.get("net"), "cpu").bound("__call__")(batch)
    """
    path = FRAMEWORKS.get(name)
    if path is None:
        raise StoreError(
            f"framework {name!r} is unknown.{did_you_mean(name, FRAMEWORKS)} Known: {', '.join(FRAMEWORKS)}."
        )
    return cast(Framework, import_module(path))


def load_model(version: StoredVersion, device: str = "cpu") -> LoadedModel:
    """The model of `version` by its own framework; see `Framework.load`."""
    return framework(version.manifest.framework).load(version, device)
