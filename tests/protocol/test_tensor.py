"""Tensors: every dtype and layout that numpy has, there and back."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from paceline.protocol import dtypes
from paceline.protocol.errors import InvalidInput, ProtocolError
from paceline.protocol.limits import TENSOR_RANK_MAX
from paceline.protocol.tensor import Tensor, check_bools, check_size, from_numpy

NUMPY_DTYPES = [dtype for dtype in dtypes.ALL if dtype is not dtypes.BF16]


def test_every_dtype_has_its_code_as_its_place_in_the_table() -> None:
    assert [dtype.code for dtype in dtypes.ALL] == list(range(14))
    assert {dtype.name for dtype in dtypes.ALL} == {
        *("bool", "u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64", "c64")
    }


@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=repr)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 3), (1, 2, 3, 4)], ids=str)
def test_numpy_array_returns_as_it_went(dtype: dtypes.DType, shape: tuple[int, ...]) -> None:
    array = np.arange(max(1, int(np.prod(shape)))).astype(dtype.numpy)[: int(np.prod(shape))].reshape(shape)
    tensor = from_numpy(array)
    check_size(tensor.dtype, tensor.shape, tensor.data.nbytes if isinstance(tensor.data, memoryview) else -1)
    back = tensor.numpy()
    assert (tensor.dtype, back.dtype, back.shape) == (dtype, dtype.numpy, shape)
    assert np.array_equal(back, array)


@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_array_of_any_dtype_travels_bit_by_bit_or_is_refused_by_name(array: npt.NDArray[Any]) -> None:
    if dtypes.from_numpy(array.dtype) is None:
        with pytest.raises(InvalidInput, match="expected one of bool"):
            from_numpy(array)
        return
    little = array.astype(array.dtype.newbyteorder("<"))
    assert bytes(from_numpy(array).data) == little.tobytes()


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::2],
        lambda a: a[:, ::-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], (3, a.shape[1])),
        lambda a: a.view(np.matrix),
    ],
    ids=["transposed", "strided", "reversed", "fortran", "broadcast", "matrix"],
)
def test_array_that_is_not_contiguous_is_sent_in_row_order(view: Any) -> None:
    array = view(np.arange(12, dtype=np.float32).reshape(4, 3))
    assert np.array_equal(from_numpy(array).numpy(), np.asarray(array))


def test_big_endian_array_is_sent_little_endian() -> None:
    array = np.array([1, 2, 300], dtype=">i4")
    tensor = from_numpy(array)
    assert bytes(tensor.data) == np.array([1, 2, 300], dtype="<i4").tobytes()
    assert tensor.dtype is dtypes.I32


def test_contiguous_array_is_sent_and_read_without_a_copy() -> None:
    array = np.zeros((2, 3), dtype=np.float32)
    back = from_numpy(array).numpy()
    assert np.shares_memory(array, back)


def test_bf16_is_uint16_words() -> None:
    words = np.array([0x3F80, 0x4000], dtype=np.uint16)
    back = Tensor(dtypes.BF16, (2,), words.tobytes()).numpy()
    assert back.dtype == np.uint16
    assert np.array_equal(back, words)
    assert from_numpy(words).dtype is dtypes.U16


def test_rank_at_the_limit_passes_and_one_more_is_refused() -> None:
    check_size(dtypes.U8, (1,) * TENSOR_RANK_MAX, 1)
    with pytest.raises(ProtocolError, match="rank 17 is over the limit of 16"):
        check_size(dtypes.U8, (1,) * (TENSOR_RANK_MAX + 1), 1)


@pytest.mark.parametrize("data_bytes", [23, 25])
def test_byte_count_off_by_one_is_refused(data_bytes: int) -> None:
    check_size(dtypes.F32, (2, 3), 24)
    with pytest.raises(ProtocolError, match=rf"f32 \[2, 3\] needs 24 bytes, got {data_bytes}"):
        check_size(dtypes.F32, (2, 3), data_bytes)


@pytest.mark.parametrize("shape", [(-1, -1), (True,), (1.0,), ("1",), (0, 2**40), (2**63, 2**63)])
def test_shape_that_is_not_one_is_refused(shape: tuple[Any, ...]) -> None:
    with pytest.raises(ProtocolError):
        check_size(dtypes.U8, shape, 0)


def test_bool_byte_that_is_neither_0_nor_1_is_refused() -> None:
    check_bools(b"")
    check_bools(b"\x00\x01")
    with pytest.raises(ProtocolError, match="neither 0 nor 1"):
        check_bools(memoryview(b"\x00\x02"))
