"""NumpyNdarray and Tensor: JSON's lists and .npy files, checked dtypes and shapes."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from paceline.io import JSON, NumpyNdarray, Tensor
from paceline.io.arrays import read_npy
from paceline.protocol.errors import InvalidInput, StartError
from paceline.service import Service
from tests.paceline.service.asking import ask, echo_service, error_of

NPY = {"content-type": "application/x-npy"}


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **options)
    return stream.getvalue()


def hostile(header: str) -> bytes:
    """A .npy file with this header, and 16 bytes of data."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(16)


@pytest.mark.parametrize(
    ("value", "dtype"), [([[1.5, 2]], "float32"), ([1, 2], "int64"), ([True], "bool"), ([], "float32"), (3, "int64")]
)
def test_lists_without_a_dtype_become_float32_or_int64(value: Any, dtype: str) -> None:
    service, got = echo_service(NumpyNdarray())
    response = ask(service, "/echo", json=value)
    assert (response.json(), str(got[0].dtype)) == (value, dtype)


def test_lists_are_converted_to_the_declared_dtype() -> None:
    service, got = echo_service(NumpyNdarray(dtype="float64"))
    ask(service, "/echo", json=[1, 2])
    assert (got[0].dtype, got[0].tolist()) == (np.float64, [1.0, 2.0])


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        (None, [[1, 2], [3]], "the body is no array of nested lists: they have unequal lengths"),
        (None, json.loads("[" * 70 + "]" * 70), "the body is no array of nested lists: they are nested too deeply"),
        (None, [1, "2"], "the body is not an array of numbers: it holds text"),
        (None, [1, None], "the body is not an array of numbers: it holds null"),
        (None, {"a": 1}, "the body is not an array of numbers: it holds an object"),
        (None, "abc", "the body is not an array of numbers: it holds text"),
        ("int32", [1.5], "the body has fractions, expected int32 numbers"),
        ("uint8", [256], "the body has a number that uint8 cannot hold"),
        ("uint8", [-1], "the body has a number that uint8 cannot hold"),
        ("float32", [1e300], "the body has a number that float32 cannot hold"),
        ("bool", [2], "the body has a number that bool cannot hold"),
    ],
)
def test_lists_that_are_no_such_array_are_refused(dtype: str | None, value: Any, text: str) -> None:
    service, got = echo_service(NumpyNdarray(dtype=dtype))
    assert error_of(ask(service, "/echo", json=value)) == (400, "invalid_input", text)
    assert got == []


@pytest.mark.parametrize(("shape", "fits"), [((-1, 2), True), ((2, 2), True), ((2, 3), False), ((-1,), False)])
def test_the_shape_is_checked_and_minus_one_is_any_size(shape: tuple[int, ...], fits: bool) -> None:
    service, _ = echo_service(NumpyNdarray(shape=shape))
    response = ask(service, "/echo", json=[[1, 2], [3, 4]])
    if fits:
        assert response.status_code == 200
    else:
        text = f"the body has the shape [2, 2], expected {list(shape)} (-1 is any size)"
        assert error_of(response) == (400, "invalid_input", text)


def test_without_enforce_the_array_is_reshaped_where_it_fits() -> None:
    service, got = echo_service(NumpyNdarray(shape=(-1, 2), enforce=False))
    assert ask(service, "/echo", json=[1, 2, 3, 4]).json() == [[1, 2], [3, 4]]
    assert error_of(ask(service, "/echo", json=[1, 2, 3]))[:2] == (400, "invalid_input")
    assert len(got) == 1


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.int16).reshape(2, 3), np.float16(2.5), np.zeros((0, 3)), np.array([1j])]
)
@pytest.mark.parametrize("options", [{}, {"version": (2, 0)}])
def test_a_npy_file_arrives_as_its_array(array: Any, options: dict[str, Any]) -> None:
    service = Service(name="s")

    @service.api(input=NumpyNdarray(), output=NumpyNdarray())
    async def back(value: Any) -> Any:
        return value

    response = ask(service, "/back", content=npy(array, **options), headers={**NPY, "accept": "application/x-npy"})
    assert response.headers["content-type"] == "application/x-npy"
    found = np.load(io.BytesIO(response.content), allow_pickle=False)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("array", [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">i4")])
def test_other_layouts_become_native_rows(array: Any) -> None:
    found = read_npy(npy(array), "the body")
    np.testing.assert_array_equal(found, array)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.dtype.isnative


def test_a_npy_file_of_another_dtype_is_refused_or_converted() -> None:
    strict, _ = echo_service(NumpyNdarray(dtype="float32"))
    text = "the body has the dtype float64, expected float32"
    body = npy(np.array([1.5]))
    assert error_of(ask(strict, "/echo", content=body, headers=NPY)) == (400, "invalid_input", text)
    lenient, got = echo_service(NumpyNdarray(dtype="float32", enforce=False))
    assert ask(lenient, "/echo", content=body, headers=NPY).status_code == 200
    assert got[0].dtype == np.float32


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x93NUMPY",
        b"not numpy at all",
        npy(np.arange(4))[:-1],
        npy(np.arange(4)) + b"x",
        npy(np.array([{}], object), allow_pickle=True),
        npy(np.array(["text"])),
        hostile("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        hostile("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999999)}"),
        hostile("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -4)}"),
        hostile("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,)}"),
        hostile("{'descr': '<f4'"),
        hostile("[" * 3000),
        hostile("x" * 5000),
        b"\x93NUMPY\x09\x00" + bytes(20),
    ],
)
def test_what_is_no_npy_file_of_numbers_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        read_npy(body, "the body")


def test_nan_goes_out_as_npy_and_not_as_json() -> None:
    service = Service(name="s")

    @service.api(output=NumpyNdarray())
    async def give() -> Any:
        return np.array([np.nan], np.float32)

    status, code, text = error_of(ask(service, "/give"))
    assert (status, code) == (500, "model_error")
    assert "accept: application/x-npy" in text
    assert ask(service, "/give", headers={"accept": "application/x-npy"}).status_code == 200


def test_a_result_that_is_no_array_is_an_error() -> None:
    service, _ = echo_service(JSON(), NumpyNdarray())
    assert error_of(ask(service, "/echo", json=["a"]))[:2] == (500, "model_error")


def test_tensor_gives_and_takes_torch_tensors() -> None:
    service, got = echo_service(Tensor(dtype=torch.float32, shape=(-1, 2)))
    assert ask(service, "/echo", json=[[1, 2]]).json() == [[1.0, 2.0]]
    assert torch.equal(got[0], torch.tensor([[1.0, 2.0]]))


def test_tensor_results_of_half_precision_are_numbers() -> None:
    service = Service(name="s")

    @service.api(output=Tensor())
    async def give() -> Any:
        return torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True)

    assert ask(service, "/give").json() == [1.5]


def test_tensor_without_torch_says_to_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(StartError, match="import torch"):
        Tensor()


@pytest.mark.parametrize("options", [{"dtype": "U4"}, {"dtype": "object"}, {"shape": (-2,)}, {"shape": ("a",)}])
def test_descriptors_that_cannot_be_are_errors_at_load(options: dict[str, Any]) -> None:
    with pytest.raises(StartError):
        NumpyNdarray(**options)


def test_tensor_refuses_a_dtype_that_numpy_lacks() -> None:
    with pytest.raises(StartError, match="bfloat16"):
        Tensor(dtype=torch.bfloat16)


def test_a_sample_says_dtype_and_shape_with_rows_free() -> None:
    described = NumpyNdarray.from_sample(np.zeros((2, 3), np.int32)).schema()["application/json"]
    row = {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3}
    assert described == {"schema": {"type": "array", "items": row}, "example": [[0, 0, 0], [0, 0, 0]]}
    service, _ = echo_service(Tensor.from_sample(torch.zeros(1, 2)))
    assert ask(service, "/echo", json=[[1, 2], [3, 4]]).status_code == 200
    assert error_of(ask(service, "/echo", json=[[1, 2, 3]]))[:2] == (400, "invalid_input")
