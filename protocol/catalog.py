"""What is served, by the names that clients use: models, their versions and aliases, their methods.

Built once from the ServeSpec, by API servers and native clients alike. Knows nothing of HTTP or of hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from paceline.protocol.errors import ModelNotFound, VersionNotFound, did_you_mean
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.spec import RunnerSpec, ServeSpec

LATEST = "latest"
_ANY_OUTPUT = InputSpec("output_0")


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One runner under its public name. `versions` are all names of the one version that it serves."""

    spec: RunnerSpec
    methods: dict[str, MethodSpec]
    versions: frozenset[str]


class Catalog:
    """The models of one server."""

    def __init__(self, serve: ServeSpec) -> None:
        self.models = {
            runner.name: ServedModel(
                spec=runner,
                methods={method.name: method for method in runner.methods},
                versions=frozenset((runner.version, LATEST, *runner.aliases)),
            )
            for runner in serve.runners
        }

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model that `name` and `version` (None = the served one) mean. Raises ModelNotFound, VersionNotFound."""
        model = self.models.get(name)
        if model is None:
            known = ", ".join(self.models) or "none"
            hint = did_you_mean(name, self.models)
            raise ModelNotFound(f"model {name[:128]!r} is not served.{hint} Served: {known}.")
        if version is not None and version not in model.versions:
            hint = did_you_mean(version, model.versions)
            raise VersionNotFound(
                f"model {name!r} has no version {version[:128]!r} here.{hint} Served: {model.spec.version}."
            )
        return model


def model_metadata(model: ServedModel) -> dict[str, Any]:
    """The Open Inference Protocol's description of a model. Inputs and outputs are those of the default method;
    `parameters.methods` has each method's."""
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
    inputs = method.request_inputs
    tensors = (*inputs, *outputs)
    return {
        "inputs": [_tensor(spec) for spec in inputs],
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
