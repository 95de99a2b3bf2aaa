"""Trees of arguments: what becomes one tensor, what stays a container, what cannot travel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from paceline.client.arguments import Measures, payload_bytes
from paceline.client.arrays import has_torch, tree_of, value_of
from paceline.protocol import dtypes
from paceline.protocol.errors import InvalidInput
from paceline.protocol.limits import TENSOR_RANK_MAX, TREE_DEPTH_MAX
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Strings, Tensor, from_numpy


def shown(tree: Any) -> Any:
    """Tensors as "dtype[shape]"."""
    if isinstance(tree, Tensor):
        return f"{tree.dtype.name}{list(tree.shape)}"
    if isinstance(tree, Strings):
        return f"str{list(tree.shape)}"
    if isinstance(tree, dict):
        return {key: shown(item) for key, item in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(shown(item) for item in tree)
    return tree


@pytest.mark.parametrize(
    ("value", "tree"),
    [
        ([1.0, 2], "f32[2]"),
        ([[1, 2], (3, 4)], "i64[2, 2]"),
        ((True, False), "bool[2]"),
        ([], "f32[0]"),
        ([np.float64(1), 2.0], "f32[2]"),
        (["a", b"b"], "str[2]"),
        ([np.ones(2)], ["f64[2]"]),
        ([torch.ones(2), [1.0]], ["f32[2]", "f32[1]"]),
        ([{"a": [1.0], "b": "text"}], [{"a": "f32[1]", "b": "text"}]),
        ((None, 1, [2]), (None, 1, "i64[1]")),
        ({"a": {"b": np.float16(1)}}, {"a": {"b": "f16[]"}}),
        (3, 3),
        ("text", "text"),
        (None, None),
        (np.int8(3), "i8[]"),
    ],
)
def test_what_becomes_of_a_value(value: object, tree: object) -> None:
    assert shown(tree_of(value, "x")) == tree


def test_declared_dtype_holds_for_lists_and_numbers_and_not_for_what_has_its_own() -> None:
    assert shown(tree_of([[1, 2]], "x", dtypes.F64)) == "f64[1, 2]"
    assert shown(tree_of(3, "x", dtypes.F32)) == "f32[]"
    assert shown(tree_of(np.ones(1, np.int8), "x", dtypes.F32)) == "i8[1]"
    assert shown(tree_of({"a": [1]}, "x", dtypes.F32)) == {"a": "i64[1]"}


def test_whole_numbers_become_what_the_model_computes_in() -> None:
    value = {"ints": [[1, 2]], "floats": [1.0], "flags": [True], "own": np.ones(1, np.int64), "declared": 3}
    assert shown(tree_of(value, "x", None, dtypes.F16)) == {
        "ints": "f16[1, 2]",
        "floats": "f32[1]",
        "flags": "bool[1]",
        "own": "i64[1]",
        "declared": 3,
    }
    assert shown(tree_of([1], "x", dtypes.I8, dtypes.F32)) == "i8[1]"
    assert [shown(tree_of([2**63], "x")), shown(tree_of([2**63], "x", None, dtypes.F32))] == ["u64[1]", "f32[1]"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ({"a": {1: 2}}, "input 'x.a' has the key 1, expected string keys"),
        ([np.ones(1), {"k": object()}], "input 'x.1.k' holds a object"),
        ([[1.0], [1.0, 2.0]], "input 'x' is not an array"),
        ([1.0, "a"], "input 'x' holds a float|input 'x' mixes numbers and strings"),
    ],
)
def test_what_cannot_travel_is_named_by_its_path(value: object, error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        tree_of(value, "x")


def test_depth_is_bounded_even_where_it_has_no_end() -> None:
    endless: list[Any] = [{}]
    endless[0]["again"] = endless
    with pytest.raises(InvalidInput, match=f"nested deeper than {TREE_DEPTH_MAX} levels"):
        tree_of(endless, "x")
    numbers: list[Any] = [1]
    numbers[0] = numbers
    with pytest.raises(InvalidInput, match=f"nested deeper than {TENSOR_RANK_MAX} levels"):
        tree_of(numbers, "x")


def test_result_is_numpy_or_torch_by_what_was_given() -> None:
    value = {"a": [torch.ones(1)], "b": np.ones(1)}
    tree = tree_of(value, "x")
    assert has_torch(value, tree)
    assert not has_torch([[1.0]], tree_of([[1.0]], "x"))
    back = value_of(tree, torch=True)
    assert isinstance(back["a"][0], torch.Tensor)
    assert isinstance(back["b"], torch.Tensor)
    plain = value_of(tree, torch=False)
    assert isinstance(plain["a"][0], np.ndarray)
    plain["a"][0][0] = 5.0  # its own
    assert value_of((1, "x", Strings((1,), (b"y",))), torch=True)[:2] == (1, "x")


def test_payload_counts_every_leaf() -> None:
    tree = tree_of({"a": np.ones(3, np.float32), "b": [np.ones(1, np.int8), "four"], "c": (None, 1)}, "x")
    assert payload_bytes((tree,), {"y": from_numpy(np.ones(2))}) == 12 + 1 + 4 + 16


def test_measures_are_those_of_the_call_whatever_was_measured_before() -> None:
    method = MethodSpec("f", batchable=True)
    measures = Measures(100)
    two, three = from_numpy(np.ones((2, 4))), from_numpy(np.ones((3, 4)))
    assert [measures.of("m", method, (each,), {}).rows for each in (two, three, two)] == [2, 3, 2]
    assert measures.of("m", method, (two,), {"y": two}).key != measures.of("m", method, (two,), {}).key
