"""What `measure` makes of a call: which calls may share a batch, their rows and lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.protocol import dtypes, limits
from paceline.protocol.errors import InvalidInput, InvalidParameter, TooLarge
from paceline.protocol.measure import Measure, measure
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec, parse_signatures
from paceline.protocol.tensor import Strings
from paceline.protocol.tree import Tree
from tests.protocol.corpus import ramp

F32, I64 = dtypes.F32, dtypes.I64
BATCHED = MethodSpec("__call__", batchable=True)


def key_of(*args: Tree, method: MethodSpec = BATCHED, **kwargs: Tree) -> bytes:
    return measure(method, args, kwargs).key


def test_requests_share_a_key_whatever_their_rows() -> None:
    assert key_of(ramp(F32, 1, 3)) == key_of(ramp(F32, 5, 3))
    assert measure(BATCHED, (ramp(F32, 5, 3), ramp(I64, 5)), {}).rows == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((ramp(F32, 1, 3),), (ramp(F32, 1, 4),)),
        ((ramp(F32, 1, 3),), (ramp(dtypes.F64, 1, 3),)),
        ((ramp(F32, 1), 1), (ramp(F32, 1), 2)),
        ((ramp(F32, 1), 1), (ramp(F32, 1), True)),
        ((ramp(F32, 1), 1), (ramp(F32, 1), 1.0)),
        ((ramp(F32, 1), "1"), (ramp(F32, 1), b"1")),
        ((ramp(F32, 1), []), (ramp(F32, 1), ())),
        (([ramp(F32, 1), 1],), ([ramp(F32, 1)], 1)),
        (({"a": ramp(F32, 1)},), ({"b": ramp(F32, 1)},)),
        (({"x": ramp(F32, 1), "y": ramp(F32, 1)},), ({"x:|f32()|y": ramp(F32, 1)},)),
        ((ramp(F32, 1), "|1"), (ramp(F32, 1), "", 1)),
        ((ramp(F32, 1), Strings((1,), (b"a",))), (Strings((1,), (b"a",)), ramp(F32, 1))),
        ((ramp(F32, 1), "x" * 5000), (ramp(F32, 1), "x" * 5001)),
    ],
)
def test_requests_that_cannot_be_joined_have_different_keys(one: tuple[Tree, ...], other: tuple[Tree, ...]) -> None:
    assert key_of(*one) != key_of(*other)
    assert key_of(*one) == key_of(*one)


def test_keyword_order_does_not_matter_and_names_do() -> None:
    a, b = ramp(F32, 1, 2), ramp(I64, 1)
    assert key_of(x=a, y=b) == key_of(y=b, x=a)
    assert key_of(x=a) != key_of(y=a)
    assert key_of(x=a) != key_of(a)


@pytest.mark.parametrize("text", ["x" * 100_000, "\ud800"])
def test_key_of_any_value_is_short_enough_to_travel(text: str) -> None:
    assert len(key_of(ramp(F32, 1), text)) <= limits.KEY_BYTES_MAX


def test_batch_dim_other_than_0_counts_its_own_rows() -> None:
    method = MethodSpec("f", batchable=True, batch_dim=(1, 0))
    assert measure(method, (ramp(F32, 3, 7),), {}).rows == 7
    assert key_of(ramp(F32, 3, 7), method=method) == key_of(ramp(F32, 3, 1), method=method)
    assert key_of(ramp(F32, 3, 7), method=method) != key_of(ramp(F32, 4, 7), method=method)


def test_method_without_batching_is_one_row_under_its_name() -> None:
    assert measure(MethodSpec("f"), (ramp(F32),), {}) == Measure(b"f", 1)
    assert measure(MethodSpec("f"), (), {"x": ramp(F32, 0)}) == Measure(b"f", 1)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "got no tensor to batch along dim 0"),
        ((1, "x"), "got no tensor to batch along dim 0"),
        ((ramp(F32),), r"shape \[\] has no batch dim 0; expected at least 1 dims"),
        ((ramp(F32, 0, 3),), "0 rows along its batch dim 0; expected >= 1"),
        ((ramp(F32, 2), ramp(F32, 3)), "2 and 3 rows along batch dim 0; expected the same"),
        ((ramp(F32, 2), [Strings((1,), (b"",))]), "2 and 1 rows"),
    ],
)
def test_call_that_cannot_be_batched_says_why(args: tuple[Tree, ...], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        measure(BATCHED, args, {})


def test_rows_at_the_limit_pass_and_one_more_is_refused() -> None:
    assert measure(BATCHED, (ramp(dtypes.U8, 8),), {}, rows_max=8).rows == 8
    with pytest.raises(TooLarge, match="9 rows, over the limit of 8 rows; send it in parts"):
        measure(BATCHED, (ramp(dtypes.U8, 9),), {}, rows_max=8)


# The padded dim

PADDED = parse_signatures({"f": {"batchable": True, "pad": {1: {"multiple_of": 8, "max": 30}}, "mask": "mask"}})["f"]
NAMED = replace(
    parse_signatures({"f": {"batchable": True, "pad": {1: {"inputs": ["ids"]}}, "mask": "mask"}})["f"],
    inputs=(InputSpec("ids"), InputSpec("mask", required=False), InputSpec("other", required=False)),
)


@pytest.mark.parametrize(("length", "padded"), [(1, 8), (8, 8), (9, 16), (29, 30), (30, 30), (0, 0)])
def test_a_length_is_rounded_up_to_its_multiple_within_the_limit(length: int, padded: int) -> None:
    assert measure(PADDED, (ramp(I64, 2, length),), {}) == Measure(
        measure(PADDED, (ramp(I64, 1, 1),), {}).key, 2, padded
    )


def test_without_padding_there_is_no_length() -> None:
    assert measure(BATCHED, (ramp(I64, 2, 7),), {}).length == 0


def test_all_else_but_the_length_still_makes_another_key() -> None:
    assert key_of(ramp(I64, 1, 3, 5), method=PADDED) == key_of(ramp(I64, 1, 4, 5), method=PADDED)
    assert key_of(ramp(I64, 1, 3, 5), method=PADDED) != key_of(ramp(I64, 1, 3, 6), method=PADDED)
    assert key_of(ramp(I64, 1, 3), method=PADDED) != key_of(ramp(F32, 1, 3), method=PADDED)
    assert key_of(ramp(I64, 1, 3), ramp(F32, 1), method=PADDED) == key_of(ramp(I64, 1, 4), ramp(F32, 1), method=PADDED)
    assert key_of(ramp(I64, 1, 3), Strings((1, 1), (b"",)), method=PADDED) != key_of(
        ramp(I64, 1, 3), Strings((1, 2), (b"", b"")), method=PADDED
    )


def test_only_named_inputs_are_padded_wherever_they_are() -> None:
    one: Tree = {"a": ramp(I64, 1, 3)}
    longer: Tree = {"a": ramp(I64, 1, 9)}
    assert key_of(one, other=ramp(F32, 1, 4), method=NAMED) == key_of(longer, other=ramp(F32, 1, 4), method=NAMED)
    assert key_of(one, other=ramp(F32, 1, 4), method=NAMED) != key_of(one, other=ramp(F32, 1, 5), method=NAMED)
    assert measure(NAMED, (), {"ids": ramp(I64, 1, 3), "other": ramp(F32, 1, 4)}).length == 3


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "text"),
    [
        (PADDED, (ramp(I64, 1, 31),), {}, "length 31 along dim 1, over the limit of 30 of method 'f'"),
        (PADDED, (ramp(I64, 1),), {}, "method 'f' got no tensor with the padded dim 1"),
        (
            PADDED,
            (ramp(I64, 1, 3), ramp(F32, 1, 4)),
            {},
            "'input_1' has length 4 along the padded dim 1, another has 3",
        ),
        (
            NAMED,
            (ramp(I64, 1),),
            {},
            r"input 'ids' has shape \[1\], without the padded dim 1; expected at least 2 dims",
        ),
        (NAMED, (), {"other": ramp(I64, 1, 3)}, "got no tensor among ids, along which its requests are padded"),
    ],
)
def test_a_call_that_cannot_be_padded_says_why(
    method: MethodSpec, args: tuple[Tree, ...], kwargs: dict[str, Tree], text: str
) -> None:
    with pytest.raises(InvalidInput, match=text):
        measure(method, args, kwargs)


def test_a_dtype_that_cannot_hold_the_value_is_named() -> None:
    method = parse_signatures({"f": {"batchable": True, "pad": {1: {"value": 0.5}}}})["f"]
    assert measure(method, (ramp(F32, 1, 3),), {}).length == 3
    with pytest.raises(InvalidInput, match=r"'input_0' cannot be padded: i64 cannot hold 0\.5"):
        measure(method, (ramp(I64, 1, 3),), {})


def test_no_request_gives_the_mask() -> None:
    ids, mask = ramp(I64, 1, 3), ramp(dtypes.BOOL, 1, 3)
    for args, kwargs in [((ids,), {"mask": mask}), ((ids, mask), {})]:
        with pytest.raises(InvalidParameter, match=r"'mask' is the mask, which the server makes.*leave it out"):
            measure(NAMED, args, kwargs)  # type: ignore[arg-type]  # tensors are trees


def test_a_method_without_a_mask_takes_one_like_any_input() -> None:
    method = replace(PADDED, padding=replace(PADDED.padding or Padding(1), mask=None))
    assert measure(method, (ramp(I64, 1, 3),), {"mask": ramp(dtypes.BOOL, 1, 3)}).length == 8
