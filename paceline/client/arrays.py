"""What users pass and get - numpy, torch, lists, numbers, strings, trees of these - as the protocol has it, and back.

torch is never imported here: a tensor is recognised by its methods. bfloat16 goes as BF16 from torch and ml_dtypes; a
BF16 result is ml_dtypes.bfloat16 where ml_dtypes is installed, else float32, which holds every bfloat16 exactly.
"""

from __future__ import annotations

import functools
import importlib
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput
from paceline.protocol.limits import TENSOR_RANK_MAX, TREE_DEPTH_MAX
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree

Array: TypeAlias = npt.NDArray[Any]

_PLAIN = (bool, int, float, str, bytes)


def tensor_of(
    value: object, name: str, declared: DType | None = None, integers: DType = dtypes.I64
) -> Tensor | Strings:
    """The tensor of an argument, without a copy where it is contiguous.

    numpy and torch keep their dtype. Python numbers and nested lists take the declared dtype of the input if there is
    one; else floats become float32, ints `integers`, bools bool. Strings and bytes become BYTES. Raises InvalidInput
    that names the argument.
    """
    if type(value) is np.ndarray and value.dtype.kind not in "OSU":
        return _from_numpy(value, name)
    if _is_torch(value):
        return _from_torch(value, name)
    array = _as_array(value, name)
    if array.dtype.kind in "OSU":
        return _strings(array, name)
    if not hasattr(value, "dtype"):
        array = _chosen(array, name, declared, integers)
    return _from_numpy(array, name)


def tree_of(value: object, name: str, declared: DType | None = None, integers: DType = dtypes.I64) -> Tree:
    """The tree of an argument: dicts, lists and tuples leaf by leaf, each leaf as `tensor_of` has it.

    A list whose leaves are all numbers, or all strings, is one tensor. A number, string, bool or None that stands alone
    stays what it is, unless a dtype is declared. Raises InvalidInput that names the argument.
    """
    return _tree(value, name, declared, integers, 0)


def value_of(tree: Tree, *, torch: bool) -> Any:
    """A result as the caller gets it: its tensors as numpy arrays (see `array_of`), or as torch tensors; containers and
    plain values as they are."""
    if isinstance(tree, Tensor):
        return _torch_of(tree) if torch else array_of(tree)
    if isinstance(tree, Strings):
        return array_of(tree)
    if isinstance(tree, dict):
        return {key: value_of(item, torch=torch) for key, item in tree.items()}
    if isinstance(tree, list):
        return [value_of(item, torch=torch) for item in tree]
    if isinstance(tree, tuple):
        return tuple([value_of(item, torch=torch) for item in tree])
    return tree


def has_torch(value: object, tree: Tree) -> bool:
    """Whether a torch tensor is in `value`, of which `tree` was made."""
    if isinstance(value, dict) and isinstance(tree, dict):
        return any(has_torch(item, tree[key]) for key, item in value.items())
    if isinstance(value, (list, tuple)) and isinstance(tree, (list, tuple)):
        return any(map(has_torch, value, tree))
    return _is_torch(value)


def array_of(leaf: Tree) -> Array:
    """A result's leaf as a numpy array that is the caller's own; BYTES as an object array of bytes; plain values, as
    over HTTP, as one element."""
    if isinstance(leaf, Tensor):
        if leaf.dtype is dtypes.BF16:
            return _from_bf16(leaf.numpy())
        # The copy gives the caller a writable array that does not keep the whole message alive.
        return leaf.numpy().copy()
    if isinstance(leaf, Strings):
        array = np.empty(len(leaf.items), object)
        array[:] = leaf.items
        return array.reshape(leaf.shape)
    if isinstance(leaf, (str, bytes)):
        return np.array([leaf.encode() if isinstance(leaf, str) else leaf], object)
    return np.array([leaf])


def nbytes(tensor: Tensor | Strings) -> int:
    """Payload size in bytes."""
    if isinstance(tensor, Tensor):
        data = tensor.data
        return data.nbytes if isinstance(data, memoryview) else len(data)
    return sum(map(len, tensor.items)) + 4 * len(tensor.items)


def _tree(value: object, name: str, declared: DType | None, integers: DType, depth: int) -> Tree:
    if depth > TREE_DEPTH_MAX:
        raise InvalidInput(f"input {name!r} is nested deeper than {TREE_DEPTH_MAX} levels")
    if isinstance(value, dict):
        return {_key(key, name): _tree(item, f"{name}.{key}", None, integers, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        leaves = _leaves(value)
        if leaves is None:
            items = [_tree(item, f"{name}.{index}", None, integers, depth + 1) for index, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        floats = leaves.floats()
        if floats is not None:
            return _from_numpy(_chosen(floats, name, declared, integers), name)
    is_plain = isinstance(value, _PLAIN) and not isinstance(value, np.generic)
    if value is None or (is_plain and declared is None):
        return value  # type: ignore[return-value]  # a plain value is a leaf of a Tree
    return tensor_of(value, name, declared, integers)


def _key(key: object, name: str) -> str:
    if isinstance(key, str):
        return key
    raise InvalidInput(f"input {name!r} has the key {key!r}, expected string keys only")


@dataclass(frozen=True, slots=True)
class _Leaves:
    """What nested lists hold at their ends, and of which types. `shape`: None where the lists are no box."""

    items: Sequence[Any]
    kinds: set[type]
    shape: tuple[int, ...] | None

    def floats(self) -> Array | None:
        """The array that numpy makes of them, in a fraction of its time, if there are fractions and a shape: numpy
        looks for shape and type once more, number by number."""
        if self.shape is None or float not in self.kinds or not self.kinds <= {float, int}:
            return None
        try:
            packed = struct.pack(f"{len(self.items)}d", *self.items)
        except struct.error:  # an int that no float holds: numpy has the words for it
            return None
        return np.frombuffer(packed, np.float64).reshape(self.shape)


def _leaves(items: Sequence[Any]) -> _Leaves | None:
    """The leaves of nested lists if they are numbers and strings alone: then the lists are one tensor. Looks at whole
    levels, since JSON has many."""
    shape: tuple[int, ...] | None = (len(items),)
    for _ in range(TENSOR_RANK_MAX + 1):
        kinds = set(map(type, items))
        deeper = kinds & {list, tuple}
        if not all(issubclass(kind, (*_PLAIN, np.generic)) for kind in kinds - deeper):
            return None
        if not deeper:
            return _Leaves(items, kinds, shape)
        nested = items if kinds == deeper else [item for item in items if type(item) in deeper]
        lengths = set(map(len, nested))
        shape = (*shape, *lengths) if shape is not None and nested is items and len(lengths) == 1 else None
        items = list(chain.from_iterable(nested))
    return _Leaves((), set(), None)  # too deep for a tensor, which is the error to report


def _is_torch(value: object) -> bool:
    return hasattr(value, "detach") and hasattr(value, "cpu")


def _from_numpy(array: Array, name: str) -> Tensor:
    try:
        return from_numpy(array)
    except InvalidInput as error:
        raise InvalidInput(f"input {name!r}: {error.message}") from error


def _from_torch(value: Any, name: str) -> Tensor:
    if str(value.dtype) != "torch.bfloat16":
        try:
            return _from_numpy(value.numpy(force=True), name)
        except (TypeError, RuntimeError) as error:
            raise InvalidInput(f"input {name!r}: this tensor cannot be sent ({error}); convert it first") from error
    torch: Any = sys.modules["torch"]  # there, since the caller holds a tensor
    words = value.detach().cpu().contiguous().view(torch.int16).numpy(force=True)
    return Tensor(dtypes.BF16, tuple(value.shape), from_numpy(words).data)


def _torch_of(tensor: Tensor) -> Any:
    """The caller's own copy."""
    torch: Any = sys.modules["torch"]  # there, since the caller passed a tensor
    array = tensor.numpy().copy()
    if tensor.dtype is dtypes.BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _as_array(value: object, name: str) -> Array:
    if isinstance(value, (dict, set)) or value is None:
        hint = "; to give inputs by name, pass the dict's items: **inputs" if isinstance(value, dict) else ""
        raise InvalidInput(
            f"input {name!r} is a {type(value).__name__}; expected an array, a tensor, or lists of numbers or "
            f"strings{hint}"
        )
    first, depth = value, 0
    while isinstance(first, (list, tuple)) and first:
        first, depth = first[0], depth + 1
        if depth > TENSOR_RANK_MAX:  # a list that holds itself has no end
            raise InvalidInput(f"input {name!r} is nested deeper than {TENSOR_RANK_MAX} levels")
    # As objects: numpy's own texts lose zero characters at their end, and turn a number among them into a text.
    texts = isinstance(first, (str, bytes))
    try:
        array = np.array(value, object) if texts else np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"input {name!r} is not an array: {error}") from error
    if array.dtype.kind in "SU" and not hasattr(value, "dtype"):
        raise InvalidInput(f"input {name!r} mixes numbers and strings; expected one or the other")
    return array


def _chosen(array: Array, name: str, declared: DType | None, integers: DType) -> Array:
    """The dtype rule for what has none of its own."""
    if declared is None and array.dtype.kind not in "iu":
        chosen = {"f": dtypes.F32, "b": dtypes.BOOL}.get(array.dtype.kind)
        return array if chosen is None else array.astype(chosen.numpy, copy=False)
    if declared is None:
        # uint64 is what numpy makes of numbers that int64 does not hold.
        declared = dtypes.U64 if array.dtype.kind == "u" and integers is dtypes.I64 else integers
    if declared is dtypes.BF16:
        raise InvalidInput(
            f"input {name!r} is bfloat16; expected a torch or ml_dtypes bfloat16 array, got plain numbers"
        )
    if array.size and array.dtype.kind == "f" and declared.numpy.kind not in "fc":
        raise InvalidInput(f"input {name!r} has fractions, the model declares {declared.oip}; pass whole numbers")
    chosen_array = array.astype(declared.numpy)
    if array.dtype.kind in "iu" and declared.numpy.kind in "iu" and not np.array_equal(chosen_array, array):
        raise InvalidInput(f"input {name!r} has a number out of the range of {declared.oip}, which the model declares")
    return chosen_array


def _strings(array: Array, name: str) -> Strings:
    items = []
    for item in array.reshape(-1).tolist():
        if isinstance(item, str):
            items.append(item.encode())
        elif isinstance(item, bytes):
            items.append(item)
        else:
            raise InvalidInput(
                f"input {name!r} holds a {type(item).__name__}; expected numbers only or strings only, of equal lengths"
            )
    return Strings(array.shape, tuple(items))


def _from_bf16(words: Array) -> Array:
    bfloat16 = _ml_dtypes_bfloat16()
    if bfloat16 is not None:
        return words.copy().view(bfloat16)
    return (words.astype(np.uint32) << 16).view(np.float32)


@functools.cache
def _ml_dtypes_bfloat16() -> np.dtype[Any] | None:
    try:
        bfloat16: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError:
        return None
    return bfloat16
