"""The options `pad`, `mask` and `unpad` as users write them, and what a dtype can hold."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.protocol import dtypes
from paceline.protocol.dtypes import DType
from paceline.protocol.errors import ConfigError
from paceline.protocol.padding import Padding, element
from paceline.protocol.signature import MethodSpec, parse_signatures, spec_from_plain, spec_to_plain
from paceline.protocol.spec import decode_serve, encode_serve
from tests.protocol.corpus import SERVE


def parsed(**options: object) -> MethodSpec:
    return parse_signatures({"encode": {"batchable": True, **options}})["encode"]


def refusal(**options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(**options)
    return str(caught.value)


def test_all_options_are_read() -> None:
    entry = {"multiple_of": 64, "value": -1, "max": 512, "inputs": ["input_ids", "types"]}
    expected = Padding(1, 64, -1, 512, ("input_ids", "types"), "attention_mask", 2)
    assert parsed(pad={1: entry}, mask="attention_mask", unpad=2).padding == expected
    assert parsed(pad={"1": entry}, mask="attention_mask", unpad=2).padding == expected


def test_what_is_not_said_is_zeros_behind_every_tensor_and_no_mask() -> None:
    assert parsed(pad={1: {}}).padding == Padding(dim=1)
    assert parsed().padding is None


@pytest.mark.parametrize(
    "method",
    [
        parsed(pad={2: {}}),
        parsed(pad={1: {"multiple_of": 8, "value": 0.5, "max": 9, "inputs": ["x"]}}, mask="m", unpad=1),
        parsed(pad={0: {"value": -math.inf}}, batch_dim=1),
        parsed(pad={1: {"value": False}}),
    ],
)
def test_padding_returns_from_json_and_from_messagepack_as_it_went(method: MethodSpec) -> None:
    plain = spec_to_plain(method)
    assert spec_from_plain(json.loads(json.dumps(plain, allow_nan=False))) == method
    assert spec_from_plain(msgpack.unpackb(msgpack.packb(plain), strict_map_key=True)) == method


def test_padding_reaches_the_children_of_a_server() -> None:
    method = parsed(pad={1: {"multiple_of": 64, "value": -math.inf, "inputs": ["x"]}}, mask="m", unpad=1)
    serve = replace(SERVE, runners=(replace(SERVE.runners[0], methods=(method,)),))
    assert decode_serve(encode_serve(serve)) == serve


def test_a_method_that_does_not_pad_is_written_as_before_there_was_padding() -> None:
    assert not {"pad", "mask", "unpad"} & spec_to_plain(parsed()).keys()


@pytest.mark.parametrize(
    ("pad", "text"),
    [
        ({0: {}}, '"pad"]: the dim is the batch dim, expected another dim of the inputs than 0, an int from 0 to 15'),
        ({-1: {}}, "the dim is -1, expected another dim of the inputs than 0"),
        ({16: {}}, "the dim is 16, expected"),
        ({True: {}}, "the dim is True, expected"),
        ({"one": {}}, "the dim is 'one', expected"),
        ({1: {}, 2: {}}, ": one dim can be padded, expected such as {1: "),
        ({}, '["pad"] is {}, expected such as {1: {"multiple_of": 64, "value": 0}}'),
        (1, '["pad"] is 1, expected such as'),
        ({1: 64}, '["pad"][1] is 64, expected a mapping such as {"multiple_of": 64}'),
        ({1: {"multiple": 64}}, '["pad"][1] has the unknown key \'multiple\'. Did you mean "multiple_of"? Known keys:'),
        ({1: {"multiple_of": 0}}, '["pad"][1]["multiple_of"] is 0, expected an int >= 1'),
        ({1: {"multiple_of": 1.5}}, '["pad"][1]["multiple_of"] is 1.5, expected an int >= 1'),
        ({1: {"max": 0}}, '["pad"][1]["max"] is 0, expected an int >= 1'),
        ({1: {"value": "0"}}, "[\"value\"] is '0', expected a number"),
        ({1: {"value": math.nan}}, '["value"] is nan, expected a number'),
        ({1: {"value": 2**64}}, "expected a number of 64 bits"),
        ({1: {"inputs": "input_ids"}}, "[\"inputs\"] is 'input_ids', expected names of parameters such as"),
        ({1: {"inputs": []}}, '["inputs"] is [], expected names'),
    ],
)
def test_a_bad_pad_is_named_with_what_was_expected(pad: Any, text: str) -> None:
    assert text in refusal(pad=pad)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mask": "mask"}, '"mask" without "pad"; add "pad": {1: {"multiple_of": 64, "value": 0}}'),
        ({"unpad": 1}, '"unpad" without "pad"'),
        ({"pad": {1: {}}, "batchable": False}, 'has "pad", which needs "batchable": True'),
        ({"pad": {1: {}}, "mask": "not a name"}, "[\"mask\"] is 'not a name', expected the name of a parameter"),
        ({"pad": {1: {"inputs": ["m"]}}, "mask": "m"}, "the mask 'm' is also among the padded inputs"),
        (
            {"pad": {1: {}}, "unpad": 0},
            '["unpad"]: the dim is the batch dim, expected another dim of the outputs than 0',
        ),
        ({"pad": {1: {}}, "unpad": "1"}, "the dim is '1', expected"),
        ({"pad": {1: {}}, "unpad": 2, "batch_dim": (0, 2)}, "expected another dim of the outputs than 2"),
        ({"pading": {1: {}}}, "unknown key 'pading'. Did you mean \"pad\"?"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], text: str) -> None:
    assert text in refusal(**options)


@given(st.integers(0, 10_000), st.integers(1, 300), st.none() | st.integers(1, 10_000))
def test_a_padded_length_is_the_next_multiple_within_the_limit(length: int, multiple: int, most: int | None) -> None:
    padded = Padding(1, multiple, length_max=most).padded(length)
    assert length <= padded < length + multiple
    assert padded % multiple == 0 or (most is not None and padded == max(length, most))


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=repr)
def test_zero_and_one_are_in_every_dtype(dtype: DType) -> None:
    for value in (0, 1, 0.0, True):
        held = element(dtype, value)
        assert (held.dtype, held.shape) == (dtype.numpy, ())
        if dtype is dtypes.BF16:
            assert held.tobytes() == struct.pack("<f", value)[2:]
        else:
            assert held == value


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (dtypes.BOOL, 2),
        (dtypes.U8, -1),
        (dtypes.U8, 256),
        (dtypes.I64, 0.5),
        (dtypes.I64, -math.inf),
        (dtypes.U64, 2**64),
        (dtypes.F16, 1e6),
        (dtypes.BF16, 3.4e38 * 1.01),
        (dtypes.F32, 1e300),
    ],
)
def test_what_a_dtype_cannot_hold_is_refused(dtype: DType, value: float) -> None:
    with pytest.raises(ValueError, match=f"{dtype} cannot hold"):
        element(dtype, value)


def test_values_are_rounded_to_the_dtype() -> None:
    assert element(dtypes.F16, 0.1) == np.float16(0.1)
    assert element(dtypes.F32, -math.inf) == -math.inf
    assert element(dtypes.U64, 2**64 - 1) == np.uint64(2**64 - 1)
    assert element(dtypes.BF16, -math.inf).tobytes() == struct.pack("<f", -math.inf)[2:]
    assert int(element(dtypes.BF16, 1.01)) == 0x3F81  # 1.01 lies nearer to 1.0078 than to 1.0
    assert int(element(dtypes.BF16, 1.00390625)) == 0x3F80  # half-way goes to even
