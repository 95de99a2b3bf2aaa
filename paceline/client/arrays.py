"""What users pass and get - numpy, torch, lists, numbers, strings - as tensors of the protocol, and back.

torch is never imported here: a tensor is recognised by its methods. bfloat16 goes as BF16 from torch and ml_dtypes; a
BF16 result is ml_dtypes.bfloat16 where ml_dtypes is installed, else float32, which holds every bfloat16 exactly.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree

Array: TypeAlias = npt.NDArray[Any]


def tensor_of(value: object, name: str, declared: DType | None = None) -> Tensor | Strings:
    """The tensor of an argument, without a copy where it is contiguous.

    numpy and torch keep their dtype. Python numbers and nested lists take the declared dtype of the input if there is
    one; else floats become float32, ints int64, bools bool. Strings and bytes become BYTES. Raises InvalidInput that
    names the argument.
    """
    if type(value) is np.ndarray and value.dtype.kind not in "OSU":
        return _from_numpy(value, name)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _from_torch(value, name)
    array = _as_array(value, name)
    if array.dtype.kind in "OSU":
        return _strings(array, name)
    if not hasattr(value, "dtype"):
        array = _chosen(array, name, declared)
    return _from_numpy(array, name)


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


def _as_array(value: object, name: str) -> Array:
    if isinstance(value, (dict, set)) or value is None:
        hint = "; to give inputs by name, pass the dict's items: **inputs" if isinstance(value, dict) else ""
        raise InvalidInput(
            f"input {name!r} is a {type(value).__name__}; expected an array, a tensor, or lists of numbers or "
            f"strings{hint}"
        )
    first = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    # As objects: numpy's own texts lose zero characters at their end, and turn a number among them into a text.
    texts = isinstance(first, (str, bytes))
    try:
        array = np.array(value, object) if texts else np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"input {name!r} is not an array: {error}") from error
    if array.dtype.kind in "SU" and not hasattr(value, "dtype"):
        raise InvalidInput(f"input {name!r} mixes numbers and strings; expected one or the other")
    return array


def _chosen(array: Array, name: str, declared: DType | None) -> Array:
    """The dtype rule for what has none of its own."""
    if declared is None:
        chosen = {"f": dtypes.F32, "i": dtypes.I64, "u": dtypes.U64, "b": dtypes.BOOL}.get(array.dtype.kind)
        return array if chosen is None else array.astype(chosen.numpy, copy=False)
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
