"""What a model's methods take and return, learnt once when it is saved.

Names and count come from the Python (or TorchScript) signature; dtypes and shapes from the user's sample, which is run
once in eval and inference mode, so that a model that cannot run is not saved. The sample is kept for warming up.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from paceline.protocol.errors import ConfigError, StoreError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tree import Tree, named_leaves
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.tensors import file_chunks, read_tensors, wire_dtype
from paceline.store import PendingVersion, StoredVersion

SAMPLES_FILE = "sample_inputs.safetensors"
_STRUCTURE = "samples"
_PLAIN = (bool, int, float, str, type(None))


def complete_methods(
    methods: Mapping[str, MethodSpec],
    signatures: Mapping[str, inspect.Signature | None],
    calls: Mapping[str, Callable[..., object]],
    module: torch.nn.Module,
    sample_inputs: object,
) -> tuple[dict[str, MethodSpec], dict[str, Sample]]:
    """`methods` with their inputs and outputs filled in, and the samples by method.

    signatures: by method, None where unknown. calls: what to run. sample_inputs: as the user gave it. Raises
    ConfigError: the sample does not fit the signature, does not run, or its output does not batch.
    """
    device = _device(module)
    samples = {
        name: _bind(name, given, signatures[name], device) for name, given in _by_method(sample_inputs, methods).items()
    }
    completed = {}
    for name, method in methods.items():
        described = _describe_inputs(method, signatures[name], samples.get(name))
        if name in samples:
            with evaluating(module):
                described = _describe_outputs(described, calls[name], samples[name])
        completed[name] = described
    return completed, samples


def write_samples(pending: PendingVersion, samples: Mapping[str, Sample]) -> None:
    """Write the samples' file, if there are any."""
    if not samples:
        return
    tensors: dict[str, torch.Tensor] = {}
    structure = {
        name: {
            "args": [_encode(value, f"{name}.{index}", tensors) for index, value in enumerate(sample.args)],
            "kwargs": {key: _encode(value, f"{name}.{key}", tensors) for key, value in sample.kwargs.items()},
        }
        for name, sample in samples.items()
    }
    pending.write(SAMPLES_FILE, file_chunks(tensors, {_STRUCTURE: json.dumps(structure)}))


def read_samples(version: StoredVersion, device: str) -> dict[str, Sample]:
    """The samples by method, tensors on `device`; empty if the version has none. Raises StoreError."""
    if not version.manifest.has_file(SAMPLES_FILE):
        return {}
    what = f"{version.tag}/{SAMPLES_FILE}"
    tensors, metadata = read_tensors(version.map(SAMPLES_FILE), what)
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        return {
            name: Sample(
                tuple(_decode(item, on_device) for item in plain["args"]),
                {key: _decode(item, on_device) for key, item in plain["kwargs"].items()},
            )
            for name, plain in json.loads(metadata[_STRUCTURE]).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{what} holds no samples: {type(error).__name__}: {error}") from error


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode and inference mode; afterwards every submodule trains again that trained before."""
    training = [part for part in module.modules() if getattr(part, "training", False)]
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part in training:
            part.training = True


def _by_method(sample_inputs: object, methods: Mapping[str, MethodSpec]) -> dict[str, object]:
    """Whose sample it is: a dict whose keys are all methods is one sample for each, anything else the main method's."""
    if sample_inputs is None:
        return {}
    if isinstance(sample_inputs, Mapping) and sample_inputs and all(key in methods for key in sample_inputs):
        return dict(sample_inputs)
    main = "__call__" if "__call__" in methods else next(iter(methods))
    return {main: sample_inputs}


def _bind(name: str, given: object, signature: inspect.Signature | None, device: torch.device) -> Sample:
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = {}
    if isinstance(given, (torch.Tensor, np.ndarray)):
        args = (given,)
    elif isinstance(given, tuple):
        args = given
    elif isinstance(given, Mapping):
        kwargs = {str(key): value for key, value in given.items()}
    else:
        raise ConfigError(
            f"sample_inputs of {name} is a {type(given).__name__}, expected an array or tensor, a tuple of them in the "
            f"order of the parameters, or a dict of them by parameter name"
        )
    if signature is not None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ConfigError(f"sample_inputs do not fit {name}{signature}: {error}") from error
        args, kwargs = bound.args, bound.kwargs
    return Sample(
        tuple(_to_torch(value, f"{name}, argument {index}", device) for index, value in enumerate(args)),
        {key: _to_torch(value, f"{name}, argument {key!r}", device) for key, value in kwargs.items()},
    )


def _to_torch(value: object, where: str, device: torch.device) -> object:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().to(device)
    elif isinstance(value, (np.ndarray, np.generic)):
        tensor = torch.from_numpy(np.array(value)).to(device)  # a copy: it must not change under the store's hands
    elif isinstance(value, (list, tuple)):
        return type(value)(_to_torch(item, where, device) for item in value)
    elif isinstance(value, dict):
        return {key: _to_torch(item, where, device) for key, item in value.items()}
    elif isinstance(value, _PLAIN):
        return value
    else:
        raise ConfigError(f"sample_inputs of {where} is a {type(value).__name__}, expected an array or a tensor")
    if wire_dtype(tensor) is None:
        raise ConfigError(f"sample_inputs of {where} is {tensor.dtype}, which no request can carry")
    return tensor


def _describe_inputs(method: MethodSpec, signature: inspect.Signature | None, sample: Sample | None) -> MethodSpec:
    if signature is None:
        return replace(method, inputs=(), open_inputs=True)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.kind not in variable]
    values = signature.bind(*sample.args, **sample.kwargs).arguments if sample else {}
    rows = _rows(method, sample) if sample else -1
    inputs = tuple(
        _spec(
            parameter.name,
            values.get(parameter.name),
            method.batch_dim[0] if rows >= 0 else None,
            required=parameter.default is inspect.Parameter.empty,
        )
        for parameter in parameters
    )
    return replace(method, inputs=inputs, open_inputs=len(parameters) < len(signature.parameters))


def _rows(method: MethodSpec, sample: Sample) -> int:
    """The rows that all tensors of the sample share, -1 if the method does not batch. Raises ConfigError."""
    if not method.batchable:
        return -1
    dim = method.batch_dim[0]
    rows = -1
    for name, leaf in _leaves([*sample.args, sample.kwargs], "argument "):
        if not isinstance(leaf, torch.Tensor):
            continue
        if leaf.dim() <= dim:
            raise ConfigError(
                f"sample_inputs of {method.name}: {name} has shape {list(leaf.shape)}, without the batch dim {dim}; "
                f"add it (1 row is enough)"
            )
        if rows >= 0 and leaf.shape[dim] != rows:
            raise ConfigError(
                f"sample_inputs of {method.name} have {rows} and {leaf.shape[dim]} rows along batch dim {dim}; "
                f"expected the same"
            )
        rows = leaf.shape[dim]
    if rows < 1:
        raise ConfigError(
            f"sample_inputs of {method.name} hold no row along batch dim {dim}; expected a tensor of >= 1"
        )
    return rows


def _spec(name: str, value: object, batch_dim: int | None, *, required: bool = True) -> InputSpec:
    if not isinstance(value, torch.Tensor):
        return InputSpec(name, required=required)
    shape = [-1 if dim == batch_dim else size for dim, size in enumerate(value.shape)]
    return InputSpec(name, wire_dtype(value), tuple(shape), required)


def _describe_outputs(method: MethodSpec, call: Callable[..., object], sample: Sample) -> MethodSpec:
    try:
        result = call(*sample.args, **sample.kwargs)
    except Exception as error:
        raise ConfigError(
            f"{method.name} fails with its sample_inputs, so it is not saved: {type(error).__name__}: {error}. "
            f"The sample is {_shown(sample)}."
        ) from error
    rows = _rows(method, sample)
    outputs = []
    for name, leaf in _leaves(result, "output_"):
        if rows >= 0:
            _check_batched(method, name, leaf, rows)
        outputs.append(_spec(name, leaf, method.batch_dim[1] if rows >= 0 else None))
    return replace(method, outputs=tuple(outputs))


def _check_batched(method: MethodSpec, name: str, leaf: object, rows: int) -> None:
    dim = method.batch_dim[1]
    if isinstance(leaf, torch.Tensor) and (leaf.dim() <= dim or leaf.shape[dim] != rows):
        raise ConfigError(
            f"{method.name} is batchable, but its {name} has shape {list(leaf.shape)} for {rows} rows of input; "
            f"expected {rows} along batch dim {dim}. Set batch_dim=(input dim, output dim) or batchable=False."
        )
    if leaf is None or isinstance(leaf, (bool, int, float)):
        raise ConfigError(
            f"{method.name} is batchable, but its {name} is {leaf!r}, which cannot be split by rows; "
            f"return tensors, or set batchable=False"
        )


def _shown(sample: Sample) -> str:
    leaves = _leaves([*sample.args, sample.kwargs], "argument ")
    return ", ".join(
        f"{name}: {wire_dtype(leaf)}{list(leaf.shape)}" if isinstance(leaf, torch.Tensor) else f"{name}: {leaf!r}"
        for name, leaf in leaves
    )


def _leaves(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    """The names that the Open Inference Protocol will show, for a tree whose tensors are still torch's."""
    return iter(named_leaves(cast(Tree, value), prefix))


def _device(module: torch.nn.Module) -> torch.device:
    for tensor in [*module.parameters(), *module.buffers()]:
        return tensor.device
    return torch.device("cpu")


def _encode(value: object, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, object]:
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item, f"{name}.{key}", tensors) for key, item in value.items()}}
    return {"plain": value}


def _decode(plain: Mapping[str, object], tensors: Mapping[str, torch.Tensor]) -> object:
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[cast(str, value)]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in cast("dict[str, dict[str, object]]", value).items()}
    if kind in ("list", "tuple"):
        items = [_decode(item, tensors) for item in cast("list[dict[str, object]]", value)]
        return items if kind == "list" else tuple(items)
    return value
