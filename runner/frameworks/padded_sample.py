"""The sample of a method that pads, as the server will call it: filled up, at this length or that, with the mask.

Called when a model is saved. What the names in a signature's `pad` and `mask` mean can only be checked here, where the
method's own parameters are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, RequestError, did_you_mean
from paceline.protocol.measure import measure
from paceline.protocol.padding import Padding
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tree import Tree, named_leaves
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.tensors import torch_dtype
from paceline.runner.frameworks.wire_sample import wire_call

_ARGS, _KWARGS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def check_names(method: MethodSpec, signature: inspect.Signature | None) -> None:
    """Raise ConfigError unless the padded inputs and the mask are parameters of the method, as far as it is known."""
    padding = method.padding
    if padding is None or signature is None:
        return
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    named = [name for name, kind in kinds.items() if kind not in (_ARGS, _KWARGS)]
    if _KWARGS not in kinds.values():
        for name in padding.inputs:
            _check_name(method, "pad", name, named)
    if padding.mask is not None:
        _check_name(method, "mask", padding.mask, named)
        if kinds[padding.mask] is inspect.Parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f'signatures["{method.name}"]["mask"]: {padding.mask!r} can only be given by position; the mask is '
                f"given by name"
            )


def without_mask(sample: Sample, signature: inspect.Signature | None, mask: str | None) -> Sample:
    """`sample` as requests are: they do not give the mask."""
    if mask is None:
        return sample
    if signature is None:
        return Sample(sample.args, {name: value for name, value in sample.kwargs.items() if name != mask})
    bound = signature.bind_partial(*sample.args, **sample.kwargs)
    bound.arguments.pop(mask, None)
    return Sample(bound.args, bound.kwargs)


def sample_length(method: MethodSpec, padding: Padding, sample: Sample) -> int:
    """How long the padded tensors of `sample` are. Raises ConfigError where a request like it would be refused."""
    call = wire_call(sample)
    assert call is not None, "samples hold tensors that can travel"
    unrounded = replace(method, padding=replace(padding, multiple_of=1))
    try:
        return measure(unrounded, *call).length
    except RequestError as error:
        raise ConfigError(f"sample_inputs of {method.name}: {error.message}") from error


def other_length(padding: Padding, padded: int) -> int | None:
    """A length that batches may have besides `padded`, to see which outputs follow; None if there is no other.

    Shorter if possible: who embeds positions may have no more of them than the sample needs.
    """
    if padded > padding.multiple_of:
        return padding.padded(padded - padding.multiple_of)
    return None if padding.length_max == padded else padding.padded(padded + 1)


def at_length(method: MethodSpec, padding: Padding, sample: Sample, own: int, length: int) -> Sample:
    """`sample`, whose own length is `own`, filled up or cut to `length`, with its mask."""
    args = tuple([_stretched(value, padding, method.argument_name(at), length) for at, value in enumerate(sample.args)])
    kwargs = {name: _stretched(value, padding, name, length) for name, value in sample.kwargs.items()}
    if padding.mask is not None:
        kwargs[padding.mask] = _mask(method, padding.mask, Sample(args, kwargs), own, length)
    return Sample(args, kwargs)


def as_called(method: MethodSpec, sample: Sample) -> Sample:
    """`sample` as the server calls the method when it is alone: at its own padded length, with the mask."""
    if method.padding is None:
        return sample
    own = sample_length(method, method.padding, sample)
    return at_length(method, method.padding, sample, own, method.padding.padded(own))


def _check_name(method: MethodSpec, key: str, name: str, named: list[str]) -> None:
    if name not in named:
        raise ConfigError(
            f'signatures["{method.name}"]["{key}"]: {method.name} has no parameter {name!r}.'
            f"{did_you_mean(name, named)} Its parameters: {', '.join(named) or 'none'}."
        )


def _stretched(value: object, padding: Padding, name: str, length: int) -> object:
    if isinstance(value, torch.Tensor):
        return _filled(value, padding, length) if padding.covers(name, value.dim()) else value
    if isinstance(value, dict):
        return {key: _stretched(item, padding, name, length) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_stretched(item, padding, name, length) for item in value)
    return value


def _filled(tensor: torch.Tensor, padding: Padding, length: int) -> torch.Tensor:
    dim = padding.dim
    kept = min(tensor.shape[dim], length)
    filled = tensor.new_full((*tensor.shape[:dim], length, *tensor.shape[dim + 1 :]), padding.value)
    filled.narrow(dim, 0, kept).copy_(tensor.narrow(dim, 0, kept))
    return filled


def _mask(method: MethodSpec, name: str, sample: Sample, own: int, length: int) -> torch.Tensor:
    dtype = next((spec.dtype for spec in method.inputs if spec.name == name), None) or dtypes.BOOL
    leaves: Iterator[tuple[str, object]] = iter(named_leaves(cast(Tree, [*sample.args, sample.kwargs])))
    first = next(leaf for _, leaf in leaves if isinstance(leaf, torch.Tensor))
    mask = torch.zeros(first.shape[method.batch_dim[0]], length, dtype=torch_dtype(dtype), device=first.device)
    mask[:, :own] = 1
    return mask
