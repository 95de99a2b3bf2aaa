"""Sample inputs: what the user gave as tensors of one call, and the file that keeps them for warming up."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch

from paceline.protocol.errors import ConfigError, StoreError
from paceline.runner.frameworks.loaded import Sample
from paceline.runner.frameworks.tensors import file_chunks, read_tensors, wire_dtype
from paceline.store import PendingVersion, StoredVersion

SAMPLES_FILE = "sample_inputs.safetensors"
_STRUCTURE = "samples"
_ARRAY_KINDS = "biufc"
_PLAIN = (bool, int, float, str, type(None))


def bind_sample(
    name: str, given: object, signature: inspect.Signature | None, device: torch.device, mask: str | None = None
) -> Sample:
    """`given` as arguments of a call of the method `name`, on `device`. `mask`: a parameter that may be missing, since
    the server fills it. Raises ConfigError."""
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
            bound = _bind(signature, args, kwargs, mask)
        except TypeError as error:
            raise ConfigError(f"sample_inputs do not fit {name}{signature}: {error}") from error
        args, kwargs = bound.args, bound.kwargs
    return Sample(
        tuple(_to_torch(value, f"{name}, argument {index}", device) for index, value in enumerate(args)),
        {key: _to_torch(value, f"{name}, argument {key!r}", device) for key, value in kwargs.items()},
    )


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


def _bind(
    signature: inspect.Signature, args: tuple[object, ...], kwargs: dict[str, object], mask: str | None
) -> inspect.BoundArguments:
    if mask is None:
        return signature.bind(*args, **kwargs)
    bound = signature.bind_partial(*args, **kwargs)
    if mask not in bound.arguments:
        signature.bind(*args, **kwargs, **{mask: None})  # only to see that nothing else is missing
    return bound


def _to_torch(value: object, where: str, device: torch.device) -> object:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().to(device)
    elif isinstance(value, (np.ndarray, np.generic)):
        if value.dtype.kind not in _ARRAY_KINDS:
            raise ConfigError(
                f"sample_inputs of {where} is an array of {value.dtype}, expected numbers or bools; a sample cannot "
                f"hold texts, so leave it out for this model"
            )
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
