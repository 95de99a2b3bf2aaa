"""The safetensors codec, against its own rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol.errors import StoreError
from paceline.store.tensor_file import ITEM_BYTES, TensorSlot, lay_out, parse_header

SLOTS = [TensorSlot("small", "U8", (3,)), TensorSlot("wide", "F64", (2, 2)), TensorSlot("empty", "F32", (0, 4))]


def whole_file(slots: list[TensorSlot]) -> bytes:
    header, ordered = lay_out(slots, {"format": "pt"})
    return header + b"".join(bytes(slot.bytes) for slot in ordered)


def test_every_tensor_is_aligned_to_its_items() -> None:
    slots, metadata = parse_header(memoryview(whole_file(SLOTS)), "x")
    assert metadata == {"format": "pt"}
    assert {slot.name: slot.shape for slot in slots} == {"small": (3,), "wide": (2, 2), "empty": (0, 4)}
    assert all(slot.begin % ITEM_BYTES[slot.dtype] == 0 for slot in slots)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 3]}},
        {"a": {"dtype": "U9", "shape": [4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [-4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]}},
        {"a": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}},
        {"a": {"dtype": "U8", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 1 << 80]}},
        {"a": {"dtype": "U8", "shape": [4]}},
        {"a": [1]},
        [],
    ],
)
def test_a_header_that_does_not_fit_the_bytes_is_refused(header: object) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"1234"
    with pytest.raises(StoreError, match="net:1/x is not a safetensors file"):
        parse_header(memoryview(data), "net:1/x")


@given(st.data())
def test_a_damaged_file_raises_a_store_error_and_nothing_else(data: st.DataObject) -> None:
    encoded = bytearray(whole_file(SLOTS))[: data.draw(st.integers(0, 400))]
    if encoded:
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        slots, _ = parse_header(memoryview(encoded), "x")
    except StoreError:
        return
    assert all(slot.begin >= 0 and slot.begin + slot.bytes <= len(encoded) for slot in slots)
