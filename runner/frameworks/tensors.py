"""torch tensors in and out of safetensors files: written from where they are, read as views of the mapped file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.tensor import Buffer
from paceline.store.tensor_file import TensorSlot, lay_out, parse_header

_FILE_DTYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_TORCH_DTYPES = {text: dtype for dtype, text in _FILE_DTYPES.items()}
_WIRE_NAMES = {"BOOL": "bool"}


def can_store(tensor: torch.Tensor) -> bool:
    """Whether a file can hold `tensor`: plain strided values of a known dtype, on a real device."""
    return (
        tensor.dtype in _FILE_DTYPES
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_quantized
        and not tensor.is_nested
    )


def wire_dtype(tensor: torch.Tensor) -> DType | None:
    """The closed table's entry for the tensor's dtype; None where the wire has none (float8, complex128)."""
    text = _FILE_DTYPES.get(tensor.dtype, "")
    return dtypes.BY_NAME.get(_WIRE_NAMES.get(text, text.lower()))


def torch_dtype(dtype: DType) -> torch.dtype:
    """What torch calls an entry of the closed table."""
    return _TORCH_DTYPES[dtype.name.upper()]


def file_chunks(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Iterator[Buffer]:
    """The safetensors file of `tensors`, header first, then one buffer per tensor.

    Only tensors on a GPU or without C order are copied, one at a time.
    """
    slots = [TensorSlot(name, _FILE_DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()]
    header, ordered = lay_out(slots, metadata)
    yield header
    for slot in ordered:
        yield _bytes(tensors[slot.name])


def read_tensors(data: memoryview, what: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a safetensors file, views of `data` (writable), and its metadata. Raises StoreError."""
    slots, metadata = parse_header(data, what)
    return {slot.name: _view(data, slot) for slot in slots}, metadata


def _bytes(tensor: torch.Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return memoryview(plain.reshape(-1).view(torch.uint8).numpy().data)


def _view(data: memoryview, slot: TensorSlot) -> torch.Tensor:
    dtype = _TORCH_DTYPES[slot.dtype]
    if slot.bytes == 0:
        return torch.empty(slot.shape, dtype=dtype)
    count = slot.bytes // dtype.itemsize
    return torch.frombuffer(data, dtype=dtype, count=count, offset=slot.begin).view(slot.shape)
