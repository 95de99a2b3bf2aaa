"""Arguments and results as trees of plain values and tensors, and their form inside a message head.

A container or tensor is a MessagePack array that starts with its tag; everything else is MessagePack's own:

    list [0, *items]   tuple [1, *items]   tensor [2, dtype code, shape, data]   strings [3, shape, [bin, ...]]

`data` is the bytes themselves up to INLINE_BYTES_MAX, above it the index of a frame of the same item. dict is a map
with string keys. Called by messages; it must know nothing of what a tree is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from paceline.protocol import dtypes
from paceline.protocol.errors import ProtocolError
from paceline.protocol.limits import INLINE_BYTES_MAX, TREE_DEPTH_MAX, TREE_LEAVES_MAX
from paceline.protocol.tensor import Buffer, Strings, Tensor, check_size

Tree: TypeAlias = (
    "bool | int | float | str | bytes | Tensor | Strings | list[Tree] | tuple[Tree, ...] | dict[str, Tree] | None"
)
Packed: TypeAlias = "bool | int | float | str | bytes | list[Packed] | dict[str, Packed] | None"

LIST, TUPLE, TENSOR, STRINGS = 0, 1, 2, 3


def pack_tree(tree: Tree, frames: list[Buffer]) -> Packed:
    """The MessagePack-ready form of `tree`; buffers too large for the head are appended to `frames` without a copy."""
    kind = type(tree)
    if kind is Tensor:
        return _pack_tensor(tree, frames)  # type: ignore[arg-type]  # `kind is` is not narrowed by mypy
    if isinstance(tree, tuple):
        return [TUPLE, *[pack_tree(item, frames) for item in tree]]
    if isinstance(tree, list):
        return [LIST, *[pack_tree(item, frames) for item in tree]]
    if isinstance(tree, dict):
        return {key: pack_tree(value, frames) for key, value in tree.items()}
    if isinstance(tree, Strings):
        return [STRINGS, list(tree.shape), list(tree.items)]
    if tree is None or isinstance(tree, (bool, int, float, str, bytes)):
        return tree
    raise TypeError(f"a {kind.__name__} cannot travel; expected plain values, containers and Tensor")


def unpack_tree(packed: object, frames: Sequence[Buffer]) -> Tree:
    """The tree behind `packed`, tensors viewing `frames` or the head's bytes. Raises ProtocolError, nothing else."""
    return _Unpacker(frames).unpack(packed, 0)


def leaves(tree: Tree) -> Iterator[Tree]:
    """Every leaf of `tree`, depth first, containers in order, dicts in insertion order."""
    if isinstance(tree, (list, tuple)):
        for item in tree:
            yield from leaves(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from leaves(item)
    else:
        yield tree


def named_leaves(tree: Tree, prefix: str = "output_") -> Iterator[tuple[str, Tree]]:
    """(name, leaf) in OIP naming: one leaf is `output_0`, a tuple or list `output_0`, `output_1`, ...; dict keys are
    names; deeper levels are joined by dots."""
    if isinstance(tree, (list, tuple)):
        for index, item in enumerate(tree):
            yield from _named(f"{prefix}{index}", item)
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _named(key, item)
    else:
        yield f"{prefix}0", tree


def _named(name: str, tree: Tree) -> Iterator[tuple[str, Tree]]:
    if isinstance(tree, (list, tuple)):
        for index, item in enumerate(tree):
            yield from _named(f"{name}.{index}", item)
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _named(f"{name}.{key}", item)
    else:
        yield name, tree


def _pack_tensor(tensor: Tensor, frames: list[Buffer]) -> Packed:
    data = tensor.data
    size = data.nbytes if type(data) is memoryview else len(data)
    if size <= INLINE_BYTES_MAX:
        return [TENSOR, tensor.dtype.code, tensor.shape, data]  # type: ignore[list-item]  # msgpack takes both as they are
    frames.append(data)
    return [TENSOR, tensor.dtype.code, tensor.shape, len(frames) - 1]  # type: ignore[list-item]


class _Unpacker:
    """One tree's decoding: counts leaves, bounds depth."""

    __slots__ = ("_frames", "_nodes")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._nodes = 0

    def unpack(self, packed: object, depth: int) -> Tree:
        self._nodes += 1
        if self._nodes > TREE_LEAVES_MAX or depth > TREE_DEPTH_MAX:
            raise ProtocolError(f"tree over the limit of {TREE_LEAVES_MAX} nodes or {TREE_DEPTH_MAX} levels")
        if packed is None or isinstance(packed, (bool, int, float, str, bytes)):
            return packed
        if isinstance(packed, dict):
            return {_string(key): self.unpack(value, depth + 1) for key, value in packed.items()}
        if not isinstance(packed, (list, tuple)) or not packed:
            raise ProtocolError(
                f"tree node is {type(packed).__name__}, expected a plain value, a map or a tagged array"
            )
        tag = packed[0]
        if type(tag) is not int:
            raise ProtocolError(f"tree tag is {type(tag).__name__}, expected an integer")
        if tag == TENSOR:
            return self._tensor(packed)
        if tag == LIST:
            return [self.unpack(item, depth + 1) for item in packed[1:]]
        if tag == TUPLE:
            return tuple([self.unpack(item, depth + 1) for item in packed[1:]])
        if tag == STRINGS:
            return _strings(packed)
        raise ProtocolError(f"tree tag {tag!r} is unknown")

    def _tensor(self, packed: list[object] | tuple[object, ...]) -> Tensor:
        if len(packed) != 4:
            raise ProtocolError(f"tensor has {len(packed)} fields, expected 4")
        _, code, shape, where = packed
        if type(code) is not int or not 0 <= code < len(dtypes.ALL):
            raise ProtocolError(f"dtype code {code!r} is unknown")
        dims = _shape(shape)
        data: Buffer
        if type(where) is bytes:
            data = where
        elif type(where) is int and 0 <= where < len(self._frames):
            data = self._frames[where]
        else:
            raise ProtocolError(f"tensor data is neither bytes nor one of {len(self._frames)} frames")
        dtype = dtypes.ALL[code]
        check_size(dtype, dims, len(data) if type(data) is bytes else data.nbytes)  # type: ignore[union-attr]
        return Tensor(dtype, dims, data)


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)):
        raise ProtocolError(f"tensor shape is {type(shape).__name__}, expected an array")
    return tuple(shape)


def _string(key: object) -> str:
    if not isinstance(key, str):
        raise ProtocolError(f"map key is {type(key).__name__}, expected a string")
    return key


def _strings(packed: list[object] | tuple[object, ...]) -> Strings:
    if len(packed) != 3 or not isinstance(packed[2], (list, tuple)):
        raise ProtocolError("strings have the wrong form, expected [3, shape, [bin, ...]]")
    dims = _shape(packed[1])
    if any(type(dim) is not int or dim < 0 for dim in dims) or not all(type(item) is bytes for item in packed[2]):
        raise ProtocolError("strings have a bad dimension or an item that is not bytes")
    if math.prod(dims) != len(packed[2]):
        raise ProtocolError(f"strings {list(dims)} need {math.prod(dims)} items, got {len(packed[2])}")
    return Strings(dims, tuple(packed[2]))
