"""What a call means to batching: the key of those it may share a batch with, its rows, its padded length.

Pure: looks at dtypes, shapes and plain values, never at tensors' bytes. Called where requests come in (API server,
native client), and for samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput, InvalidParameter, TooLarge
from paceline.protocol.limits import KEY_BYTES_MAX, REQUEST_ROWS_MAX
from paceline.protocol.padding import Padding, element
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Strings, Tensor
from paceline.protocol.tree import Tree

_KEY_BYTES_PLAIN = KEY_BYTES_MAX // 8


@dataclass(frozen=True, slots=True)
class Measure:
    """What a call means to batching. Calls with equal `key` may share a batch; `rows` counts along the batch dim;
    `length` is the padded dim's extent, rounded up to its multiple, 0 where nothing is padded."""

    key: bytes
    rows: int
    length: int = 0


def measure(
    method: MethodSpec, args: tuple[Tree, ...], kwargs: dict[str, Tree], rows_max: int = REQUEST_ROWS_MAX
) -> Measure:
    """Key, rows and padded length of one call.

    The key spells method, structure, dtypes and the shapes without the batch dim and the padded one; plain values are
    part of it, since joined requests must agree on them. Raises InvalidInput (no tensor, rank too small, unequal rows
    or lengths), InvalidParameter (the mask is given), TooLarge.
    """
    if not method.batchable:
        return Measure(method.name.encode(), 1)
    parts: list[str] = [method.name]
    extents = _Extents(method)
    for at, arg in enumerate(args):
        extents.enter(method.argument_name(at))
        _describe(arg, extents, parts)
    for name in sorted(kwargs):
        extents.enter(name)
        parts.append(f"{name!r}=")
        _describe(kwargs[name], extents, parts)
    rows = extents.rows
    if rows < 0:
        raise InvalidInput(f"method {method.name!r} is batchable and got no tensor to batch along dim {extents.dim}")
    if rows == 0:
        raise InvalidInput(
            f"method {method.name!r} got a tensor with 0 rows along its batch dim {extents.dim}; expected >= 1"
        )
    if rows > rows_max:
        raise TooLarge(f"request has {rows} rows, over the limit of {rows_max} rows; send it in parts")
    key = _bounded("|".join(parts).encode("utf-8", "backslashreplace"))
    return Measure(key, rows, extents.padded_length())


def mask_given(name: str) -> InvalidParameter:
    """The refusal of a request that gives the method's mask."""
    return InvalidParameter(
        f"input {name!r} is the mask, which the server makes of the requests' lengths; leave it out, and give what "
        f"comes behind it by name"
    )


def _bounded(key: bytes) -> bytes:
    """`key`, or its digest where plain values or many inputs make it too long to travel and to compare."""
    return key if len(key) <= _KEY_BYTES_PLAIN else b"#" + hashlib.blake2b(key, digest_size=32).digest()


class _Extents:
    """What the tensors of one call must share: their rows, and along the padded dim their length."""

    __slots__ = ("_length", "_method", "_name", "_padding", "dim", "rows")

    def __init__(self, method: MethodSpec) -> None:
        self.dim = method.batch_dim[0]
        self.rows = -1
        self._method = method.name
        self._padding = method.padding
        self._name = ""
        self._length = -1

    def enter(self, argument: str) -> None:
        """The tensors that come next are of `argument`. Raises InvalidParameter if it is the mask."""
        padding = self._padding
        if padding is not None and argument == padding.mask:
            raise mask_given(argument)
        self._name = argument

    def add(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Count the rows of a tensor of `shape`; the shape without them."""
        dim = self.dim
        if len(shape) <= dim:
            raise InvalidInput(
                f"a tensor of shape {list(shape)} has no batch dim {dim}; expected at least {dim + 1} dims "
                f"(add a leading dim of 1 for a single row)"
            )
        if self.rows < 0:
            self.rows = shape[dim]
        elif shape[dim] != self.rows:
            raise InvalidInput(
                f"inputs have {self.rows} and {shape[dim]} rows along batch dim {dim}; expected the same"
            )
        return shape[:dim] + shape[dim + 1 :]

    def add_tensor(self, dtype: DType, shape: tuple[int, ...]) -> tuple[int, ...]:
        """As `add`; along the padded dim the shape that requests share is -1."""
        padding = self._padding
        if padding is not None and padding.covers(self._name, len(shape)):
            self._stretch(padding, dtype, shape)
            shape = (*shape[: padding.dim], -1, *shape[padding.dim + 1 :])
        return self.add(shape)

    def padded_length(self) -> int:
        """Raises InvalidInput if a method that pads got nothing to pad, or too much of it."""
        padding = self._padding
        if padding is None:
            return 0
        if self._length < 0:
            which = f"among {', '.join(padding.inputs)}" if padding.inputs else f"with the padded dim {padding.dim}"
            raise InvalidInput(f"method {self._method!r} got no tensor {which}, along which its requests are padded")
        if padding.length_max is not None and self._length > padding.length_max:
            raise InvalidInput(
                f"inputs have the length {self._length} along dim {padding.dim}, over the limit of "
                f"{padding.length_max} of method {self._method!r}"
            )
        return padding.padded(self._length)

    def _stretch(self, padding: Padding, dtype: DType, shape: tuple[int, ...]) -> None:
        dim = padding.dim
        if len(shape) <= dim:
            raise InvalidInput(
                f"input {self._name!r} has shape {list(shape)}, without the padded dim {dim}; expected at least "
                f"{dim + 1} dims"
            )
        if self._length < 0:
            self._length = shape[dim]
        elif shape[dim] != self._length:
            raise InvalidInput(
                f"input {self._name!r} has length {shape[dim]} along the padded dim {dim}, another has {self._length}; "
                f'expected the same (the signature\'s "pad" can name its "inputs")'
            )
        try:
            element(dtype, padding.value)
        except ValueError as error:
            raise InvalidInput(f"input {self._name!r} cannot be padded: {error}") from error


def _describe(tree: Tree, extents: _Extents, parts: list[str]) -> None:
    if isinstance(tree, Tensor):
        parts.append(f"{tree.dtype.name}{extents.add_tensor(tree.dtype, tree.shape)}")
    elif isinstance(tree, Strings):
        parts.append(f"str{extents.add(tree.shape)}")
    elif isinstance(tree, (list, tuple)):
        parts.append("[" if isinstance(tree, list) else "(")
        for item in tree:
            _describe(item, extents, parts)
        parts.append("]")
    elif isinstance(tree, dict):
        parts.append("{")
        for key, item in tree.items():
            parts.append(f"{key!r}:")  # quoted: no key may look like the structure around it
            _describe(item, extents, parts)
        parts.append("}")
    else:
        parts.append(repr(tree))
