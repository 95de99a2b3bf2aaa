"""What a model returned for its sample when it was saved, and the check that it still does when it is loaded.

It finds other weights, other kernels and libraries that changed their minds, for the price of one call. Written by each
framework's `save`; checked by the registry, so in every worker, before it is ready.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch

from paceline.protocol.errors import StoreError
from paceline.protocol.tree import Tree, named_leaves
from paceline.runner.frameworks.loaded import LoadedModel
from paceline.runner.frameworks.padded_sample import as_called
from paceline.runner.frameworks.tensors import can_store, file_chunks, read_tensors
from paceline.store import PendingVersion, StoredVersion

EXPECTED_FILE = "expected_outputs.safetensors"
_PLAIN_KEY, _DEVICE_KEY = "plain", "device"
_PLAIN = (bool, int, float, str, type(None))

# Of the largest value of an output: what another thread count, CPU or library version may change.
_TOLERANCES = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.complex64: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
_QUANTIZED_TOLERANCE = 5e-2
_OTHER_DEVICE_TOLERANCE = 2e-2  # float32 products may run in TF32 there, with 10 bits
_SCALE_MIN = 1e-3  # below this, values are as likely noise around zero
_OTHER_WHOLE_NUMBERS_MAX = 0.01  # of an output: pixels that another CPU rounds the other way

Outputs: TypeAlias = "dict[str, torch.Tensor | bool | int | float | str | None]"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far outputs may be off. `least`: what the precision of the model itself asks for."""

    least: float = 0.0
    same_device: bool = True

    def of(self, dtype: torch.dtype) -> float | None:
        """Relative to the output's largest value; 0 = equal but for a few, None = not to be compared: who wins a near
        tie (argmax) may differ between kinds of device."""
        if not (dtype.is_floating_point or dtype.is_complex):
            return 0.0 if self.same_device else None
        own = max(_TOLERANCES.get(dtype, _QUANTIZED_TOLERANCE), self.least)
        return own if self.same_device else max(own, _OTHER_DEVICE_TOLERANCE)


def comparable(result: object) -> Outputs:
    """The leaves of a method's result that can be kept, by the names that clients see; tensors in host memory."""
    leaves: Outputs = {}
    for name, leaf in named_leaves(cast(Tree, result), "output_"):
        value: object = leaf
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
            value = torch.from_numpy(np.array(value))
        if isinstance(value, torch.Tensor) and can_store(value):
            leaves[name] = value.detach().cpu().clone()  # a copy: the next call may return the same memory
        elif isinstance(value, _PLAIN):
            leaves[name] = value
    return leaves


def allowance_for(model: object, same_device: bool = True) -> Allowance:
    """What the precision of `model` allows: its outputs may be float32 where its weights are bfloat16."""
    if not isinstance(model, torch.nn.Module):
        return Allowance(same_device=same_device)
    dtypes = {tensor.dtype for tensor in [*model.parameters(), *model.buffers()]}
    least = max((_TOLERANCES.get(dtype, 0.0) for dtype in dtypes), default=0.0)
    if any(".quantized" in type(part).__module__ for part in model.modules()):
        least = max(least, _QUANTIZED_TOLERANCE)
    return Allowance(least, same_device)


def difference(expected: Outputs, found: Outputs, allowance: Allowance) -> str | None:
    """What is different, in words, naming the leaf with the largest difference; None if nothing is."""
    if list(expected) != list(found):
        return f"it returned {', '.join(found) or 'nothing'} instead of {', '.join(expected) or 'nothing'}"
    worst, worst_excess = None, 0.0
    for name, wanted in expected.items():
        excess, text = _leaf_difference(wanted, found[name], allowance)
        if excess > worst_excess:
            worst, worst_excess = f"{name} {text}", excess
    return worst


def write_expected(pending: PendingVersion, expected: Mapping[str, Outputs], device: str) -> None:
    """Write what the methods returned on `device` ("cpu", "cuda:0"), if there is anything."""
    if not expected:
        return
    tensors = {
        f"{method}/{name}": leaf
        for method, outputs in expected.items()
        for name, leaf in outputs.items()
        if isinstance(leaf, torch.Tensor)
    }
    plain = {
        method: {name: None if isinstance(leaf, torch.Tensor) else [leaf] for name, leaf in outputs.items()}
        for method, outputs in expected.items()
    }
    metadata = {_PLAIN_KEY: json.dumps(plain), _DEVICE_KEY: _kind(device)}
    pending.write(EXPECTED_FILE, file_chunks(tensors, metadata))


def check_outputs(version: StoredVersion, model: LoadedModel, device: str) -> None:
    """Call each method once that has a sample and an expected output. Raises StoreError: fails, or another output."""
    if not version.manifest.has_file(EXPECTED_FILE):
        return
    expected, saved_on = _read_expected(version)
    allowance = allowance_for(model.model, saved_on == _kind(device))
    for name, outputs in expected.items():
        if name not in model.samples:
            continue
        call = as_called(version.manifest.methods[name], model.samples[name])
        try:
            with torch.inference_mode():
                found = comparable(model.bound(name)(*call.args, **call.kwargs))
        except Exception as error:
            raise StoreError(
                f"{version.tag} fails its self-test: {name} with its stored sample raises {type(error).__name__}: "
                f"{error}. {_remedy(version, saved_on, device)}"
            ) from error
        told = difference(outputs, found, allowance)
        if told is not None:
            raise StoreError(
                f"{version.tag} fails its self-test: {name} does not return what it did when it was saved: {told}. "
                f"{_remedy(version, saved_on, device)}"
            )


def _read_expected(version: StoredVersion) -> tuple[dict[str, Outputs], str]:
    what = f"{version.tag}/{EXPECTED_FILE}"
    tensors, metadata = read_tensors(version.map(EXPECTED_FILE), what)
    try:
        return {
            method: {name: tensors[f"{method}/{name}"] if leaf is None else leaf[0] for name, leaf in leaves.items()}
            for method, leaves in json.loads(metadata[_PLAIN_KEY]).items()
        }, metadata[_DEVICE_KEY]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StoreError(f"{what} holds no outputs: {type(error).__name__}: {error}") from error


def _leaf_difference(wanted: object, found: object, allowance: Allowance) -> tuple[float, str]:
    """How many times the allowance `found` is off (0.0: within it), and how to say so."""
    if isinstance(wanted, float) and type(found) is float:
        wanted, found = torch.tensor(wanted), torch.tensor(found)
    if not isinstance(wanted, torch.Tensor):
        return (0.0, "") if wanted == found else (math.inf, f"is {found!r} instead of {wanted!r}")
    if not isinstance(found, torch.Tensor):
        return math.inf, f"is {found!r} instead of a tensor"
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        return math.inf, f"is {_form(found)} instead of {_form(wanted)}"
    tolerance = allowance.of(wanted.dtype)
    if tolerance is None or wanted.numel() == 0:
        return 0.0, ""
    return _values_difference(wanted, found, tolerance)


def _values_difference(wanted: torch.Tensor, found: torch.Tensor, tolerance: float) -> tuple[float, str]:
    if not tolerance:
        share = float((wanted != found).double().mean())
        off = (wanted.double() - found.double()).abs()
        return (0.0, "") if share <= _OTHER_WHOLE_NUMBERS_MAX else (math.inf, _shown(wanted, found, off, "0"))
    wide = torch.complex128 if wanted.is_complex() else torch.float64
    wanted, found = wanted.to(wide), found.to(wide)
    same = (wanted == found) | (wanted.isnan() & found.isnan())
    off = torch.where(same, 0.0, (wanted - found).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    finite = wanted.abs()[wanted.isfinite()]
    limit = tolerance * max(float(finite.max()) if finite.numel() else 0.0, _SCALE_MIN)
    excess = float(off.max()) / limit
    return (0.0, "") if excess <= 1 else (excess, _shown(wanted, found, off, f"{limit:.3g}"))


def _shown(wanted: torch.Tensor, found: torch.Tensor, off: torch.Tensor, tolerated: str) -> str:
    flat = int(off.argmax())
    at = [int(index) for index in np.unravel_index(flat, wanted.shape)]
    return (
        f"differs by up to {off.flatten()[flat].item():.3g}, at {at}: {found.flatten()[flat].item():.6g} instead of "
        f"{wanted.flatten()[flat].item():.6g} (tolerated: {tolerated})"
    )


def _remedy(version: StoredVersion, saved_on: str, device: str) -> str:
    saved_by = version.manifest.context.get("torch", "an unknown version")
    return (
        f"It was saved with torch {saved_by} on {saved_on}, this is torch {torch.__version__} on {_kind(device)}. "
        f"Save it again with what serves it; if it is meant to return something else each time, with self_test=False."
    )


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _kind(device: str) -> str:
    return device.partition(":")[0]
