"""Infer replies: JSON and binary, subsets, names, and what JSON cannot carry."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from paceline.api_server.answer import Answer
from paceline.api_server.oip_outputs import OutputForm, OutputForms
from paceline.api_server.oip_response import ReplyWriter
from paceline.protocol import dtypes
from paceline.protocol.catalog import Catalog
from paceline.protocol.errors import Internal, InvalidParameter
from paceline.protocol.messages import Result, pack_result
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree
from tests.api_server.world import OPEN, runner, serve

FORMS = OutputForms()


def form(outputs: object = None, binary: bool = False) -> OutputForm:
    return FORMS.read(OPEN, outputs, {"binary_data_output": binary})


def write(tree: Tree, wanted: OutputForm, client_id: str | None = None) -> Answer:
    packed, frames = pack_result(tree)
    result = Result(1, 0, 8, 100, 200, packed, frames)
    return ReplyWriter(Catalog(serve(runner())).find("net")).write(wanted, result, client_id, b"r-1")


def opened(answer: Answer) -> tuple[Any, bytes]:
    """(JSON, binary tail), with the headers checked against the body."""
    headers = dict(answer.header_pairs())
    body = b"".join(bytes(part) for part in answer.body)
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"x-request-id"] == b"r-1"
    length = headers.get(b"inference-header-content-length")
    if length is None:
        assert headers[b"content-type"] == b"application/json"
        return json.loads(body), b""
    assert headers[b"content-type"] == b"application/octet-stream"
    return json.loads(body[: int(length)]), body[int(length) :]


def f32(*values: float) -> Tensor:
    return from_numpy(np.array([values], np.float32))


def test_one_tensor_is_output_0() -> None:
    reply, tail = opened(write(f32(1, 0.1), form()))
    assert tail == b""
    assert reply == {
        "model_name": "net",
        "model_version": "3",
        "parameters": {"batch_rows": 8},
        "outputs": [{"name": "output_0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 0.1]}],
    }


@pytest.mark.parametrize("client_id", [None, 'a "quoted" ä'])
@pytest.mark.parametrize("times", [1, 2])
def test_a_binary_reply_has_its_head_and_the_bytes(client_id: str | None, times: int) -> None:
    wanted = OutputForm(binary_default=True)
    for _ in range(times):
        reply, tail = opened(write(f32(1, 2), wanted, client_id))
    assert tail == struct.pack("<2f", 1, 2)
    assert reply["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert reply.get("id") == client_id


def test_a_cached_head_is_not_another_shapes_or_batchs() -> None:
    wanted = OutputForm(binary_default=True)
    shapes = [opened(write(f32(*range(n)), wanted))[0]["outputs"][0]["shape"] for n in (1, 2, 1)]
    assert shapes == [[1, 1], [1, 2], [1, 1]]


def test_trees_have_dotted_names_and_plain_leaves_become_tensors() -> None:
    tree: Tree = {"logits": f32(1), "more": [f32(2), {"deep": f32(3)}], "n": 5, "ok": True, "t": "ä", "none": None}
    reply, _ = opened(write(tree, form()))
    found = {o["name"]: (o["datatype"], o["shape"], o["data"]) for o in reply["outputs"]}
    assert found == {
        "logits": ("FP32", [1, 1], [1.0]),
        "more.0": ("FP32", [1, 1], [2.0]),
        "more.1.deep": ("FP32", [1, 1], [3.0]),
        "n": ("INT64", [1], [5]),
        "ok": ("BOOL", [1], [True]),
        "t": ("BYTES", [1], ["ä"]),
    }


def test_a_subset_of_outputs_comes_in_the_order_asked_for_each_in_its_form() -> None:
    outputs = [{"name": "output_1", "parameters": {"binary_data": True}}, {"name": "output_0"}]
    reply, tail = opened(write((f32(1), f32(2), f32(3)), form(outputs)))
    assert [output["name"] for output in reply["outputs"]] == ["output_1", "output_0"]
    assert reply["outputs"][1]["data"] == [1.0]
    assert tail == struct.pack("<f", 2)


def test_an_unknown_output_names_the_known_ones() -> None:
    with pytest.raises(InvalidParameter) as refused:
        write((f32(1), f32(2)), form([{"name": "output_2"}]))
    assert "output_0, output_1" in refused.value.message


def test_strings_have_lengths_in_binary_form() -> None:
    reply, tail = opened(write(Strings((2,), (b"ab", b"")), form(binary=True)))
    assert tail == b"\2\0\0\0ab\0\0\0\0"
    assert reply["outputs"][0]["parameters"] == {"binary_data_size": 10}


@pytest.mark.parametrize(
    "leaf",
    [
        Tensor(dtypes.F16, (1,), b"\0\0"),
        Tensor(dtypes.BF16, (1,), b"\0\0"),
        f32(float("nan")),
        f32(float("inf")),
        Strings((1,), (b"\xff",)),
    ],
)
def test_what_json_cannot_carry_names_the_binary_form(leaf: Tree) -> None:
    with pytest.raises(InvalidParameter) as refused:
        write(leaf, form())
    assert "binary_data_output" in refused.value.message
    assert opened(write(leaf, form(binary=True)))[1]


@pytest.mark.parametrize("dtype", [d for d in dtypes.ALL if d.oip not in ("FP16", "BF16", "COMPLEX64")])
def test_every_other_dtype_is_json(dtype: dtypes.DType) -> None:
    reply, _ = opened(write(Tensor(dtype, (2, 1), bytes(2 * dtype.itemsize)), form()))
    assert reply["outputs"][0]["data"] == [0, 0]


def test_a_result_that_is_not_readable_is_our_fault() -> None:
    broken = Result(1, 0, 1, 1, 1, [2, 11, [1, 2], b"abc"])
    with pytest.raises(Internal):
        ReplyWriter(Catalog(serve(runner())).find("net")).write(form(), broken, None, b"r")


def test_equal_forms_are_one_object_and_forms_are_bounded() -> None:
    forms = OutputForms()
    assert forms.read(OPEN, [{"name": "a"}], {}) is forms.read(OPEN, [{"name": "a"}], {})
    for index in range(600):
        forms.read(OPEN, [{"name": f"a{index}"}], {})
    assert len(forms._named) == 256
