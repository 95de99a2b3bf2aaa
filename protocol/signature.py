"""What a model offers: its methods, whether and where they batch, what is known of their inputs.

Parsed once from what the user wrote (`signatures={...}`), stored in the manifest, frozen into the ServeSpec; read by
store, runner, API server and client alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ConfigError, InvalidInput, InvalidParameter, did_you_mean
from paceline.protocol.limits import TENSOR_RANK_MAX
from paceline.protocol.padding import Padding, padding_to_plain, parse_padding

SIGNATURE_KEYS = (
    "batchable",
    "batch_dim",
    "idempotent",
    "max_batch_size",
    "latency_budget_ms",
    "pad",
    "mask",
    "unpad",
)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One parameter of a method. `dtype` and `shape` are None where open; a dim of -1 is free; `shape` includes the
    batch dim. `required` is False where the Python parameter has a default."""

    name: str
    dtype: DType | None = None
    shape: tuple[int, ...] | None = None
    required: bool = True

    def check(self, dtype: DType | None, shape: tuple[int, ...]) -> None:
        """Raise InvalidInput unless a tensor of `dtype` (None = byte strings) and `shape` is what is declared."""
        if self.dtype is not None and dtype is not self.dtype:
            given = dtype.oip if dtype is not None else "BYTES"
            raise InvalidInput(f"input {self.name!r} has datatype {given}, expected {self.dtype.oip}")
        if self.shape is None:
            return
        if len(shape) != len(self.shape):
            raise InvalidInput(
                f"input {self.name!r} has rank {len(shape)} (shape {list(shape)}), expected rank {len(self.shape)} "
                f"(shape {list(self.shape)}, -1 = any)"
            )
        if any(wanted not in (-1, dim) for dim, wanted in zip(shape, self.shape)):
            raise InvalidInput(f"input {self.name!r} has shape {list(shape)}, expected {list(self.shape)} (-1 = any)")


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method of a model. `batch_dim` is (in, out). `inputs` in parameter order; `open_inputs` says that the method
    takes more than those (`*args`, `**kwargs`, or a signature that Python cannot see). `integers`: what whole numbers
    without a dtype, as JSON has them, become where none is declared; the dtype that the model computes in."""

    name: str
    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    idempotent: bool = True
    max_batch_size: int | None = None
    latency_budget_ms: float | None = None
    inputs: tuple[InputSpec, ...] = ()
    open_inputs: bool = True
    outputs: tuple[InputSpec, ...] = field(default=())
    padding: Padding | None = None
    integers: DType = dtypes.I64

    @property
    def mask(self) -> str | None:
        """The parameter that the server fills; no request may."""
        return self.padding.mask if self.padding is not None else None

    @property
    def request_inputs(self) -> tuple[InputSpec, ...]:
        """What requests give: `inputs` without the mask."""
        return tuple([spec for spec in self.inputs if spec.name != self.mask])

    def argument_name(self, at: int) -> str:
        """Of the positional argument `at`."""
        return self.inputs[at].name if at < len(self.inputs) else f"input_{at}"


def parse_signatures(signatures: Mapping[str, Mapping[str, object]] | None) -> dict[str, MethodSpec]:
    """Methods from the user's `{"__call__": {"batchable": True, "batch_dim": 0}}`; None: `__call__`, not batchable.

    `batchdim` is read as `batch_dim` (the guide writes both). Raises ConfigError that names the method, the key and the
    nearest right key.
    """
    if signatures is None:
        signatures = {"__call__": {"batchable": False}}
    if not isinstance(signatures, Mapping) or not signatures:
        raise ConfigError(
            f'signatures is {signatures!r}, expected {{"__call__": {{"batchable": True, "batch_dim": 0}}}}'
        )
    return {name: _parse_method(name, options) for name, options in signatures.items()}


def _parse_method(name: str, options: object) -> MethodSpec:
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"signatures: {name!r} is not the name of a method")
    if not isinstance(options, Mapping):
        raise ConfigError(f'signatures["{name}"] is {options!r}, expected a mapping such as {{"batchable": True}}')
    known = {"batchdim": "batch_dim"}
    values: dict[str, object] = {}
    for key, value in options.items():
        canonical = known.get(key, key)
        if canonical not in SIGNATURE_KEYS:
            hint = did_you_mean(str(key), SIGNATURE_KEYS)
            raise ConfigError(
                f'signatures["{name}"] has the unknown key {key!r}.{hint} Known keys: {", ".join(SIGNATURE_KEYS)}.'
            )
        if canonical in values:
            raise ConfigError(f'signatures["{name}"] gives batch_dim twice, as "batch_dim" and "batchdim"')
        values[canonical] = value
    batchable = _flag(name, "batchable", values.get("batchable", False))
    batch_dim = _batch_dim(name, values.get("batch_dim", 0))
    return MethodSpec(
        name=name,
        batchable=batchable,
        batch_dim=batch_dim,
        idempotent=_flag(name, "idempotent", values.get("idempotent", True)),
        max_batch_size=_positive_int(name, "max_batch_size", values.get("max_batch_size")),
        latency_budget_ms=_positive_number(name, "latency_budget_ms", values.get("latency_budget_ms")),
        padding=parse_padding(name, batchable, batch_dim, values.get("pad"), values.get("mask"), values.get("unpad")),
    )


def _flag(method: str, key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f'signatures["{method}"]["{key}"] is {value!r}, expected True or False')
    return value


def _batch_dim(method: str, value: object) -> tuple[int, int]:
    dims = (value, value) if isinstance(value, int) else value
    if (
        isinstance(dims, (tuple, list))
        and len(dims) == 2
        and all(type(dim) is int and 0 <= dim < TENSOR_RANK_MAX for dim in dims)
    ):
        return (dims[0], dims[1])
    raise ConfigError(
        f'signatures["{method}"]["batch_dim"] is {value!r}, expected an int from 0 to {TENSOR_RANK_MAX - 1} '
        f"or a pair of them (input dim, output dim)"
    )


def _positive_int(method: str, key: str, value: object) -> int | None:
    if value is None or (type(value) is int and value >= 1):
        return value
    raise ConfigError(f'signatures["{method}"]["{key}"] is {value!r}, expected an int >= 1')


def _positive_number(method: str, key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise ConfigError(f'signatures["{method}"]["{key}"] is {value!r}, expected a number > 0')


def pick_method(methods: Mapping[str, MethodSpec], name: str | None) -> MethodSpec:
    """The method `name`; without a name `__call__`, else the only one. Raises InvalidParameter that lists them."""
    if name is None:
        if "__call__" in methods:
            return methods["__call__"]
        if len(methods) == 1:
            return next(iter(methods.values()))
        raise InvalidParameter(f"no method given; expected parameters.method to be one of {', '.join(methods)}")
    method = methods.get(name)
    if method is None:
        hint = did_you_mean(name, methods)
        raise InvalidParameter(f"method {name!r} is unknown.{hint} Expected one of {', '.join(methods)}.")
    return method


def spec_to_plain(method: MethodSpec) -> dict[str, object]:
    """A JSON- and MessagePack-ready dict; `spec_from_plain` reads it back.

    Options of padding are there only where a method pads, `integers` where it is not int64: digests of models stored
    without them stay what they were.
    """
    padding = padding_to_plain(method.padding) if method.padding is not None else {}
    integers = {"integers": method.integers.name} if method.integers is not dtypes.I64 else {}
    return {
        "name": method.name,
        "batchable": method.batchable,
        "batch_dim": list(method.batch_dim),
        "idempotent": method.idempotent,
        "max_batch_size": method.max_batch_size,
        "latency_budget_ms": method.latency_budget_ms,
        "inputs": [_input_to_plain(spec) for spec in method.inputs],
        "open_inputs": method.open_inputs,
        "outputs": [_input_to_plain(spec) for spec in method.outputs],
        **padding,
        **integers,
    }


def spec_from_plain(plain: Mapping[str, object]) -> MethodSpec:
    """Read what `spec_to_plain` wrote. Raises ValueError or KeyError or TypeError on anything else."""
    batch_dim = plain["batch_dim"]
    inputs, outputs = plain["inputs"], plain["outputs"]
    if (
        not isinstance(batch_dim, (list, tuple))
        or not isinstance(inputs, (list, tuple))
        or not isinstance(outputs, (list, tuple))
    ):
        raise TypeError("method spec: batch_dim, inputs and outputs must be arrays")
    options = {key: plain[key] for key in SIGNATURE_KEYS if plain.get(key) is not None}
    options["batch_dim"] = tuple(batch_dim)
    try:
        parsed = _parse_method(str(plain["name"]), options)
    except ConfigError as error:
        raise ValueError(f"method spec: {error}") from error
    return replace(
        parsed,
        inputs=tuple(_input_from_plain(item) for item in inputs),
        open_inputs=bool(plain["open_inputs"]),
        outputs=tuple(_input_from_plain(item) for item in outputs),
        integers=dtypes.BY_NAME[str(plain.get("integers", dtypes.I64.name))],
    )


def _input_to_plain(spec: InputSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "dtype": spec.dtype.name if spec.dtype else None,
        "shape": list(spec.shape) if spec.shape is not None else None,
        "required": spec.required,
    }


def _input_from_plain(plain: Mapping[str, object]) -> InputSpec:
    dtype, shape = plain["dtype"], plain["shape"]
    return InputSpec(
        name=str(plain["name"]),
        dtype=dtypes.BY_NAME[str(dtype)] if dtype is not None else None,
        shape=_dims(shape) if shape is not None else None,
        required=bool(plain["required"]),
    )


def _dims(shape: object) -> tuple[int, ...]:
    if isinstance(shape, (list, tuple)) and all(type(dim) is int and dim >= -1 for dim in shape):
        return tuple(shape)
    raise ValueError(f"method spec: shape is {shape!r}, expected integers >= -1")
