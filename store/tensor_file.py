"""The safetensors format: 8 bytes header size, a JSON header, then the tensors' bytes without gaps.

Written by its specification (safetensors README, "Format") instead of its library, which opens files by path: here the
header is parsed from bytes that were verified, and tensors stay where they are in them. Knows no tensor library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from paceline.protocol.errors import StoreError

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
HEADER_BYTES_MAX = 100_000_000
_METADATA = "__metadata__"
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """One tensor of a file: dtype in the format's own spelling, and where its bytes begin (from the file's start)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int = 0

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def lay_out(tensors: Iterable[TensorSlot], metadata: Mapping[str, str]) -> tuple[bytes, list[TensorSlot]]:
    """The header of a file of `tensors`, and the order in which their bytes must follow it.

    Wide items first and the data on a multiple of 64 bytes: so every tensor is aligned to its items when mapped.
    """
    ordered = sorted(tensors, key=lambda slot: -ITEM_BYTES[slot.dtype])
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    end = 0
    for slot in ordered:
        begin, end = end, end + slot.bytes
        header[slot.name] = {"dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, ordered


def parse_header(data: memoryview, what: str) -> tuple[list[TensorSlot], dict[str, str]]:
    """Where the tensors of a whole file `data` lie, and its metadata. Raises StoreError naming `what`."""
    try:
        size = int.from_bytes(data[:8], "little")
        if size > min(HEADER_BYTES_MAX, data.nbytes - 8):
            raise ValueError(f"a header of {size} bytes in a file of {data.nbytes}")
        header = json.loads(bytes(data[8 : 8 + size]))
        metadata = header.pop(_METADATA, {})
        slots = [_slot(name, entry, 8 + size) for name, entry in header.items()]
        _check_gapless(slots, 8 + size, data.nbytes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{what} is not a safetensors file: {type(error).__name__}: {error}") from error
    return slots, metadata


def _slot(name: str, entry: Mapping[str, object], data_begin: int) -> TensorSlot:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in ITEM_BYTES or not _are_sizes(shape) or not _are_sizes(offsets):
        raise ValueError(f"tensor {name!r} has a bad dtype, shape or offset")
    begin, end = offsets
    slot = TensorSlot(name, str(dtype), tuple(shape), data_begin + begin)
    if slot.bytes != end - begin:
        raise ValueError(f"tensor {name!r} of {slot.bytes} bytes lies in {end - begin}")
    return slot


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_gapless(slots: Iterable[TensorSlot], data_begin: int, file_end: int) -> None:
    position = data_begin
    for slot in sorted(slots, key=lambda slot: (slot.begin, slot.bytes)):
        if slot.begin != position:
            raise ValueError(f"tensor {slot.name!r} begins at {slot.begin}, expected {position}")
        position += slot.bytes
    if position != file_end:
        raise ValueError(f"the tensors end at {position}, the file at {file_end}")
