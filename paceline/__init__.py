"""Paceline serves PyTorch models; see README.md.

Names are imported when they are first used: `import paceline` alone loads neither torch nor numpy.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline import io, onnx, pytorch, torch_export, torchscript
    from paceline.client import AsyncClient, Client, ServerUnreachable
    from paceline.context import Context
    from paceline.handle import Runner
    from paceline.local_client import local
    from paceline.protocol.errors import (
        ConfigError,
        DeadlineExceeded,
        Draining,
        Forbidden,
        InfeasibleNow,
        Internal,
        InvalidInput,
        InvalidParameter,
        ModelError,
        ModelNotFound,
        ModelRejectedInput,
        NoWorker,
        PacelineError,
        PoisonInput,
        ProtocolError,
        QueueFull,
        Quota,
        RequestError,
        StartError,
        StoreError,
        TooLarge,
        Unauthorized,
        UnsupportedMediaType,
        VersionNotFound,
        WorkerLost,
    )
    from paceline.runnable import Runnable
    from paceline.service import Service

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "ConfigError",
    "Context",
    "DeadlineExceeded",
    "Draining",
    "Forbidden",
    "InfeasibleNow",
    "Internal",
    "InvalidInput",
    "InvalidParameter",
    "ModelError",
    "ModelNotFound",
    "ModelRejectedInput",
    "NoWorker",
    "PacelineError",
    "PoisonInput",
    "ProtocolError",
    "QueueFull",
    "Quota",
    "RequestError",
    "Runnable",
    "Runner",
    "ServerUnreachable",
    "Service",
    "StartError",
    "StoreError",
    "TooLarge",
    "Unauthorized",
    "UnsupportedMediaType",
    "VersionNotFound",
    "WorkerLost",
    "__version__",
    "io",
    "local",
    "onnx",
    "pytorch",
    "torch_export",
    "torchscript",
]

_MODULES = ("io", "onnx", "pytorch", "torch_export", "torchscript")
_HOMES = {
    "AsyncClient": "paceline.client",
    "Client": "paceline.client",
    "Context": "paceline.context",
    "Runnable": "paceline.runnable",
    "Runner": "paceline.handle",
    "ServerUnreachable": "paceline.client",
    "Service": "paceline.service",
    "local": "paceline.local_client",
}

if os.path.isfile(os.path.join(os.path.dirname(__file__), "protocol")):
    raise ImportError(
        "checkout without symlinks: paceline/protocol should be a link to ../protocol. Run "
        "`git config core.symlinks true` and check out again, or install the wheel."
    )


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name in _MODULES:
        return importlib.import_module(f"paceline.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}")
    home = _HOMES.get(name, "paceline.protocol.errors")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms, and few ask

    try:
        return version("paceline")
    except PackageNotFoundError:  # a bare checkout
        return "0+checkout"
