"""Comparing versions: the numbers of every dtype, exactly; tensors that came, went and changed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paceline.protocol.errors import StoreError
from paceline.store import ModelStore
from paceline.store.comparison import TensorChange, _numbers, compare, largest_difference
from paceline.store.tensor_file import ITEM_BYTES, TensorSlot, lay_out


@pytest.mark.parametrize(
    ("dtype", "before", "after", "largest"),
    [
        (np.float32, [1.0, 2.0], [1.5, 2.0], 0.5),
        (np.float16, [65504.0], [-65504.0], 131008.0),
        (np.float64, [math.nan, math.inf], [math.nan, math.inf], 0.0),
        (np.float64, [math.inf], [1.0], math.inf),
        (np.int8, [-128], [127], 255.0),
        (np.int64, [-(2**63)], [2**63 - 1], float(2**64 - 1)),
        (np.uint8, [255, 0], [0, 1], 255.0),
        (np.complex64, [1 + 1j], [1 - 2j], 3.0),
        (np.float32, [], [], 0.0),
    ],
)
def test_the_largest_difference_is_exact(
    dtype: type[np.generic], before: list[float], after: list[float], largest: float
) -> None:
    assert largest_difference(np.array(before, dtype), np.array(after, dtype)) == largest


def test_a_nan_on_one_side_is_a_difference() -> None:
    assert math.isnan(largest_difference(np.array([math.nan, 1.0]), np.array([0.0, 3.0])))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_numbers_that_numpy_lacks_are_read_as_torch_reads_them(name: str) -> None:
    dtype = getattr(torch, name)
    data = np.arange(256, dtype=np.uint8 if dtype.itemsize == 1 else np.uint16) * (1 if dtype.itemsize == 1 else 257)
    spelled = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "bfloat16": "BF16"}[name]
    expected = torch.frombuffer(bytearray(data.tobytes()), dtype=dtype).to(torch.float32).numpy()
    np.testing.assert_array_equal(_numbers(spelled, memoryview(data.tobytes())).astype(np.float32), expected)


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_of_the_format_can_be_compared(dtype: str) -> None:
    data = memoryview(bytes(4 * ITEM_BYTES[dtype]))
    assert largest_difference(_numbers(dtype, data), _numbers(dtype, data)) == 0


def save(store: ModelStore, tensors: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> None:
    header, ordered = lay_out([TensorSlot(name, "F32", value.shape) for name, value in tensors.items()], {})
    with store.create("net", framework="custom", methods={}, code_bearing=True) as pending:
        pending.write("model.safetensors", [header, *[tensors[slot.name].tobytes() for slot in ordered]])


def test_tensors_are_compared_by_name_and_in_pieces(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    long = np.zeros(3 * 2**20, np.float32)
    longer = long.copy()
    longer[-1] = 2
    save(store, {"same": np.ones(3, np.float32), "long": long, "form": np.ones((2, 3), np.float32), "old": long[:1]})
    save(store, {"same": np.ones(3, np.float32), "long": longer, "form": np.ones((3, 2), np.float32), "new": long[:1]})
    found = compare(store.get("net:1"), store.get("net:2"))
    (weights,) = found.weights
    assert (found.same_content, weights.equal) == (False, 1)
    assert {change.name: change for change in weights.tensors} == {
        "long": TensorChange("long", ("F32", long.shape), ("F32", long.shape), 2.0),
        "form": TensorChange("form", ("F32", (2, 3)), ("F32", (3, 2))),
        "old": TensorChange("old", ("F32", (1,)), None),
        "new": TensorChange("new", None, ("F32", (1,))),
    }
    assert compare(store.get("net:1"), store.get("net:1")).same_content


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    save(store, {"a": np.zeros(1, np.float32)})
    save(store, {"a": np.ones(1, np.float32)})
    (store.get("net:2").path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"net:2/model\.safetensors is damaged"):
        compare(store.get("net:1"), store.get("net:2"))
