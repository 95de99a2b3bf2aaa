"""Save, load and find TorchScript models: `paceline.torchscript.save(model, "my_model")`.

torch is imported when a model is saved or loaded, not with this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from paceline.model import Model, announce, check_order, get_model
from paceline.store import ModelStore, Tag

if TYPE_CHECKING:
    from torch.jit import ScriptModule

__all__ = ["get", "load_custom_objects", "load_model", "save", "save_model"]

_FRAMEWORK = "torchscript"


def save(
    model: ScriptModule,
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

    model: a scripted, traced or frozen module (torch.jit.ScriptModule), in any mode, on any device; it stays as it is.
    torch.jit is deprecated upstream but still loads; its warnings are kept quiet here.
    signatures: by method, `batchable`, `batch_dim` (one int, or (input dim, output dim)), `max_batch_size`,
    `latency_budget_ms` (milliseconds), `idempotent`, and for requests of different length `pad`, `mask`, `unpad`
    (docs/models.md); None means `{"__call__": {"batchable": False}}`.
    external_modules: imported modules whose classes the custom objects need; the script brings its own code.
    labels: strings by string. metadata: anything that JSON can hold.
    custom_objects: anything that can be pickled, by name; read it back with `load_custom_objects`.
    sample_inputs: arguments of one call, any dtype of the wire: a tensor or array, a tuple of them, or a dict by
    parameter name; or a dict of those by method. The call is tried, dtypes and shapes become part of the signature (the
    batch dim of a batchable method stays free), and workers warm up with it.
    self_test: store what the sample returned; a worker where it returns something else fails to load, and says by how
    much. False for a model that is random on purpose.

    Raises ConfigError: not a ScriptModule, arguments swapped, a signature, sample or object that cannot be stored.
    Raises StoreError: a bad name, a full disk. Nothing is stored then.

    >>> script = torch.jit.script(net)
    >>> str(paceline.torchscript.save(script, "my_model", signatures={"__call__": {"batchable": True}}))
    'my_model:1'
    """
    check_order(model, name, "paceline.torchscript.save(model, name)")
    from paceline.runner.frameworks import torchscript

    saved = Model(
        torchscript.save(
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
    model: ScriptModule,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> Model:
    """`save` with the name first.

    >>> paceline.torchscript.save_model("my_model", torch.jit.script(net))
    Model('my_model:1')
    """
    check_order(model, name, "paceline.torchscript.save_model(name, model)")
    return save(model, name, signatures, external_modules, labels, metadata, custom_objects, sample_inputs, self_test)


def get(tag: str | Tag) -> Model:
    """The handle of a stored model, by "name", "name:version" or "name:latest"; nothing is loaded.

    Raises ModelNotFound (names the nearest), VersionNotFound (lists versions), StoreError (another framework's).

    >>> paceline.torchscript.get("my_model").manifest.methods["__call__"].batchable
    True
    """
    return get_model(tag, _FRAMEWORK)


def load_model(tag: str | Tag, device: str = "cpu", *, trust: bool = False) -> ScriptModule:
    """The stored module itself, in eval mode, on `device`, from verified bytes.

    trust: load it even if this store did not save it: that can run code. Raises as `get` does, and StoreError if the
    version is damaged, is not trusted, or needs a class that cannot be imported.

    >>> paceline.torchscript.load_model("my_model")(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks import torchscript

    module: ScriptModule = torchscript.load(version, device).model  # type: ignore[assignment]  # torch.jit.load returns one
    return module


def load_custom_objects(tag: str | Tag, *, trust: bool = False) -> dict[str, object]:
    """The custom_objects that were saved with a model; empty if none were. Raises as `load_model` does.

    >>> paceline.torchscript.load_custom_objects("my_model")["classes"][0]
    'plane'
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks.custom_objects import load_custom_objects

    return load_custom_objects(version)
