"""Save, load and find ONNX models: `paceline.onnx.save("model.onnx", "my_model")`. Needs the extra `onnx`.

onnxruntime is imported when a model is saved or loaded, not with this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from paceline.model import Model, announce, check_order, get_model
from paceline.protocol.errors import ConfigError
from paceline.store import ModelStore, Tag

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

__all__ = ["get", "load_custom_objects", "load_model", "save", "save_model"]

_FRAMEWORK = "onnx"


def save(
    model: str | os.PathLike[str] | bytes | ModelProto,
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

    model: the path of an .onnx file (weights in files beside it come along), its bytes, or an onnx.ModelProto. It has
    one method, `__call__`; names, dtypes, shapes and free dims of its inputs and outputs are its own.
    signatures: `{"__call__": {...}}`, with `batchable`, `batch_dim` (one int, or (input dim, output dim)),
    `max_batch_size`, `latency_budget_ms` (milliseconds), `idempotent`, and for requests of different length `pad`,
    `mask`, `unpad` (docs/models.md); None means not batchable.
    external_modules: imported modules whose classes the custom objects need.
    labels: strings by string. metadata: anything that JSON can hold.
    custom_objects: anything that can be pickled, by name; read it back with `load_custom_objects`.
    sample_inputs: arguments of one call, as a tensor or array, a tuple of them, or a dict by input name. The call is
    tried, and workers warm up with it.
    self_test: store what the sample returned; a worker where it returns something else fails to load, and says by how
    much. False for a model that is random on purpose.

    Raises ConfigError: no ONNX model, one that onnxruntime cannot run, onnxruntime is not installed, arguments swapped,
    batchable with a fixed batch (says how to export it), a signature or sample that does not fit. Raises StoreError: a
    bad name, a full disk. Nothing is stored then.

    >>> torch.onnx.export(net, (torch.zeros(2, 3, 32, 32),), "net.onnx", dynamo=True, dynamic_shapes=batch)
    >>> str(paceline.onnx.save("net.onnx", "my_model", signatures={"__call__": {"batchable": True}}))
    'my_model:1'
    """
    _check_order(model, name, "paceline.onnx.save(model, name)")
    from paceline.runner.frameworks import onnx

    saved = Model(
        onnx.save(
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
    model: str | os.PathLike[str] | bytes | ModelProto,
    signatures: Mapping[str, Mapping[str, object]] | None = None,
    external_modules: Sequence[ModuleType] | None = None,
    labels: Mapping[str, str] | None = None,
    metadata: Mapping[str, object] | None = None,
    custom_objects: Mapping[str, object] | None = None,
    sample_inputs: object = None,
    self_test: bool = True,
) -> Model:
    """`save` with the name first.

    >>> paceline.onnx.save_model("my_model", "net.onnx")
    Model('my_model:1')
    """
    _check_order(model, name, "paceline.onnx.save_model(name, model)")
    return save(model, name, signatures, external_modules, labels, metadata, custom_objects, sample_inputs, self_test)


def get(tag: str | Tag) -> Model:
    """The handle of a stored model, by "name", "name:version" or "name:latest"; nothing is loaded.

    Raises ModelNotFound (names the nearest), VersionNotFound (lists versions), StoreError (another framework's).

    >>> paceline.onnx.get("my_model").manifest.methods["__call__"].batchable
    True
    """
    return get_model(tag, _FRAMEWORK)


def load_model(tag: str | Tag, device: str = "cpu", *, threads: int | None = None) -> InferenceSession:
    """An onnxruntime.InferenceSession of the stored model, on `device`, from verified bytes.

    threads: of one operation; None = as many as cores. Raises as `get` does, StoreError if the version is damaged, and
    ConfigError if onnxruntime, or on a GPU its GPU build, is not installed.

    >>> paceline.onnx.load_model("my_model").run(None, {"x": numpy.zeros((1, 3, 32, 32), "float32")})[0].shape
    (1, 10)
    """
    version = get_model(tag, _FRAMEWORK).version
    from paceline.runner.frameworks import onnx

    session: InferenceSession = onnx.load_session(version, device, threads).runtime
    return session


def load_custom_objects(tag: str | Tag, *, trust: bool = False) -> dict[str, object]:
    """The custom_objects that were saved with a model; empty if none were.

    trust: load them even if this store did not save them: that can run code. Raises as `get` does, and StoreError if
    the version is damaged or not trusted.

    >>> paceline.onnx.load_custom_objects("my_model")["classes"][0]
    'plane'
    """
    version = get_model(tag, _FRAMEWORK, trust=trust).version
    from paceline.runner.frameworks.custom_objects import load_custom_objects

    return load_custom_objects(version)


def _check_order(model: object, name: object, call: str) -> None:
    """As `check_order`, where the model may be a path, so a string too."""
    if isinstance(name, str) and name.endswith(".onnx") and not (isinstance(model, str) and model.endswith(".onnx")):
        raise ConfigError(f"model and name are swapped: expected {call}, got the path {name!r} where the name goes")
    check_order(model, name, call)
