"""What a model's methods take and return, learnt once when it is saved.

Names and count come from the Python (or TorchScript) signature; dtypes and shapes from the user's sample, which is run
once in eval and inference mode, so that a model that cannot run is not saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ConfigError
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tree import Tree, named_leaves
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.padded_sample import (
    as_called,
    at_length,
    check_names,
    other_length,
    sample_length,
    without_mask,
)
from paceline.runner.frameworks.samples import bind_sample, write_samples
from paceline.runner.frameworks.self_test import Allowance, Outputs, comparable, difference, write_expected
from paceline.runner.frameworks.tensors import wire_dtype
from paceline.store import PendingVersion


@dataclass(frozen=True, slots=True)
class Subject:
    """A model at the time when it is saved. `calls`: what to run, by method; `signatures`: None where unknown;
    `integers`: see MethodSpec."""

    calls: Mapping[str, Callable[..., object]]
    signatures: Mapping[str, inspect.Signature | None]
    device: torch.device
    running: Callable[[], AbstractContextManager[object]]
    allowance: Allowance = field(default_factory=Allowance)
    integers: DType = dtypes.I64


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of the methods now; the samples and what they returned, by method."""

    methods: dict[str, MethodSpec]
    samples: dict[str, Sample]
    outputs: dict[str, Outputs]
    device: str

    def write(self, pending: PendingVersion) -> None:
        """Write samples and outputs, where there are any."""
        write_samples(pending, self.samples)
        write_expected(pending, self.outputs, self.device)


def complete_methods(
    methods: Mapping[str, MethodSpec], subject: Subject, sample_inputs: object, *, self_test: bool = True
) -> Tried:
    """`methods` with their inputs and outputs filled in, and what was tried to learn them.

    sample_inputs: as the user gave it. self_test: keep what the samples returned. Raises ConfigError: the sample does
    not fit the signature, does not run, its output does not batch, or is another one when it is run again.
    """
    signatures = subject.signatures
    for name, method in methods.items():
        check_names(method, signatures[name])
    given = {
        name: bind_sample(name, sample, signatures[name], subject.device, methods[name].mask)
        for name, sample in _by_method(sample_inputs, methods).items()
    }
    tried = Tried({}, {}, {}, subject.device.type)
    for name, method in methods.items():
        described = _describe_inputs(method, signatures[name], given.get(name))
        if name in given:
            sample = tried.samples[name] = without_mask(given[name], signatures[name], method.mask)
            with subject.running():
                result, described = _describe_outputs(described, subject.calls[name], sample)
                if self_test:
                    tried.outputs[name] = _repeated(described, subject, sample, comparable(result))
        tried.methods[name] = replace(described, integers=subject.integers)
    return tried


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode and inference mode."""
    with eval_mode(module), torch.inference_mode():
        yield


@contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """Eval mode; afterwards every submodule trains again that trained before."""
    training = [part for part in module.modules() if getattr(part, "training", False)]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def device_of(module: torch.nn.Module) -> torch.device:
    """Where its first tensor is; the CPU if it has none."""
    for tensor in [*module.parameters(), *module.buffers()]:
        return tensor.device
    return torch.device("cpu")


def integers_of(module: torch.nn.Module) -> DType:
    """What whole numbers become as inputs: the dtype of the first floating parameter, unless the first layer takes
    them as they are."""
    first = next(part for part in module.modules() if next(part.children(), None) is None)
    kind = str(getattr(first, "original_name", type(first).__name__))  # of a scripted module
    floating = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    dtype = wire_dtype(floating[0]) if floating and not kind.startswith("Embedding") else None
    return dtypes.I64 if dtype in (None, dtypes.BF16) else dtype


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
    values = signature.bind_partial(*sample.args, **sample.kwargs).arguments if sample else {}
    if sample:
        _rows(method, without_mask(sample, signature, method.mask))
    inputs = tuple(_input(method, parameter, values.get(parameter.name)) for parameter in parameters)
    return replace(method, inputs=inputs, open_inputs=len(parameters) < len(signature.parameters))


def _input(method: MethodSpec, parameter: inspect.Parameter, value: object) -> InputSpec:
    if parameter.name == method.mask:
        return InputSpec(parameter.name, wire_dtype(value) if isinstance(value, torch.Tensor) else None, required=False)
    free = {method.batch_dim[0]} if method.batchable else set()
    padding = method.padding
    if padding is not None and isinstance(value, torch.Tensor) and padding.covers(parameter.name, value.dim()):
        free.add(padding.dim)
    return _spec(parameter.name, value, free, required=parameter.default is inspect.Parameter.empty)


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


def _spec(name: str, value: object, free: Collection[int], *, required: bool = True) -> InputSpec:
    if not isinstance(value, torch.Tensor):
        return InputSpec(name, required=required)
    shape = [-1 if dim in free else size for dim, size in enumerate(value.shape)]
    return InputSpec(name, wire_dtype(value), tuple(shape), required)


def _describe_outputs(method: MethodSpec, call: Callable[..., object], sample: Sample) -> tuple[object, MethodSpec]:
    """What the method returns, and `method` with it."""
    trial = _try_padded(method, method.padding, call, sample) if method.padding else _Trial(_try(method, call, sample))
    rows = _rows(method, sample)
    outputs = []
    for name, leaf in _leaves(trial.result, "output_"):
        if rows >= 0:
            _check_batched(method, name, leaf, rows)
        free = {method.batch_dim[1]} if rows >= 0 else set()
        outputs.append(_spec(name, leaf, free | trial.following(name, leaf)))
    return trial.result, replace(method, outputs=tuple(outputs))


def _repeated(method: MethodSpec, subject: Subject, sample: Sample, outputs: Outputs) -> Outputs:
    """`outputs`, if another call returns them too: else each load would fail, and better this save."""
    again = _try(method, subject.calls[method.name], as_called(method, sample))
    told = difference(outputs, comparable(again), subject.allowance)
    if told is not None:
        raise ConfigError(
            f"{method.name} returns something else each time for the same sample_inputs: {told}. What it returns is "
            f"stored and checked when it is loaded; if it is random on purpose, pass self_test=False."
        )
    return outputs


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a method returned for its sample; if it pads, also what shows which dims of the outputs follow the length:
    the leaves of a batch of another length, or where there is none, the dim to unpad and the one length it has."""

    result: object
    other: dict[str, object] = field(default_factory=dict)
    unpad: int | None = None
    only_length: int = -1

    def following(self, name: str, leaf: object) -> set[int]:
        if not isinstance(leaf, torch.Tensor):
            return set()
        other = self.other.get(name)
        if isinstance(other, torch.Tensor) and other.dim() == leaf.dim():
            return {dim for dim in range(leaf.dim()) if leaf.shape[dim] != other.shape[dim]}
        return {dim for dim in range(leaf.dim()) if dim == self.unpad and leaf.shape[dim] == self.only_length}


def _try_padded(method: MethodSpec, padding: Padding, call: Callable[..., object], sample: Sample) -> _Trial:
    own = sample_length(method, padding, sample)
    length = padding.padded(own)
    result = _try(method, call, at_length(method, padding, sample, own, length))
    other = other_length(padding, length)
    if other is None:
        return _Trial(result, unpad=padding.unpad, only_length=length)
    why = (
        f" It was also tried at length {other}, to see which outputs follow the length; give a longer sample, or the "
        f'longest length as "max" in "pad".'
    )
    again = _try(method, call, at_length(method, padding, sample, own, other), why)
    return _Trial(result, dict(_leaves(again, "output_")))


def _try(method: MethodSpec, call: Callable[..., object], sample: Sample, why: str = "") -> object:
    try:
        return call(*sample.args, **sample.kwargs)
    except Exception as error:
        raise ConfigError(
            f"{method.name} fails with its sample_inputs, so it is not saved: {type(error).__name__}: {error}. "
            f"The sample is {_shown(sample)}.{why}"
        ) from error


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
