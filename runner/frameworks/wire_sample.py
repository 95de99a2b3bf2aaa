"""A stored sample call in the form in which requests travel, so that warming up takes the requests' own way."""

from __future__ import annotations

import torch

from paceline.protocol.tensor import Tensor
from paceline.protocol.tree import Tree
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.tensors import wire_dtype


def wire_call(sample: Sample) -> tuple[tuple[Tree, ...], dict[str, Tree]] | None:
    """(args, kwargs) of `sample`; None if a tensor in it has a dtype that cannot travel."""
    try:
        return tuple([_wire(arg) for arg in sample.args]), {name: _wire(arg) for name, arg in sample.kwargs.items()}
    except TypeError:
        return None


def _wire(value: object) -> Tree:
    if isinstance(value, torch.Tensor):
        return _wire_tensor(value)
    if isinstance(value, dict):
        return {str(key): _wire(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_wire(item) for item in value]
    if isinstance(value, tuple):
        return tuple([_wire(item) for item in value])
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot travel")


def _wire_tensor(tensor: torch.Tensor) -> Tensor:
    dtype = wire_dtype(tensor)
    if dtype is None:
        raise TypeError(f"a tensor of {tensor.dtype} cannot travel")
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Tensor(dtype, tuple(tensor.shape), flat.numpy().data)
