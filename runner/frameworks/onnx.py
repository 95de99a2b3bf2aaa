"""ONNX models in the store: the model's own file, and the files beside it that hold its weights.

Dtypes, shapes and free dims are the model's own. A graph runs no code of its user's, so the version is not
code-bearing unless custom objects come with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import ModuleType

import torch

from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec, MethodSpec, parse_signatures
from paceline.runner.frameworks.custom_objects import dump_custom_objects, write_custom_objects
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.methods import Subject, complete_methods
from paceline.runner.frameworks.onnx_file import file_chunks, locations, read_source
from paceline.runner.frameworks.onnx_session import Port, Session, make_session, runtime_version, try_session
from paceline.runner.frameworks.samples import read_samples
from paceline.runner.frameworks.torch_export import CALL, only_call
from paceline.store import ModelStore, StoredVersion, pickled

FRAMEWORK = "onnx"
MODEL_FILE = "model.onnx"


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
    """Store `model` (the path of an .onnx file, its bytes, or an onnx.ModelProto) as a new version of `name`.

    external_modules: whose classes the custom objects need. Raises ConfigError (also where onnxruntime is missing or
    cannot run the model), StoreError.
    """
    method = only_call(parse_signatures(signatures), "an ONNX model")
    source = read_source(model)
    session = try_session(source.model)
    inputs = tuple(port.spec(port.name) for port in session.inputs)
    outputs = _outputs(session)
    if method.batchable and inputs:
        _check_batch(session, method)
    subject = Subject({CALL: session}, {CALL: _signature(inputs)}, torch.device("cpu"), nullcontext)
    tried = complete_methods({CALL: method}, subject, _renamed(sample_inputs, inputs), self_test=self_test)
    described = replace(tried.methods[CALL], inputs=inputs, outputs=outputs, open_inputs=False)
    customs = dump_custom_objects(custom_objects, pickled.check_modules(external_modules))
    with store.create(
        name,
        framework=FRAMEWORK,
        methods={CALL: described},
        labels=labels,
        metadata=metadata,
        context={"onnxruntime": runtime_version(), "torch": torch.__version__},
        code_bearing=customs is not None,
    ) as pending:
        pending.write(MODEL_FILE, source.chunks())
        for index, path in enumerate(source.beside.values()):
            pending.write(_beside_file(index), file_chunks(path))
        tried.write(pending)
        write_custom_objects(pending, customs)
    return pending.saved


def load(version: StoredVersion, device: str, threads: int | None = None) -> LoadedModel:
    """A session of the model of `version` on `device`, with `threads` (None = as many as cores), as a callable.

    Raises StoreError: damaged, not a model that onnxruntime can run. Raises ConfigError: onnxruntime is missing.
    """
    return LoadedModel(load_session(version, device, threads), (CALL,), read_samples(version, "cpu"))


def load_session(version: StoredVersion, device: str, threads: int | None = None) -> Session:
    """The session of a stored model. Raises as `load` does."""
    model = version.read(MODEL_FILE)
    try:
        named = locations(model)
        beside = {location: version.map(_beside_file(index)) for index, location in enumerate(named)}
        return make_session(model, beside, device, threads)
    except ValueError as error:
        raise StoreError(f"{version.tag} holds no ONNX model: {error}") from error
    except StoreError as error:
        raise StoreError(f"{version.tag}: {error}") from error


def _beside_file(index: int) -> str:
    """The model names its files as it likes; in the store they are numbered."""
    return f"weights_{index}.bin"


def _outputs(session: Session) -> tuple[InputSpec, ...]:
    """As `Session` returns them, in the names of the protocol."""
    ports = session.outputs
    if len(ports) == 1:
        return (ports[0].spec("output_0"),)
    return tuple(port.spec(port.name) for port in ports)


def _check_batch(session: Session, method: MethodSpec) -> None:
    """Raise ConfigError unless the batch dims of all inputs and outputs are free."""
    dim_in, dim_out = method.batch_dim
    remedy = (
        f'export it with a free one, torch.onnx.export(model, args, "model.onnx", dynamo=True, dynamic_shapes='
        f'{{{session.inputs[0].name!r}: {{{dim_in}: torch.export.Dim("batch")}}, ...}}), with args of 2 rows or more; '
        f'or save it with "batchable": False'
    )
    for what, ports, dim in (("input", session.inputs, dim_in), ("output", session.outputs, dim_out)):
        for port in ports:
            _check_free(what, port, dim, remedy)


def _check_free(what: str, port: Port, dim: int, remedy: str) -> None:
    if port.shape is None:
        return
    if dim >= len(port.shape):
        raise ConfigError(f"{what} {port.name!r} of the ONNX model has {len(port.shape)} dims, without batch dim {dim}")
    if port.shape[dim] != -1:
        raise ConfigError(
            f"{what} {port.name!r} of the ONNX model has a fixed batch of {port.shape[dim]} along dim {dim}; {remedy}"
        )


def _parameter_names(inputs: Sequence[InputSpec]) -> list[str]:
    """A graph's names may be anything ("input.1"); those that Python does not allow are numbered."""
    return [spec.name if spec.name.isidentifier() else f"input_{at}" for at, spec in enumerate(inputs)]


def _signature(inputs: Sequence[InputSpec]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in _parameter_names(inputs)])


def _renamed(sample_inputs: object, inputs: Sequence[InputSpec]) -> object:
    """A sample by the graph's names as one by the parameters'; any other as it is."""
    if not isinstance(sample_inputs, Mapping):
        return sample_inputs
    names = dict(zip([spec.name for spec in inputs], _parameter_names(inputs)))
    return {names.get(name, name): value for name, value in sample_inputs.items()}
