"""Runnables: classes of the user's own, imported by name and made with their parameters. Nothing of them is stored."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys

import msgpack

from paceline.protocol.errors import StartError, did_you_mean
from paceline.runner.frameworks.loaded import LoadedModel

FRAMEWORK = "runnable"


def load_runnable(target: str, init: bytes, device: str) -> LoadedModel:
    """An object of the class `target` ("module:qualname"), with the parameters that `init` holds in MessagePack.

    device: torch's name of it, which a parameter `device` gets if `init` has none. Raises StartError if there is no
    such class, and whatever its `__init__` raises.
    """
    found = _found(target)
    methods = getattr(found, "__paceline_methods__", None)
    if not isinstance(found, type) or methods is None:
        raise StartError(f"{target} is no Runnable; expected a class that derives from paceline.Runnable")
    parameters = msgpack.unpackb(init)
    if "device" in inspect.signature(found).parameters:
        parameters.setdefault("device", device)
    return LoadedModel(found(**parameters), tuple(methods()))


def _found(target: str) -> object:
    module_name, _, qualname = target.partition(":")
    # A module that starts its runner while it is being imported is there, but cannot be imported once more.
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    try:
        return functools.reduce(getattr, qualname.split("."), module)
    except AttributeError as error:
        hint = did_you_mean(qualname, [name for name, value in vars(module).items() if isinstance(value, type)])
        raise StartError(f"module {module_name} has no {qualname!r}.{hint}") from error
