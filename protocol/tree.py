"""Arguments and results as trees of plain values and tensors, and their form inside a message head.

A container, tensor or long value is a MessagePack array that starts with its tag; the rest is MessagePack's own:

    list [0, *items]   tuple [1, *items]   tensor [2, dtype code, shape, data]   strings [3, shape, data]
    bytes [4, frame]   str [5, frame]

Data is the bytes themselves while they are small, else the index of a frame of the same item. dict is a map with
string keys. What the packer accepts, the reader accepts. Called by messages; it must not know what a tree is for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from paceline.protocol import dtypes
from paceline.protocol.errors import ProtocolError
from paceline.protocol.limits import (
    FRAME_BYTES_MAX,
    INLINE_BYTES_MAX,
    ITEM_BYTES_MAX,
    ITEM_HEAD_BYTES_MAX,
    ITEM_INLINE_BYTES_MAX,
    TENSOR_RANK_MAX,
    TREE_DEPTH_MAX,
    TREE_LEAVES_MAX,
)
from paceline.protocol.tensor import Buffer, Strings, Tensor, check_bools, check_dims, check_size

Tree: TypeAlias = (
    "bool | int | float | str | bytes | Tensor | Strings | list[Tree] | tuple[Tree, ...] | dict[str, Tree] | None"
)
Packed: TypeAlias = "bool | int | float | str | bytes | list[Packed] | dict[str, Packed] | None"

LIST, TUPLE, TENSOR, STRINGS, BYTES, TEXT = 0, 1, 2, 3, 4, 5

_LENGTH = struct.Struct("<I")
_NODE_BYTES, _DIM_BYTES = 10, 9
_LONE_RANK_MAX = 8


def pack_tree(tree: Tree, frames: list[Buffer]) -> Packed:
    """The MessagePack-ready form of `tree`; buffers too large for the head are appended to `frames` without a copy.

    Raises TypeError for what has no form (a set, a map with a key that is not a string) and ValueError for what is over
    a limit (64-bit integers, depth, nodes, bytes), so that one request fails and not the message it shares.
    """
    packer = _Packer(frames)
    packed = packer.pack(tree, 0)
    if packer.head_bytes > ITEM_HEAD_BYTES_MAX:
        raise ValueError(
            f"keys, shapes and small values take {packer.head_bytes} bytes, over the limit of {ITEM_HEAD_BYTES_MAX}; "
            f"join them into fewer tensors"
        )
    return packed


def unpack_tree(packed: object, frames: Sequence[Buffer]) -> Tree:
    """The tree behind `packed`, tensors viewing `frames` or the head's bytes. Raises ProtocolError, nothing else."""
    if type(packed) is list and _has_tag(packed, TENSOR):
        return _tensor(packed, frames)
    return _Unpacker(frames).unpack(packed, 0)


def pack_lone_tensor(tree: Tree) -> Packed:
    """What `pack_tree` makes of a tensor that fits the head, at a quarter of its cost: most calls and results are one.
    None for anything else."""
    if type(tree) is Tensor and len(tree.shape) <= _LONE_RANK_MAX:
        data = tree.data
        if (data.nbytes if type(data) is memoryview else len(data)) <= INLINE_BYTES_MAX:
            return [TENSOR, tree.dtype.code, tree.shape, data]  # type: ignore[list-item]  # msgpack takes both
    return None


def pack_lone_call(argument: Tree) -> Packed:
    """The same for the arguments of a call of one tensor."""
    tensor = pack_lone_tensor(argument)
    return None if tensor is None else [TUPLE, [TUPLE, tensor], {}]


def unpack_lone_call(packed: object, frames: Sequence[Buffer]) -> Tensor | None:
    """The tensor of a call of one tensor; None for any other call. Raises ProtocolError as `unpack_tree` does."""
    if type(packed) is list and len(packed) == 3 and _has_tag(packed, TUPLE) and packed[2] == {}:
        args = packed[1]
        if type(args) is list and len(args) == 2 and _has_tag(args, TUPLE):
            tensor = args[1]
            if type(tensor) is list and _has_tag(tensor, TENSOR):
                return _tensor(tensor, frames)
    return None


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


class _Packer:
    """One tree's encoding: counts nodes, head bytes and frame bytes, bounds depth."""

    __slots__ = ("_frame_bytes", "_frames", "_nodes", "head_bytes")

    def __init__(self, frames: list[Buffer]) -> None:
        self._frames = frames
        self._nodes = 0
        self.head_bytes = 0
        self._frame_bytes = 0

    def pack(self, tree: Tree, depth: int) -> Packed:
        self._nodes += 1
        if self._nodes > TREE_LEAVES_MAX or depth > TREE_DEPTH_MAX:
            raise ValueError(_over_size())
        self.head_bytes += _NODE_BYTES
        if isinstance(tree, Tensor):
            return self._tensor(tree)
        if isinstance(tree, tuple):
            return [TUPLE, *[self.pack(item, depth + 1) for item in tree]]
        if isinstance(tree, list):
            return [LIST, *[self.pack(item, depth + 1) for item in tree]]
        if isinstance(tree, dict):
            return {self._key(key): self.pack(value, depth + 1) for key, value in tree.items()}
        if isinstance(tree, Strings):
            return self._strings(tree)
        if isinstance(tree, (str, bytes)):
            return self._long(tree)
        if isinstance(tree, int) and not -(2**63) <= tree < 2**64:
            raise ValueError(f"an integer of {tree.bit_length()} bits cannot travel; expected at most 64 bits")
        if tree is None or isinstance(tree, (bool, int, float)):
            return tree
        raise TypeError(f"a {type(tree).__name__} cannot travel; expected plain values, containers and Tensor")

    def _tensor(self, tensor: Tensor) -> Packed:
        data = tensor.data
        if len(tensor.shape) > TENSOR_RANK_MAX:
            raise ValueError(f"a tensor of {len(tensor.shape)} dims is over the limit of {TENSOR_RANK_MAX}; reshape it")
        self.head_bytes += _DIM_BYTES * len(tensor.shape)
        where = data if self._inline(data.nbytes if type(data) is memoryview else len(data)) else self._frame(data)
        return [TENSOR, tensor.dtype.code, tensor.shape, where]  # type: ignore[list-item]  # msgpack takes both

    def _strings(self, strings: Strings) -> Packed:
        items = strings.items
        if len(strings.shape) > TENSOR_RANK_MAX:
            raise ValueError(f"strings of {len(strings.shape)} dims are over the limit of {TENSOR_RANK_MAX}")
        self.head_bytes += _DIM_BYTES * len(strings.shape)
        # A bin of MessagePack has up to 5 bytes before its data.
        if self._inline(5 * len(items) + sum(map(len, items))):
            return [STRINGS, list(strings.shape), list(items)]
        framed = b"".join([part for item in items for part in (_LENGTH.pack(len(item)), item)])
        return [STRINGS, list(strings.shape), self._frame(framed)]

    def _long(self, value: str | bytes) -> Packed:
        try:
            data = value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError as error:
            raise ValueError(f"a string is not valid Unicode and cannot travel: {error.reason}") from error
        if self._inline(len(data)):
            return value
        return [TEXT if isinstance(value, str) else BYTES, self._frame(data)]

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise TypeError(f"a map with the key {key!r} cannot travel; expected keys that are strings")
        try:
            self.head_bytes += len(key.encode()) + _NODE_BYTES
        except UnicodeEncodeError as error:
            raise ValueError(f"a map key is not valid Unicode and cannot travel: {error.reason}") from error
        return key

    def _inline(self, size: int) -> bool:
        """Whether `size` bytes of data go into the head; they are counted if so."""
        if size > INLINE_BYTES_MAX or self.head_bytes + size > ITEM_INLINE_BYTES_MAX:
            return False
        self.head_bytes += size
        return True

    def _frame(self, data: Buffer) -> int:
        """The index of `data` as a frame."""
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._frame_bytes += size
        if size > FRAME_BYTES_MAX or self._frame_bytes > ITEM_BYTES_MAX:
            raise ValueError(
                f"values of {self._frame_bytes} bytes cannot travel; expected at most {FRAME_BYTES_MAX} bytes each "
                f"and {ITEM_BYTES_MAX} in all: send fewer rows at a time"
            )
        self._frames.append(data)
        return len(self._frames) - 1


class _Unpacker:
    """One tree's decoding: counts nodes, bounds depth."""

    __slots__ = ("_frames", "_nodes")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._nodes = 0

    def unpack(self, packed: object, depth: int) -> Tree:
        self._nodes += 1
        if self._nodes > TREE_LEAVES_MAX or depth > TREE_DEPTH_MAX:
            raise ProtocolError(_over_size())
        if isinstance(packed, list) and packed:
            return self._tagged(packed, depth)
        if isinstance(packed, dict):
            return {_string(key): self.unpack(value, depth + 1) for key, value in packed.items()}
        if packed is None or isinstance(packed, (bool, int, float, str, bytes)):
            return packed
        raise ProtocolError(f"tree node is {type(packed).__name__}, expected a plain value, a map or a tagged array")

    def _tagged(self, packed: list[object], depth: int) -> Tree:
        tag = packed[0]
        if type(tag) is not int:
            raise ProtocolError(f"tree tag is {type(tag).__name__}, expected an integer")
        if tag == TENSOR:
            return _tensor(packed, self._frames)
        if tag == LIST:
            return [self.unpack(item, depth + 1) for item in packed[1:]]
        if tag == TUPLE:
            return tuple([self.unpack(item, depth + 1) for item in packed[1:]])
        if tag == STRINGS:
            return self._strings(packed)
        if tag in (BYTES, TEXT):
            return self._long(packed)
        raise ProtocolError(f"tree tag {tag!r} is unknown")

    def _strings(self, packed: list[object]) -> Strings:
        if len(packed) != 3:
            raise ProtocolError(f"strings have {len(packed)} fields, expected 3")
        dims = _shape(packed[1])
        count = check_dims(dims)
        where = packed[2]
        items = list(where) if isinstance(where, (list, tuple)) else _split(self._frame(where), count)
        if not all(type(item) is bytes for item in items):
            raise ProtocolError("strings have an item that is not bytes")
        if count != len(items):
            raise ProtocolError(f"strings {list(dims)} need {count} items, got {len(items)}")
        return Strings(dims, tuple(items))

    def _long(self, packed: list[object]) -> str | bytes:
        if len(packed) != 2:
            raise ProtocolError(f"long value has {len(packed)} fields, expected 2")
        data = bytes(self._frame(packed[1]))  # copied: a leaf of this kind is a Python value, not a view
        if packed[0] == BYTES:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"text of {len(data)} bytes is not UTF-8") from error

    def _frame(self, where: object) -> Buffer:
        return _frame_of(where, self._frames)


def _has_tag(packed: list[Any], tag: int) -> bool:
    return bool(packed) and packed[0] == tag and type(packed[0]) is int  # True == 1, but is no tag


def _tensor(packed: list[Any], frames: Sequence[Buffer]) -> Tensor:
    if len(packed) != 4:
        raise ProtocolError(f"tensor has {len(packed)} fields, expected 4")
    _, code, shape, where = packed
    if type(code) is not int or not 0 <= code < len(dtypes.ALL):
        raise ProtocolError(f"dtype code {code!r} is unknown")
    dims = _shape(shape)
    # memoryview: in the packer's own output, read in the same process.
    data = where if type(where) is bytes or type(where) is memoryview else _frame_of(where, frames)
    dtype = dtypes.ALL[code]
    check_size(dtype, dims, data.nbytes if type(data) is memoryview else len(data))
    if dtype is dtypes.BOOL:
        check_bools(data)
    return Tensor(dtype, dims, data)


def _frame_of(where: object, frames: Sequence[Buffer]) -> Buffer:
    if type(where) is int and 0 <= where < len(frames):
        return frames[where]
    raise ProtocolError(f"data is neither in the head nor in one of {len(frames)} frames")


def _over_size() -> str:
    return f"tree over the limit of {TREE_LEAVES_MAX} nodes or {TREE_DEPTH_MAX} levels"


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)):
        raise ProtocolError(f"tensor shape is {type(shape).__name__}, expected an array")
    return tuple(shape)


def _string(key: object) -> str:
    if not isinstance(key, str):
        raise ProtocolError(f"map key is {type(key).__name__}, expected a string")
    return key


def _split(data: Buffer, count: int) -> list[bytes]:
    """The items of a frame of strings: each a little-endian u32 length and its bytes (as OIP's binary BYTES)."""
    items: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        start = at + _LENGTH.size
        at = start + _LENGTH.unpack_from(data, at)[0] if start <= end else end + 1
        if at > end or len(items) == count:
            raise ProtocolError(f"strings frame of {end} bytes is not {count} items of a length and its bytes")
        items.append(bytes(data[start:at]))
    return items
