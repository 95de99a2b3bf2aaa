"""The Open Inference Protocol's descriptions: of the server and of each model. Pure; called by App."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from paceline.api_server.catalog import ServedModel
from paceline.protocol.signature import InputSpec, MethodSpec

EXTENSIONS = ["binary_tensor_data", "parameters"]
_ANY_OUTPUT = InputSpec("output_0")


def server_metadata() -> dict[str, Any]:
    try:
        ours = version("paceline")
    except PackageNotFoundError:
        ours = "0+checkout"
    return {"name": "paceline", "version": ours, "extensions": EXTENSIONS}


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """Inputs and outputs are those of the default method; `parameters.methods` has each method's."""
    spec = model.spec
    methods = model.methods
    first = methods.get("__call__") or next(iter(methods.values()))
    described = _method(first)
    tensors = {"inputs": described["inputs"], "outputs": described["outputs"]}
    parameters: dict[str, Any] = {
        "unspecified": described["unspecified"],
        "method": first.name,
        "methods": {name: _method(method) for name, method in methods.items()},
        "aliases": list(spec.aliases),
        "digest": spec.digest,
        "max_batch_size": spec.max_batch_size,
    }
    named = {"name": spec.name, "versions": [spec.version], "platform": spec.framework}
    return named | tensors | {"parameters": parameters}


def _method(method: MethodSpec) -> dict[str, Any]:
    outputs = method.outputs or (_ANY_OUTPUT,)
    tensors = (*method.inputs, *outputs)
    return {
        "inputs": [_tensor(spec) for spec in method.inputs],
        "outputs": [_tensor(spec) for spec in outputs],
        "batchable": method.batchable,
        "unspecified": method.open_inputs or any(spec.shape is None or spec.dtype is None for spec in tensors),
    }


def _tensor(spec: InputSpec) -> dict[str, Any]:
    """Where nothing is known, the datatype is FP32 (the field is required) and the shape [-1]."""
    return {
        "name": spec.name,
        "datatype": spec.dtype.oip if spec.dtype is not None else "FP32",
        "shape": list(spec.shape) if spec.shape is not None else [-1],
    }
