"""The one module that may pickle: a model's object without its tensors, and the user's custom objects.

Classes and functions go by reference where a fresh process can import them, by value (cloudpickle) where it cannot:
those of `__main__`, and of the modules that the user names. Reading runs code, so callers ask `require_trusted` first.
"""

from __future__ import annotations

import io
import pickle
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import cloudpickle

from paceline.protocol.errors import ConfigError, StoreError

# Code by value is bytecode of one Python minor version; its pickles name this module.
_BY_VALUE_MARK = b"cloudpickle.cloudpickle"

_by_value_lock = threading.Lock()


def dump(
    value: object,
    *,
    what: str,
    by_value: Sequence[ModuleType] = (),
    persistent_id: Callable[[object], object] = lambda _: None,
) -> bytes:
    """`value` as bytes. persistent_id: what to write instead of an object, None = the object itself.

    by_value: modules whose classes and functions are written whole. Raises ConfigError naming `what` and what in it
    cannot be pickled.
    """
    stream = io.BytesIO()
    with _registered(by_value):
        try:
            _Pickler(stream, persistent_id).dump(value)
        except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"{what} cannot be saved: {error}. Remove the attribute that holds it, or make it in a __setstate__."
            ) from error
    return stream.getvalue()


def load(
    data: bytes,
    *,
    what: str,
    saved_python: str = "",
    persistent_load: Callable[[object], object] | None = None,
) -> object:
    """What `dump` wrote. Runs code. saved_python: version of the Python that wrote it, such as "3.11.7".

    Raises StoreError naming `what`: a class that cannot be imported, or bytecode of another Python.
    """
    here = platform.python_version()
    if _BY_VALUE_MARK in data and saved_python and _minor(saved_python) != _minor(here):
        raise StoreError(
            f"{what} holds classes by value, saved by Python {saved_python}; this is Python {here}, which cannot read "
            f"their bytecode. Save it again with this Python, or put the classes in a module that can be imported."
        )
    try:
        return _Unpickler(io.BytesIO(data), persistent_load).load()
    except _NotFound as error:
        raise StoreError(
            f"{what} needs {error.module}.{error.name}, which this process cannot import: {error.__cause__}. Install "
            f"{error.module} or put it on PYTHONPATH, or save the model again with external_modules=[{error.package}] "
            f"to store the code with it."
        ) from error
    except (ImportError, AttributeError) as error:
        raise StoreError(
            f"{what} needs something that this process does not have: {error}. Install its module or put it on "
            f"PYTHONPATH, or save the model again with external_modules=[the module] to store the code with it."
        ) from error


def check_modules(external_modules: object) -> tuple[ModuleType, ...]:
    """`external_modules` as the user gave it, None = none. Raises ConfigError unless it is a sequence of modules."""
    if external_modules is None:
        return ()
    if isinstance(external_modules, ModuleType):
        raise ConfigError("external_modules is a module, expected a list: external_modules=[my_models]")
    if not isinstance(external_modules, (list, tuple)):
        raise ConfigError(f"external_modules is {external_modules!r}, expected a list of modules: [my_models]")
    for module in external_modules:
        if not isinstance(module, ModuleType):
            raise ConfigError(f"external_modules holds {module!r}, expected imported modules: import it and pass it")
    return tuple(external_modules)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def __init__(self, stream: io.BytesIO, persistent_id: Callable[[object], object]) -> None:
        super().__init__(stream)
        self._persistent_id = persistent_id

    def persistent_id(self, value: object) -> object:
        return self._persistent_id(value)


class _NotFound(Exception):
    """A class or function that a pickle names is not here; the cause says why."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, name)
        self.module, self.name = module, name

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, persistent_load: Callable[[object], object] | None) -> None:
        super().__init__(stream)
        self._persistent_load = persistent_load

    def find_class(self, module_name: str, global_name: str) -> object:
        try:
            return super().find_class(module_name, global_name)
        except (ImportError, AttributeError) as error:
            raise _NotFound(module_name, global_name) from error

    def persistent_load(self, pid: object) -> object:
        if self._persistent_load is None:
            raise pickle.UnpicklingError("the pickle refers to objects stored beside it; none were expected")
        return self._persistent_load(pid)


@contextmanager
def _registered(modules: Sequence[ModuleType]) -> Iterator[None]:
    """Have cloudpickle write `modules` by value meanwhile; the registry is global, so one save at a time."""
    with _by_value_lock:
        fresh = [module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
        for module in fresh:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in fresh:
                cloudpickle.unregister_pickle_by_value(module)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
