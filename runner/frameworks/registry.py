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
    "torch_export": "paceline.runner.frameworks.torch_export",
    "onnx": "paceline.runner.frameworks.onnx",
}


class Framework(Protocol):
    """A framework's module."""

    def load(self, version: StoredVersion, device: str, threads: int | None) -> LoadedModel:
        """The model of `version`, in eval mode, on `device` ("cpu", "cuda:0"), from verified bytes.

        threads: of one operation, for runtimes that have threads of their own; None leaves it to them.
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


def load_model(version: StoredVersion, device: str = "cpu", threads: int | None = None) -> LoadedModel:
    """The model of `version` by its own framework, self-tested if it was saved so; see `Framework.load`.

    Raises StoreError also where its sample returns something else than when it was saved.
    """
    model = framework(version.manifest.framework).load(version, device, threads)
    from paceline.runner.frameworks.self_test import check_outputs  # it imports torch

    check_outputs(version, model, device)
    return model
