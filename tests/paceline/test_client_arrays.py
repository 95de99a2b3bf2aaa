"""Arguments and results as arrays: dtypes that stay, dtypes that are chosen, torch without importing it."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from paceline.client import arrays
from paceline.client.arrays import array_of, nbytes, tensor_of, tree_of
from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import InvalidInput
from paceline.protocol.tensor import Strings, Tensor

ROOT = Path(__file__).resolve().parents[2]
SENDABLE = [dtype for dtype in dtypes.ALL if dtype is not dtypes.BF16]


@given(st.sampled_from(SENDABLE).flatmap(lambda d: hnp.arrays(d.numpy, hnp.array_shapes(min_dims=0, min_side=0))))
def test_every_array_comes_back_as_it_went(array: np.ndarray) -> None:
    tensor = tensor_of(array, "x")
    assert isinstance(tensor, Tensor)
    back = array_of(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable
    assert nbytes(tensor) == array.nbytes


@pytest.mark.parametrize(
    ("value", "declared", "dtype"),
    [
        (1.5, None, dtypes.F32),
        (2, None, dtypes.I64),
        (True, None, dtypes.BOOL),
        ([[1, 2.5]], None, dtypes.F32),
        ([], None, dtypes.F32),
        ([1, 2], dtypes.F16, dtypes.F16),
        ([1, 2], dtypes.U8, dtypes.U8),
        ([1.0, 2.0], dtypes.F64, dtypes.F64),
        (1 + 2j, dtypes.C64, dtypes.C64),
        ([np.float64(1.5)], None, dtypes.F32),
        (np.float64(1.5), None, dtypes.F64),
        (np.array([1.5]), dtypes.F32, dtypes.F64),
    ],
)
def test_numbers_take_the_declared_dtype_and_arrays_keep_theirs(
    value: object, declared: DType | None, dtype: DType
) -> None:
    tensor = tensor_of(value, "x", declared)
    assert isinstance(tensor, Tensor)
    assert tensor.dtype is dtype


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        ([1.5], dtypes.I32, "has fractions"),
        ([300], dtypes.U8, "out of the range of UINT8"),
        ([-1], dtypes.U64, "out of the range of UINT64"),
        ([1.0], dtypes.BF16, "is bfloat16"),
        (["a", 1], None, "holds a int"),
        ([1, "a"], None, "mixes numbers and strings"),
        ([["a"], "b"], None, "holds a list"),
        ([[1], [1, 2]], None, "is not an array"),
        (2**70, None, "cannot be sent|is not an array|holds a int"),
        (1 + 2j, None, "cannot be sent"),
        (np.array(["2026-01-01"], "M8[s]"), None, "cannot be sent"),
        (None, None, "is a NoneType"),
        ({1, 2}, None, "is a set"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(value: object, declared: DType | None, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"input 'x'.*({expected})"):
        tensor_of(value, "x", declared)


_NUMBERS = st.one_of(st.floats(), st.integers(-(2**60), 2**60), st.booleans())
_NESTED = st.recursive(_NUMBERS, lambda items: st.lists(items, max_size=3), max_leaves=12)
_BOXES = hnp.array_shapes(max_dims=4, max_side=3).flatmap(
    lambda shape: st.one_of(
        hnp.arrays(np.float64, shape),
        hnp.arrays(object, shape, elements=st.one_of(st.floats(width=32), st.integers(-9, 9))),
    ).map(np.ndarray.tolist)
)


@given(st.one_of(_BOXES, st.lists(_NESTED, max_size=3)), st.sampled_from([None, dtypes.F16, dtypes.F64, dtypes.I32]))
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_nested_lists_are_the_tensor_that_numpy_makes_of_them(value: list[object], declared: DType | None) -> None:
    def outcome(convert: Callable[..., Any]) -> object:
        try:
            tensor = convert(value, "x", declared)
        except InvalidInput as error:
            return error.message
        return tensor.dtype, tensor.shape, bytes(tensor.data)

    assert outcome(tree_of) == outcome(tensor_of)


def test_nested_lists_of_floats_are_not_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object) -> None:
        raise AssertionError("numpy goes through the lists once more")

    monkeypatch.setattr(arrays, "_as_array", slow)
    tensor = tree_of([[[1.5, 2], (3, -0.5)]], "x")
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(tensor.numpy(), np.array([[[1.5, 2], [3, -0.5]]], np.float32))


def test_an_int_that_no_float_holds_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="input 'x'"):
        tree_of([1.5, 10**400], "x")


def test_strings_keep_every_byte() -> None:
    strings = tensor_of([["ä", "b\0"], [b"\xff", ""]], "x")
    assert strings == Strings((2, 2), ("ä".encode(), b"b\0", b"\xff", b""))
    assert array_of(strings).tolist() == [["ä".encode(), b"b\0"], [b"\xff", b""]]
    assert tensor_of("one", "x") == Strings((), (b"one",))
    assert tensor_of(np.array(["a", "b"]), "x") == Strings((2,), (b"a", b"b"))
    assert nbytes(strings) == 2 + 2 + 1 + 4 * 4


@pytest.mark.parametrize(
    "name", ["bool", "uint8", "int8", "int64", "float16", "bfloat16", "float32", "float64", "complex64"]
)
def test_torch_tensors_keep_their_dtype_and_bytes(name: str) -> None:
    torch = pytest.importorskip("torch")
    value = torch.arange(6).reshape(2, 3).to(getattr(torch, name)).T
    tensor = tensor_of(value, "x")
    assert isinstance(tensor, Tensor)
    assert tensor.shape == (3, 2)
    if name == "bfloat16":
        assert tensor.dtype is dtypes.BF16
        words = value.contiguous().view(torch.int16).numpy()
        assert bytes(tensor.data) == words.tobytes()
    else:
        np.testing.assert_array_equal(tensor.numpy(), value.contiguous().numpy())


def test_torch_tensors_that_need_grad_or_are_0d_are_taken() -> None:
    torch = pytest.importorskip("torch")
    assert tensor_of(torch.ones(2, requires_grad=True), "x").shape == (2,)
    assert tensor_of(torch.tensor(1.0, dtype=torch.bfloat16), "x").shape == ()
    assert tensor_of(torch.ones(2, dtype=torch.complex64).conj(), "x").shape == (2,)
    with pytest.raises(InvalidInput, match="input 'x'"):
        tensor_of(torch.ones(2).to_sparse(), "x")


def test_bf16_results_are_float32_where_ml_dtypes_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    arrays._ml_dtypes_bfloat16.cache_clear()
    words = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16)
    array = array_of(Tensor(dtypes.BF16, (2, 2), words.tobytes()))
    assert array.dtype == np.float32
    assert array[:1].tolist() == [[1.0, -2.0]]
    assert array[1, 0] == np.inf
    arrays._ml_dtypes_bfloat16.cache_clear()


def test_bf16_results_are_ml_dtypes_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("ml_dtypes")
    stand_in.bfloat16 = np.float16  # type: ignore[attr-defined]  # any 2-byte dtype shows that the words are kept
    monkeypatch.setitem(sys.modules, "ml_dtypes", stand_in)
    arrays._ml_dtypes_bfloat16.cache_clear()
    words = np.array([1, 2, 3], np.uint16)
    array = array_of(Tensor(dtypes.BF16, (3,), words.tobytes()))
    assert array.dtype == np.float16
    assert array.view(np.uint16).tolist() == [1, 2, 3]
    arrays._ml_dtypes_bfloat16.cache_clear()


WITHOUT_TORCH = """
import sys, pathlib, tempfile

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np
import paceline
from tests.paceline.fake_http import FakeServer, echo
from tests.paceline.fake_native import FakeNative

with FakeServer(echo) as server, paceline.Client(server.url) as client:
    assert client.predict("echo", [[1.0, 2.0]]).tolist() == [[1.0, 2.0]]
with tempfile.TemporaryDirectory() as folder, FakeNative(pathlib.Path(folder)) as server:
    with paceline.Client(server.url) as client:
        assert client.predict("echo", np.ones((1, 2))).tolist() == [[1.0, 1.0]]
assert "torch" not in sys.modules
"""


def test_the_client_works_where_torch_is_not_installed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
