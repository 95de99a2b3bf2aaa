"""What a model's methods take and return, learnt once when it is saved.

Names and count come from the Python (or TorchScript) signature; dtypes and shapes from the user's sample, which is run
once in eval and inference mode, so that a model that cannot run is not saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch

from paceline.protocol.errors import ConfigError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tree import Tree, named_leaves
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.samples import bind_sample
from paceline.runner.frameworks.tensors import wire_dtype


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
        name: bind_sample(name, given, signatures[name], device)
        for name, given in _by_method(sample_inputs, methods).items()
    }
    completed = {}
    for name, method in methods.items():
        described = _describe_inputs(method, signatures[name], samples.get(name))
        if name in samples:
            with evaluating(module):
                described = _describe_outputs(described, calls[name], samples[name])
        completed[name] = described
    return completed, samples


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
