"""Save, load and find programs of torch.export: `paceline.torch_export.save(program, "my_model")`.

torch is imported when a program is saved or loaded, not with this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from paceline.model import Model, announce, check_order, get_model
from paceline.store import ModelStore, Tag

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

__all__ = ["get", "load_custom_objects", "load_model", "save", "save_model"]

_FRAMEWORK = "torch_export"


def save(
    model: ExportedProgram | Module,
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

    model: what torch.export.export returned; or an nn.Module, which is exported here with its `sample_inputs`, in eval
    mode, its batch dim free if it is batchable. A program has one method, `__call__`; dtypes, shapes and free dims of
    its inputs are its own. One that is exported in training mode stays in it: call `.eval()` on the module first.
    signatures: `{"__call__": {...}}`, with `batchable`, `batch_dim` (one int, or (input dim, output dim)),
    `max_batch_size` (by default the max of the program's batch dim), `latency_budget_ms` (milliseconds), `idempotent`,
    and for requests of different length `pad`, `mask`, `unpad` (docs/models.md); None means not batchable.
    external_modules: imported modules whose classes the custom objects need; the program brings its own code.
    labels: strings by string. metadata: anything that JSON can hold.
    custom_objects: anything that can be pickled, by name; read it back with `load_custom_objects`.
    sample_inputs: arguments of one call, as a tensor or array, a tuple of them, or a dict by parameter name; by default
    those that the program was exported with. The call is tried, and workers warm up with it.
    self_test: store what the sample returned; a worker where it returns something else fails to load, and says by how
    much. False for a model that is random on purpose.

    Raises ConfigError: not a program, arguments swapped, batchable with a fixed batch (says how to export it with
    torch.export.Dim), a signature or sample that does not fit. Raises StoreError: a bad name, a full disk. Nothing is
    stored then.

    >>> batch = {"x": {0: torch.export.Dim("batch")}}
    >>> program = torch.export.export(net.eval(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=batch)
    >>> str(paceline.torch_export.save(program, "my_model", signatures={"__call__": {"batchable": True}}))
    'my_model:1'
    """
    check_order(model, name, "paceline.torch_export.save(model, name)")
    from paceline.runner.frameworks import torch_export
    from paceline.runner.frameworks.samples import SAMPLES_FILE

    saved = Model(
        torch_export.save(
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
    announce(saved, sampled=saved.manifest.has_file(SAMPLES_FILE))
    return saved


def save_model(
    name: str,
    model: ExportedProgram | Module,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> Model:
    """`save` with the name first.

    >>> paceline.torch_export.save_model("my_model", program)
    Model('my_model:1')
    """
    check_order(model, name, "paceline.torch_export.save_model(name, model)")
    return save(model, name, signatures, external_modules, labels, metadata, custom_objects, sample_inputs, self_test)


def get(tag: str | Tag) -> Model:
    """The handle of a stored model, by "name", "name:version" or "name:latest"; nothing is loaded.

    Raises ModelNotFound (names the nearest), VersionNotFound (lists versions), StoreError (another framework's).

    >>> paceline.torch_export.get("my_model").manifest.methods["__call__"].batchable
    True
    """
    return get_model(tag, _FRAMEWORK)


def load_model(tag: str | Tag, device: str = "cpu", *, trust: bool = False) -> ExportedProgram:
    """The stored program itself, on `device`, from verified bytes; call its `.module()`.

    trust: load it even if this store did not save it: that can run code. Raises as `get` does, and StoreError if the
    version is damaged, is not trusted, or cannot be read by this torch.

    >>> paceline.torch_export.load_model("my_model").module()(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks import torch_export

    return torch_export.load_program(version, device)


def load_custom_objects(tag: str | Tag, *, trust: bool = False) -> dict[str, object]:
    """The custom_objects that were saved with a model; empty if none were. Raises as `load_model` does.

    >>> paceline.torch_export.load_custom_objects("my_model")["classes"][0]
    'plane'
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks.custom_objects import load_custom_objects

    return load_custom_objects(version)
