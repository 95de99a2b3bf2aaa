"""TorchScript modules in the store: the bytes of torch.jit.save.

Deprecated upstream, still loadable. The archive brings its own code, so the version is code-bearing.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import cast

import torch

from paceline.protocol.errors import ConfigError, StoreError, did_you_mean
from paceline.protocol.signature import parse_signatures
from paceline.runner.frameworks.custom_objects import dump_custom_objects, write_custom_objects
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.methods import Subject, complete_methods, device_of, evaluating, integers_of
from paceline.runner.frameworks.samples import read_samples
from paceline.runner.frameworks.self_test import allowance_for
from paceline.store import ModelStore, StoredVersion, pickled

FRAMEWORK = "torchscript"
SCRIPT_FILE = "model.ts"


def save(
    store: ModelStore,
    name: str,
    model: object,
    *,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> StoredVersion:
    """Store `model` (a torch.jit.ScriptModule) as a new version of `name`. Raises ConfigError, StoreError.

    external_modules: whose classes the custom objects need; the script itself brings all its code.
    """
    module = _checked_module(model)
    methods = parse_signatures(signatures)
    calls = {method: _callable(module, method) for method in methods}
    schemas = {method: _signature(module, method) for method in methods}
    subject = Subject(
        calls, schemas, device_of(module), lambda: evaluating(module), allowance_for(module), integers_of(module)
    )
    tried = complete_methods(methods, subject, sample_inputs, self_test=self_test)
    customs = dump_custom_objects(custom_objects, pickled.check_modules(external_modules))
    with store.create(
        name,
        framework=FRAMEWORK,
        methods=tried.methods,
        labels=labels,
        metadata=metadata,
        context={"torch": torch.__version__},
        code_bearing=True,
    ) as pending:
        with _no_deprecation_warnings():
            # To its place, not through memory, where it would be a second copy of the weights.
            module.save(str(pending.path / SCRIPT_FILE))
        tried.write(pending)
        write_custom_objects(pending, customs)
    return pending.saved


def load(version: StoredVersion, device: str, threads: int | None = None) -> LoadedModel:
    """The script module of `version`, in eval mode, on `device`. threads: as in `pytorch.load`.

    Raises StoreError: not trusted, damaged, unreadable by this torch.
    """
    version.require_trusted()
    # Read into memory, not mapped: torch.jit.load copies the tensors out of the archive in any case.
    script = io.BytesIO(version.read(SCRIPT_FILE))
    try:
        with _no_deprecation_warnings():
            module = torch.jit.load(script, map_location=device)  # type: ignore[no-untyped-call]  # torch's
    except RuntimeError as error:
        raise StoreError(f"{version.tag} cannot be read by torch {torch.__version__}: {error}") from error
    module.eval()
    return LoadedModel(module, tuple(version.manifest.methods), read_samples(version, device))


@contextmanager
def _no_deprecation_warnings() -> Iterator[None]:
    """torch says at every call that torch.jit is deprecated; the user who saves TorchScript has decided."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        yield


def _checked_module(model: object) -> torch.jit.ScriptModule:
    if isinstance(model, torch.jit.ScriptModule):
        return model
    if isinstance(model, torch.jit.ScriptFunction):
        raise ConfigError("the model is a scripted function, expected a ScriptModule; script a module that calls it")
    if isinstance(model, torch.nn.Module):
        raise ConfigError(
            f"the model is a plain {type(model).__name__}; save it with paceline.pytorch.save(model, name), "
            f"or script it first: torch.jit.script(model)"
        )
    raise ConfigError(f"the model is a {type(model).__name__}, expected a torch.jit.ScriptModule")


def _callable(module: torch.jit.ScriptModule, method: str) -> Callable[..., object]:
    known = list(module._c._method_names())
    if method == "__call__" and "forward" in known:
        return module
    if method not in known:
        hint = did_you_mean(method, known)
        methods = ", ".join("__call__" if name == "forward" else name for name in known)
        raise ConfigError(f"signatures: the script module has no method {method!r}.{hint} Its methods: {methods}.")
    return cast("Callable[..., object]", getattr(module, method))


def _signature(module: torch.jit.ScriptModule, method: str) -> inspect.Signature:
    """From the TorchScript schema: a traced method has no Python signature."""
    schema = module._c._get_method("forward" if method == "__call__" else method).schema
    return inspect.Signature(
        [
            inspect.Parameter(
                argument.name,
                inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=argument.default_value if argument.has_default_value() else inspect.Parameter.empty,
            )
            for argument in schema.arguments[1:]
        ]
    )
