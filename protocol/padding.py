"""Padding: how requests of different length share a batch, as a method's signature says it.

Pure data and its one parser: part of a MethodSpec, which `measure` measures calls by and the runner's `layout` pads by.
It knows no batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ConfigError, did_you_mean
from paceline.protocol.limits import TENSOR_RANK_MAX

PAD_KEYS: Final = ("multiple_of", "value", "max", "inputs")
_EXAMPLE: Final = '{1: {"multiple_of": 64, "value": 0}}'
_ENDLESS: Final = {"inf": math.inf, "-inf": -math.inf}  # JSON has no infinite numbers


@dataclass(frozen=True, slots=True)
class Padding:
    """Tensors of one batch get the same extent along `dim`: the longest call's, rounded up to a multiple.

    `value` fills what is added. `inputs` names the parameters that are padded; empty = every tensor that has `dim`.
    `length_max` is the longest call allowed, and no batch is padded beyond it. `mask` is the parameter that gets True
    where the data is real. `unpad` is the dim of the outputs that is cut back to each call's own length.
    """

    dim: int
    multiple_of: int = 1
    value: float = 0
    length_max: int | None = None
    inputs: tuple[str, ...] = ()
    mask: str | None = None
    unpad: int | None = None

    def padded(self, length: int) -> int:
        """The extent that a batch gets whose longest call has `length`."""
        rounded = -(-length // self.multiple_of) * self.multiple_of
        return rounded if self.length_max is None else max(length, min(rounded, self.length_max))

    def covers(self, name: str, rank: int) -> bool:
        """Whether a tensor of `rank` dims in the argument `name` is padded."""
        return name in self.inputs if self.inputs else rank > self.dim


@lru_cache(maxsize=256)
def element(dtype: DType, value: float) -> npt.NDArray[Any]:
    """`value` as one element of `dtype.numpy`, shape []. Raises ValueError where the dtype cannot hold it."""
    if dtype is dtypes.BF16:
        held = _bf16(value)
        is_held = math.isinf(value) or not np.isinf(_float32_of(held))
    elif dtype.numpy.kind in "fc":
        with np.errstate(over="ignore"):
            held = np.array(value, dtype.numpy)
        is_held = math.isinf(value) or not np.isinf(held)
    else:
        is_held = _is_within(dtype, value)
        held = np.array(int(value) if is_held else 0, dtype.numpy)
    if not is_held:
        raise ValueError(f"{dtype} cannot hold {value!r}")
    return held


def parse_padding(
    method: str, batchable: bool, batch_dim: tuple[int, int], pad: object, mask: object, unpad: object
) -> Padding | None:
    """What the signature's options `pad`, `mask` and `unpad` say; None without them. Raises ConfigError.

    >>> parse_padding("encode", True, (0, 0), {1: {"multiple_of": 64}}, "attention_mask", None).padded(70)
    128
    """
    if pad is None:
        _refuse_without_pad(method, {"mask": mask, "unpad": unpad})
        return None
    if not isinstance(pad, Mapping) or len(pad) != 1:
        more = ": one dim can be padded" if isinstance(pad, Mapping) and pad else ""
        raise ConfigError(f'signatures["{method}"]["pad"] is {pad!r}{more}, expected such as {_EXAMPLE}')
    if not batchable:
        raise ConfigError(f'signatures["{method}"] has "pad", which needs "batchable": True')
    ((key, entry),) = pad.items()
    options = _entry(method, key, entry)
    inputs = _names(method, key, options.get("inputs"))
    return Padding(
        dim=_dim(method, "pad", key, batch_dim[0], "inputs"),
        multiple_of=_count(method, key, "multiple_of", options.get("multiple_of", 1)),
        value=_value(method, key, options.get("value", 0)),
        length_max=None if options.get("max") is None else _count(method, key, "max", options["max"]),
        inputs=inputs,
        mask=None if mask is None else _mask(method, mask, inputs),
        unpad=None if unpad is None else _dim(method, "unpad", unpad, batch_dim[1], "outputs"),
    )


def padding_to_plain(padding: Padding) -> dict[str, object]:
    """The options that `parse_padding` reads back, ready for JSON and MessagePack."""
    entry = {
        "multiple_of": padding.multiple_of,
        "value": str(padding.value) if math.isinf(padding.value) else padding.value,
        "max": padding.length_max,
        "inputs": list(padding.inputs) or None,
    }
    return {"pad": {str(padding.dim): entry}, "mask": padding.mask, "unpad": padding.unpad}


def _is_within(dtype: DType, value: float) -> bool:
    if dtype is dtypes.BOOL:
        return value in (0, 1)
    bounds = np.iinfo(cast("np.dtype[np.integer[Any]]", dtype.numpy))
    return math.isfinite(value) and int(value) == value and bounds.min <= value <= bounds.max


def _bf16(value: float) -> npt.NDArray[Any]:
    """The upper half of the float32, rounded to even."""
    with np.errstate(over="ignore"):
        bits = int(np.array(value, np.float32).view(np.uint32))
    return np.array((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16)


def _float32_of(bf16: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.array(int(bf16) << 16, np.uint32).view(np.float32)


def _refuse_without_pad(method: str, given: dict[str, object]) -> None:
    for key, value in given.items():
        if value is not None:
            raise ConfigError(f'signatures["{method}"] has "{key}" without "pad"; add "pad": {_EXAMPLE}')


def _entry(method: str, dim: object, entry: object) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f'signatures["{method}"]["pad"][{dim!r}] is {entry!r}, expected a mapping such as {{"multiple_of": 64}}'
        )
    for key in entry:
        if key not in PAD_KEYS:
            hint = did_you_mean(str(key), PAD_KEYS)
            raise ConfigError(
                f'signatures["{method}"]["pad"][{dim!r}] has the unknown key {key!r}.{hint} '
                f"Known keys: {', '.join(PAD_KEYS)}."
            )
    return entry


def _dim(method: str, key: str, given: object, batch_dim: int, whose: str) -> int:
    """A dim of the inputs or outputs; JSON has made a string of it where it is a key."""
    dim = int(given) if key == "pad" and isinstance(given, str) and given.isdecimal() else given
    if type(dim) is int and 0 <= dim < TENSOR_RANK_MAX and dim != batch_dim:
        return dim
    what = "is the batch dim" if dim == batch_dim and type(dim) is int else f"is {given!r}"
    raise ConfigError(
        f'signatures["{method}"]["{key}"]: the dim {what}, expected another dim of the {whose} than {batch_dim}, '
        f"an int from 0 to {TENSOR_RANK_MAX - 1}"
    )


def _count(method: str, dim: object, key: str, value: object) -> int:
    if type(value) is int and value >= 1:
        return value
    raise ConfigError(f'signatures["{method}"]["pad"][{dim!r}]["{key}"] is {value!r}, expected an int >= 1')


def _value(method: str, dim: object, value: object) -> float:
    if isinstance(value, str):
        value = _ENDLESS.get(value, value)
    if (
        isinstance(value, (int, float))
        and not math.isnan(value)
        and (type(value) is float or -(2**63) <= value < 2**64)
    ):
        return value
    raise ConfigError(f'signatures["{method}"]["pad"][{dim!r}]["value"] is {value!r}, expected a number of 64 bits')


def _names(method: str, dim: object, names: object) -> tuple[str, ...]:
    if names is None:
        return ()
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise ConfigError(
        f'signatures["{method}"]["pad"][{dim!r}]["inputs"] is {names!r}, expected names of parameters such as '
        f'["input_ids"]'
    )


def _mask(method: str, mask: object, inputs: tuple[str, ...]) -> str:
    if not isinstance(mask, str) or not mask.isidentifier():
        raise ConfigError(
            f'signatures["{method}"]["mask"] is {mask!r}, expected the name of a parameter such as "attention_mask"'
        )
    if mask in inputs:
        raise ConfigError(
            f'signatures["{method}"]: the mask {mask!r} is also among the padded inputs; leave it out there'
        )
    return mask
