"""The Open Inference Protocol's description of the server. Called by App."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

EXTENSIONS = ["binary_tensor_data", "parameters"]


def server_metadata() -> dict[str, Any]:
    try:
        ours = version("paceline")
    except PackageNotFoundError:
        ours = "0+checkout"
    return {"name": "paceline", "version": ours, "extensions": EXTENSIONS}
