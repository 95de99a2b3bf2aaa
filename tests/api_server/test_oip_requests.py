"""Infer requests: what is read, and every refusal with its text."""

from __future__ import annotations

import gc
import json
import re
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from paceline.api_server.oip_request import Call, RequestReader
from paceline.protocol import dtypes
from paceline.protocol.catalog import Catalog, model_metadata
from paceline.protocol.errors import InvalidInput, InvalidParameter, TooLarge
from paceline.protocol.signature import InputSpec, MethodSpec, parse_signatures
from paceline.protocol.tensor import Strings, Tensor
from tests.api_server.world import OPEN, TYPED, runner, serve

TWO = MethodSpec(
    "__call__",
    inputs=(InputSpec("a"), InputSpec("b", required=False), InputSpec("c", required=False)),
    open_inputs=False,
)
STAR = MethodSpec("__call__", inputs=(InputSpec("x"),), open_inputs=True)
NOTHING = MethodSpec("stats", inputs=(), open_inputs=False)


def reader(*methods: MethodSpec, rows_max: int = 4096) -> RequestReader:
    return RequestReader(Catalog(serve(runner("net", *methods))).find("net"), rows_max)


def tensor(name: str = "x", shape: object = (1, 4), datatype: object = "FP32", **rest: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype} | (rest or {"data": [1, 2, 3, 4]})


def binary(size: object, **rest: Any) -> dict[str, Any]:
    return tensor(**rest, parameters={"binary_data_size": size})


def read(request: object, tail: bytes | None = None, *methods: MethodSpec, rows_max: int = 4096) -> Call:
    head = request if isinstance(request, bytes) else json.dumps(request).encode()
    if tail is None:
        return reader(*methods, rows_max=rows_max).read(head, None)
    return reader(*methods, rows_max=rows_max).read(head + tail, b"%d" % len(head))


def array(leaf: object) -> Any:
    assert isinstance(leaf, Tensor)
    return leaf.numpy()


def one(*args: Any, **options: Any) -> dict[str, Any]:
    return {"inputs": [tensor(*args, **options)]}


def bits(size: object, **options: Any) -> dict[str, Any]:
    return {"inputs": [binary(size, **options)]}


def par(**parameters: Any) -> dict[str, Any]:
    return one() | {"parameters": parameters}


def out(outputs: object) -> dict[str, Any]:
    return one() | {"outputs": outputs}


def text(datatype: str, data: str) -> bytes:
    """A request whose data json.dumps would not write."""
    return f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"{datatype}","data":{data}}}]}}'.encode()


IN, PAR = InvalidInput, InvalidParameter
MANY = bits(20_000, shape=[5000, 1])
# (error, words of its text, request[, binary tail])
REFUSED: dict[str, tuple[Any, ...]] = {
    "not JSON": (IN, "not JSON", b"{"),
    "an empty body": (IN, "not JSON", b""),
    "not an object": (IN, "JSON object", []),
    "NaN": (IN, "no NaN", text("FP32", "[NaN]")),
    "Infinity": (IN, "NaN", text("FP32", "[-Infinity]")),
    "too large for a double": (IN, "JSON", text("FP64", "[1e400]")),
    "too large for FP32": (IN, "range of FP32", one(shape=[1, 1], data=[1e39])),
    "deep JSON": (IN, "deeper than 32", b'{"parameters":{"a":' + b"[" * 40 + b"]" * 40 + b"}}"),
    "very deep JSON": (IN, "JSON", b"[" * 100_000),
    "deep data": (IN, "an array", text("FP32", "[" * 50 + "1" + "]" * 50)),
    "no inputs": (IN, "inputs is missing", {}),
    "inputs of another type": (IN, "not an array", {"inputs": {}}),
    "an input of another type": (IN, "not a JSON object", {"inputs": [3]}),
    "too many inputs": (IN, "limit of 256", {"inputs": [tensor(f"x{i}") for i in range(300)]}),
    "an empty array of inputs": (IN, "missing: x", {"inputs": []}),
    "an unknown input": (PAR, "Expected x", one("y")),
    "the nearest input": (PAR, 'Did you mean "x"', one("xx")),
    "one input too many": (PAR, "'y' is unknown", {"inputs": [tensor(), tensor("y")]}),
    "an input twice": (PAR, "given twice", {"inputs": [tensor(), tensor()]}),
    "no name": (IN, "no name", one(name="")),
    "no datatype": (IN, "datatype is missing", one(datatype=None)),
    "an unknown datatype": (IN, "'float32', expected one of", one(datatype="float32")),
    "no shape": (IN, "no shape", one(shape=None)),
    "a shape of another type": (IN, "no shape", one(shape=4)),
    "a negative dim": (IN, "dim -1", one(shape=[-1, 4])),
    "a fractional dim": (IN, "dim 1.5", one(shape=[1.5])),
    "a bool as dim": (IN, "dim True", one(shape=[True, 4])),
    "too many dims": (IN, "at most 16", one(shape=[1] * 17)),
    "an overflowing shape": (IN, "needs 18446744073709551616", one(shape=[2**62, 4])),
    "an overflowing empty shape": (IN, "is empty and has dims over", one(shape=[0, 2**62, 2**62], data=[])),
    "an overflowing binary shape": (IN, "needs 73786976294838206464", bits(4, shape=[2**32, 2**32]), b"abcd"),
    "no rows": (IN, "0 rows", one(shape=[0, 4], data=[])),
    "no batch dim": (IN, "no batch dim", one(shape=[], data=[1])),
    "no data": (IN, "neither data", one(other=1)),
    "data of another type": (IN, "expected an array", one(data="1234")),
    "too few elements": (IN, "3 elements", one(data=[1, 2, 3])),
    "too many elements": (IN, "needs 4", one(data=[1] * 5)),
    "ragged data": (IN, "length 1 and 2 at depth 1", one(shape=[2, 2], data=[[1, 2], [3]])),
    "half nested data": (IN, "ragged", one(shape=[2, 2], data=[[1, 2], 3])),
    "nested data of another shape": (IN, "needs 2", one(shape=[2, 2], data=[[1, 2, 3, 4]])),
    "strings as numbers": (IN, "a string", one(data=["1", 2, 3, 4])),
    "null as a number": (IN, "null", one(data=[None, 2, 3, 4])),
    "bools as numbers": (IN, "a bool", one(data=[True, 2, 3, 4])),
    "numbers as bools": (IN, "true or false", one(datatype="BOOL")),
    "numbers as strings": (IN, "expected strings", one(datatype="BYTES")),
    "fractions as integers": (IN, "integers only", one(datatype="INT32", data=[1.5, 2, 3, 4])),
    "an integer over its range": (IN, "128, out of the range -128 to 127", one(datatype="INT8", data=[1, 2, 3, 128])),
    "a negative unsigned": (IN, "-1, out of the range", one(datatype="UINT64", data=[1, 2, 3, -1])),
    "an integer over 64 bits": (IN, "integers only", text("INT64", "[99999999999999999999]")),
    "FP16 in JSON": (IN, "binary form", one(datatype="FP16")),
    "BF16 in JSON": (IN, "binary form", one(datatype="BF16")),
    "one of many over its range": (IN, "has 128, out", one(shape=[1, 99], datatype="INT8", data=[1] * 98 + [128])),
    "one of many negative unsigned": (IN, "has -1, out", one(shape=[1, 99], datatype="UINT32", data=[1] * 98 + [-1])),
    "one of many too large for FP32": (IN, "has -1e+39, out", one(shape=[1, 99], data=[1] * 98 + [-1e39])),
    "one of many over 63 bits": (IN, "out of the range", one(shape=[1, 99], datatype="INT64", data=[1] * 98 + [2**63])),
    "more JSON than the limit": (TooLarge, "binary form", b" " * (4 * 2**20 + 1)),
    "more JSON before binary data than the limit": (TooLarge, "binary form", b" " * (4 * 2**20 + 1), b"\0"),
    "more rows than the limit": (TooLarge, "5000 rows, over the limit of 4096", MANY, bytes(20_000)),
    "a body cut short": (IN, "truncated: input 'x' needs 16 bytes, 15 are left", bits(16), bytes(15)),
    "bytes behind the data": (IN, "1 bytes behind", bits(16), bytes(17)),
    "bytes behind no data": (IN, "1 bytes behind", one(), bytes(1)),
    "a size unlike the shape": (IN, "needs 16 bytes, binary_data_size is 12", bits(12), bytes(12)),
    "a negative size": (IN, "binary_data_size -1", bits(-1), b""),
    "a size of another type": (IN, "binary_data_size '16'", bits("16"), bytes(16)),
    "data twice": (IN, "one of them", one(data=[1], parameters={"binary_data_size": 16}), bytes(16)),
    "binary data without its header": (IN, "truncated", bits(16)),
    "a bool that is 2": (IN, "neither 0 nor 1", bits(2, shape=[1, 2], datatype="BOOL"), b"\1\2"),
    "strings cut in a length": (IN, "inside an element's length", bits(3, shape=[1], datatype="BYTES"), b"\1\0\0"),
    "strings cut in an element": (IN, "3 bytes, 2 are left", bits(6, shape=[1], datatype="BYTES"), b"\3\0\0\0ab"),
    "fewer strings than the shape": (IN, "1 elements", bits(5, shape=[2], datatype="BYTES"), b"\1\0\0\0a"),
    "shared memory": (PAR, "shared memory", one(parameters={"shared_memory_region": "r"})),
    "a timeout of 0": (PAR, "timeout is 0", par(timeout=0)),
    "a negative timeout": (PAR, "timeout is -1", par(timeout=-1)),
    "a timeout that is text": (PAR, "timeout is '1s'", par(timeout="1s")),
    "a timeout that is true": (PAR, "timeout is True", par(timeout=True)),
    "a priority that is text": (PAR, "priority is 'high'", par(priority="high")),
    "a priority out of range": (PAR, "priority", par(priority=2**40)),
    "an unknown method": (PAR, "one of __call__", par(method="predict")),
    "a method of another type": (PAR, "expected a string", par(method=3)),
    "parameters of another type": (IN, "parameters", {"inputs": [tensor()], "parameters": 3}),
    "an id of another type": (PAR, "id must be", {"inputs": [tensor()], "id": 3}),
    "an id too long": (PAR, "128 characters", {"inputs": [tensor()], "id": "a" * 129}),
    "an output twice": (PAR, "'a' twice", out([{"name": "a"}, {"name": "a"}])),
    "outputs of another type": (IN, "not an array", out(3)),
    "an output without a name": (IN, "a name", out([{}])),
    "a classification": (PAR, "classification", out([{"name": "a", "parameters": {"classification": 3}}])),
    "binary_data of another type": (PAR, "true or false", out([{"name": "a", "parameters": {"binary_data": 1}}])),
    "binary_data_output of another type": (PAR, "true or false", par(binary_data_output=1)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_request_is_refused_with_what_was_given_and_expected(name: str) -> None:
    error, words, request, *tail = REFUSED[name]
    with pytest.raises(error) as refused:
        read(request, *tail)
    assert words in refused.value.message
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (tensor(datatype="FP64"), "has datatype FP64, expected FP32"),
        (tensor(datatype="BYTES", data=["a"] * 4), "has datatype BYTES, expected FP32"),
        (tensor(shape=[4]), "rank 1 (shape [4]), expected rank 2"),
        (tensor(shape=[4, 1]), "shape [4, 1], expected [-1, 4]"),
    ],
)
def test_a_declared_input_must_have_its_dtype_rank_and_fixed_dims(item: object, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read({"inputs": [item]}, None, TYPED)
    assert words in refused.value.message


@pytest.mark.parametrize("length", [b"-1", b"+3", b"x", b"", b"999", b"1" * 30, b"1_0", "²".encode("latin-1")])
def test_a_length_of_the_json_that_is_none_is_refused(length: bytes) -> None:
    with pytest.raises(InvalidInput):
        reader().read(b'{"inputs": []}', length)


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]]])
def test_json_data_may_be_flat_or_nested(data: object) -> None:
    call = read({"inputs": [tensor(shape=[2, 2], data=data)]})
    np.testing.assert_array_equal(array(call.args[0]), np.array([[1, 2.5], [3, 4]], np.float32))
    assert call.plan.binding.measured.rows == 2


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d.oip not in ("BOOL", "FP16", "BF16", "COMPLEX64")])
def test_json_numbers_become_the_declared_dtype_at_its_bounds(dtype: dtypes.DType) -> None:
    kind = dtype.numpy
    low, high = (-1.5, 1.5) if kind.kind == "f" else (int(np.iinfo(kind.str).min), int(np.iinfo(kind.str).max))
    leaf = array(read({"inputs": [tensor(shape=[2], datatype=dtype.oip, data=[low, high])]}).args[0])
    assert leaf.dtype == kind
    assert leaf.tolist() == [low, high]


def test_bools_and_strings_come_from_json_and_from_bytes() -> None:
    flags = read({"inputs": [tensor(shape=[2], datatype="BOOL", data=[True, False])]}).args[0]
    assert array(flags).tolist() == [True, False]
    texts = read({"inputs": [tensor(shape=[2, 1], datatype="BYTES", data=[["ä"], [""]])]}).args[0]
    assert texts == Strings((2, 1), ("ä".encode(), b""))
    packed = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0)
    assert read({"inputs": [binary(10, shape=[2], datatype="BYTES")]}, packed).args[0] == Strings((2,), (b"ab", b""))


@pytest.mark.parametrize("dtype", dtypes.ALL)
def test_every_dtype_travels_in_binary_form(dtype: dtypes.DType) -> None:
    data = bytes([1, 0] * dtype.itemsize)
    leaf = read({"inputs": [binary(len(data), shape=[2, 1], datatype=dtype.oip)]}, data).args[0]
    assert leaf == Tensor(dtype, (2, 1), data)


def test_large_binary_data_is_a_view_of_the_body() -> None:
    body = bytearray(json.dumps({"inputs": [binary(80_000, shape=[1, 20_000])]}).encode())
    head_length = len(body)
    body += bytes(80_000)
    leaf = reader().read(body, b"%d" % head_length).args[0]
    assert isinstance(leaf, Tensor)
    assert isinstance(leaf.data, memoryview)
    assert leaf.data.obj is body


def test_the_same_head_is_planned_once_and_its_data_read_each_time() -> None:
    same = reader()
    head = json.dumps({"inputs": [binary(4, shape=[1, 1])]}).encode()
    first, second = [same.read(head + data, b"%d" % len(head)) for data in (b"aaaa", b"bbbb")]
    assert first.plan is second.plan
    assert [call.args[0].data for call in (first, second)] == [b"aaaa", b"bbbb"]  # type: ignore[union-attr]


def test_a_head_with_an_id_is_not_kept() -> None:
    same = reader()
    head = json.dumps({"id": "a", "inputs": [binary(4, shape=[1, 1])]}).encode()
    first, second = [same.read(head + b"aaaa", b"%d" % len(head)) for _ in range(2)]
    assert first.plan is not second.plan
    assert first.plan.client_id == "a"


def test_plans_are_bounded() -> None:
    same = reader()
    for size in range(1, 600):
        head = json.dumps({"inputs": [binary(4 * size, shape=[1, size])]}).encode()
        same.read(head + bytes(4 * size), b"%d" % len(head))
    assert len(same._plans) == len(same._bindings) == 256


def test_two_shapes_have_two_keys_and_two_rows_one() -> None:
    keys = [
        read({"inputs": [binary(16, shape=shape)]}, bytes(16)).plan.binding.measured.key
        for shape in ([1, 4], [2, 2], [4, 1])
    ]
    again = read({"inputs": [binary(32, shape=[2, 4])]}, bytes(32)).plan.binding.measured.key
    assert len(set(keys)) == 3
    assert again == keys[0]


@pytest.mark.parametrize(
    ("method", "names", "args", "kwargs"),
    [
        (TWO, ["a"], ["a"], []),
        (TWO, ["b", "a"], ["a", "b"], []),
        (TWO, ["c", "a"], ["a"], ["c"]),
        (STAR, ["x", "more"], ["x", "more"], []),
        (STAR, ["more", "x"], ["x", "more"], []),
        (STAR, ["first", "second"], ["first", "second"], []),
        (MethodSpec("__call__", inputs=(), open_inputs=True), ["q", "p"], ["q", "p"], []),
    ],
)
def test_inputs_are_positional_in_parameter_order(
    method: MethodSpec, names: list[str], args: list[str], kwargs: list[str]
) -> None:
    values = {name: float(index) for index, name in enumerate(names)}
    call = read({"inputs": [tensor(name, [1], data=[values[name]]) for name in names]}, None, method)
    assert [array(leaf)[0] for leaf in call.args] == [values[name] for name in args]
    assert {name: array(leaf)[0] for name, leaf in call.kwargs.items()} == {name: values[name] for name in kwargs}


def test_a_method_without_inputs_needs_none() -> None:
    call = read({"parameters": {"method": "stats"}}, None, OPEN, NOTHING)
    assert (call.args, call.plan.method.name, call.plan.binding.measured.rows) == ((), "stats", 1)


def test_parameters_say_method_timeout_and_priority() -> None:
    parameters = {"method": "__call__", "timeout": 250_000, "priority": -2, "custom": "kept away"}
    plan = read({"inputs": [tensor()], "parameters": parameters}).plan
    assert (plan.method.name, plan.timeout_s, plan.priority) == ("__call__", 0.25, -2)


def test_a_raw_request_is_one_row_of_the_one_declared_input() -> None:
    call = reader(TYPED).read(bytes(16), b"0")
    assert call.args == (Tensor(dtypes.F32, (1, 4), bytes(16)),)
    assert call.plan.form.binary_default


@pytest.mark.parametrize(
    ("method", "size"),
    [
        (TYPED, 12),
        (OPEN, 16),
        (TWO, 16),
        (MethodSpec("__call__", inputs=(InputSpec("x", dtypes.F32, (-1, -1)),), open_inputs=False), 16),
    ],
)
def test_a_raw_request_that_does_not_say_its_shape_is_refused(method: MethodSpec, size: int) -> None:
    with pytest.raises(InvalidInput):
        reader(method).read(bytes(size), b"0")


MASKED = replace(
    parse_signatures({"__call__": {"batchable": True, "pad": {1: {"multiple_of": 8, "max": 20}}, "mask": "mask"}})[
        "__call__"
    ],
    inputs=(
        InputSpec("ids", dtypes.I64, (-1, -1)),
        InputSpec("mask", dtypes.BOOL, required=False),
        InputSpec("types", dtypes.I64, (-1, -1), required=False),
    ),
    open_inputs=False,
)


def words(name: str, length: int, rows: int = 1) -> dict[str, Any]:
    return tensor(name, (rows, length), "INT64", data=[1] * rows * length)


def test_requests_of_any_length_share_a_key_and_say_what_length_they_need() -> None:
    short, long = (read({"inputs": [words("ids", length)]}, None, MASKED).plan.binding.measured for length in (3, 9))
    assert short.key == long.key
    assert (short.length, long.length) == (8, 16)


def test_what_comes_behind_the_mask_is_given_by_name() -> None:
    call = read({"inputs": [words("types", 3), words("ids", 3)]}, None, MASKED)
    assert (len(call.args), list(call.kwargs)) == (1, ["types"])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (
            [words("ids", 3), tensor("mask", (1, 3), "INT64", data=[1, 1, 1])],
            PAR,
            "input 'mask' is the mask, which the",
        ),
        ([words("ids", 21)], IN, "length 21 along dim 1, over the limit of 20"),
        ([words("ids", 3), words("types", 4)], IN, "input 'types' has length 4 along the padded dim 1, another has 3"),
        ([words("idz", 3)], PAR, "input 'idz' is unknown to __call__. Did you mean \"ids\"? Expected ids, types."),
        ([words("types", 3)], IN, "__call__ needs ids, types; missing: ids"),
    ],
)
def test_a_request_that_cannot_be_padded_is_refused(inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        read({"inputs": inputs}, None, MASKED)


def test_the_one_input_besides_the_mask_may_be_raw() -> None:
    method = replace(MASKED, inputs=(InputSpec("ids", dtypes.I64, (-1, -1)), MASKED.inputs[1]))
    assert reader(method).read(bytes(24), b"0").args == (Tensor(dtypes.I64, (1, 3), bytes(24)),)


def test_the_metadata_has_no_mask() -> None:
    described = model_metadata(Catalog(serve(runner("net", MASKED))).find("net"))
    assert [given["name"] for given in described["inputs"]] == ["ids", "types"]


def test_a_declared_datatype_may_be_left_out() -> None:
    assert array(read({"inputs": [tensor(datatype=None)]}, None, TYPED).args[0]).dtype == np.float32


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("UINT64", [0, 2**63, 2**64 - 1]),
        ("INT64", [-(2**63), 2**63 - 1]),
        ("INT8", [-128, 127]),
        ("UINT32", [0, 2**32 - 1]),
        ("FP32", [0.1, -3.4028234663852886e38, 2**53 + 1, 1e-45]),
        ("FP64", [0.1, -1.7976931348623157e308, 2**64 - 1]),
    ],
)
@pytest.mark.parametrize("count", [1, 100])
def test_many_numbers_are_read_exactly_as_few_are(datatype: str, values: list[Any], count: int) -> None:
    data = values * count
    call = read(one(shape=[1, len(data)], datatype=datatype, data=data))
    expected = np.array(data, array(call.args[0]).dtype)
    assert np.array_equal(array(call.args[0])[0], expected)


def test_large_nested_json_sets_off_no_garbage_collection() -> None:
    request = json.dumps(one(shape=[1, 20_000, 1], data=[[[1]] * 20_000])).encode()
    phases: list[str] = []
    note = lambda phase, info: phases.append(phase)  # noqa: E731
    reading = reader()
    gc.collect()
    gc.callbacks.append(note)
    try:
        reading.read(request, None)
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled()
    assert len(phases) <= 2
