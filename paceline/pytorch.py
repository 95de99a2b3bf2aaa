"""Save, load and find PyTorch models: `paceline.pytorch.save(model, "my_model")`.

torch is imported when a model is saved or loaded, not with this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from paceline.model import Model, announce, check_order, get_model
from paceline.store import ModelStore, Tag

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["get", "load_custom_objects", "load_model", "save", "save_model"]

_FRAMEWORK = "pytorch"


def save(
    model: Module,
    name: str,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> Model:
    """Store `model` as a new version of `name` and return its handle; `str()` of that is "name:version".

    model: an nn.Module, in any mode, on any device; it stays as it is. Weights, buffers, tied tensors, dtypes, memory
    formats and plain attributes come back equal.
    signatures: by method, `batchable`, `batch_dim` (one int, or (input dim, output dim)), `max_batch_size`,
    `latency_budget_ms` (milliseconds), `idempotent`, and for requests of different length `pad`, `mask`, `unpad`
    (docs/models.md); None means `{"__call__": {"batchable": False}}`.
    external_modules: imported modules whose classes are stored with the model, for servers that do not have them.
    labels: strings by string. metadata: anything that JSON can hold.
    custom_objects: anything that can be pickled, by name; read it back with `load_custom_objects`.
    sample_inputs: arguments of one call, any dtype of the wire: a tensor or array, a tuple of them, or a dict by
    parameter name; or a dict of those by method. The call is tried, dtypes and shapes become part of the signature (the
    batch dim of a batchable method stays free), and workers warm up with it.
    self_test: store what the sample returned; a worker where it returns something else fails to load, and says by how
    much. False for a model that is random on purpose.

    Raises ConfigError: not a module, arguments swapped, a signature, sample or attribute that cannot be stored.
    Raises StoreError: a bad name, a full disk. Nothing is stored then.

    >>> str(paceline.pytorch.save(net, "my_model", signatures={"__call__": {"batchable": True, "batch_dim": 0}}))
    'my_model:1'
    """
    check_order(model, name, "paceline.pytorch.save(model, name)")
    from paceline.runner.frameworks import pytorch

    saved = Model(
        pytorch.save(
            ModelStore(),
            name,
            model,
            signatures=signatures,
            external_modules=external_modules,
            labels=labels,
            metadata=metadata,
            custom_objects=custom_objects,
            sample_inputs=sample_inputs,
            self_test=self_test,
        )
    )
    announce(saved, sampled=sample_inputs is not None)
    return saved


def save_model(
    name: str,
    model: Module,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> Model:
    """`save` with the name first.

    >>> paceline.pytorch.save_model("my_model", net)
    Model('my_model:1')
    """
    check_order(model, name, "paceline.pytorch.save_model(name, model)")
    return save(model, name, signatures, external_modules, labels, metadata, custom_objects, sample_inputs, self_test)


def get(tag: str | Tag) -> Model:
    """The handle of a stored model, by "name", "name:version" or "name:latest"; nothing is loaded.

    Raises ModelNotFound (names the nearest), VersionNotFound (lists versions), StoreError (another framework's).

    >>> paceline.pytorch.get("my_model").manifest.methods["__call__"].batchable
    True
    """
    return get_model(tag, _FRAMEWORK)


def load_model(tag: str | Tag, device: str = "cpu", *, trust: bool = False) -> Module:
    """The stored module itself, in eval mode, on `device`, from verified bytes.

    trust: load it even if this store did not save it: that can run code. Raises as `get` does, and StoreError if the
    version is damaged, is not trusted, or needs a class that cannot be imported.

    >>> paceline.pytorch.load_model("my_model")(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks import pytorch

    module: Module = pytorch.load(version, device).model  # type: ignore[assignment]  # `load` checks that it is one
    return module


def load_custom_objects(tag: str | Tag, *, trust: bool = False) -> dict[str, object]:
    """The custom_objects that were saved with a model; empty if none were. Raises as `load_model` does.

    >>> paceline.pytorch.load_custom_objects("my_model")["classes"][0]
    'plane'
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks.custom_objects import load_custom_objects

    return load_custom_objects(version)
