"""Signatures as users write them, and what `measure` makes of a call."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.protocol import dtypes, limits
from paceline.protocol.errors import ConfigError, InvalidInput, InvalidParameter, TooLarge
from paceline.protocol.signature import (
    MethodSpec,
    measure,
    parse_signatures,
    pick_method,
    spec_from_plain,
    spec_to_plain,
)
from paceline.protocol.tensor import Strings
from paceline.protocol.tree import Tree
from tests.protocol.corpus import METHOD, ramp

F32, I64 = dtypes.F32, dtypes.I64
BATCHED = MethodSpec("__call__", batchable=True)


def parsed(**options: object) -> MethodSpec:
    return parse_signatures({"__call__": options})["__call__"]


def test_no_signatures_mean_call_without_batching() -> None:
    assert parse_signatures(None) == {"__call__": MethodSpec("__call__")}


@pytest.mark.parametrize("spelling", ["batch_dim", "batchdim"])
@pytest.mark.parametrize(("given", "dims"), [(0, (0, 0)), (1, (1, 1)), ((0, 2), (0, 2)), ([1, 0], (1, 0))])
def test_batch_dim_is_one_or_a_pair_in_both_spellings(spelling: str, given: object, dims: tuple[int, int]) -> None:
    assert parsed(batchable=True, **{spelling: given}).batch_dim == dims


def test_both_spellings_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match='gives batch_dim twice, as "batch_dim" and "batchdim"'):
        parsed(batch_dim=0, batchdim=0)


@pytest.mark.parametrize(
    ("typo", "right"),
    [
        ("batchabel", "batchable"),
        ("batchDim", "batch_dim"),
        ("batch_dims", "batch_dim"),
        ("idempotant", "idempotent"),
        ("max_batchsize", "max_batch_size"),
        ("latency_budget", "latency_budget_ms"),
    ],
)
def test_typo_is_answered_with_the_right_key(typo: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f'"__call__".*unknown key {typo!r}. Did you mean "{right}"') as caught:
        parsed(**{typo: True})
    assert "Known keys: batchable, batch_dim, idempotent, max_batch_size, latency_budget_ms." in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batchable", 1, "True or False"),
        ("idempotent", "yes", "True or False"),
        ("batch_dim", -1, "an int from 0 to 15"),
        ("batch_dim", 16, "an int from 0 to 15"),
        ("batch_dim", True, "an int from 0 to 15"),
        ("batch_dim", (0, 1, 2), "a pair"),
        ("batch_dim", "0", "a pair"),
        ("max_batch_size", 0, "an int >= 1"),
        ("max_batch_size", 1.5, "an int >= 1"),
        ("latency_budget_ms", 0, "a number > 0"),
        ("latency_budget_ms", float("nan"), "a number > 0"),
        ("latency_budget_ms", float("inf"), "a number > 0"),
    ],
)
def test_bad_value_is_named_with_what_was_expected(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(**{key: value})
    assert f'signatures["__call__"]["{key}"] is {value!r}' in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("given", [{}, [], "__call__", {"__call__": True}, {"not a name": {}}, {1: {}}])
def test_what_is_not_a_mapping_of_methods_is_refused_with_an_example(given: Any) -> None:
    with pytest.raises(ConfigError):
        parse_signatures(given)


def test_method_spec_returns_as_it_went() -> None:
    assert spec_from_plain(spec_to_plain(METHOD)) == METHOD
    assert spec_from_plain(spec_to_plain(MethodSpec("embed"))) == MethodSpec("embed")


def test_method_is_picked_by_name_or_default() -> None:
    methods = {"__call__": MethodSpec("__call__"), "embed": MethodSpec("embed")}
    assert pick_method(methods, "embed").name == "embed"
    assert pick_method(methods, None).name == "__call__"
    assert pick_method({"embed": MethodSpec("embed")}, None).name == "embed"
    with pytest.raises(InvalidParameter, match=r'Did you mean "embed"\? Expected one of __call__, embed'):
        pick_method(methods, "embad")
    with pytest.raises(InvalidParameter, match="to be one of a, b"):
        pick_method({"a": MethodSpec("a"), "b": MethodSpec("b")}, None)


def key_of(*args: Tree, method: MethodSpec = BATCHED, **kwargs: Tree) -> bytes:
    return measure(method, args, kwargs)[0]


def test_requests_share_a_key_whatever_their_rows() -> None:
    assert key_of(ramp(F32, 1, 3)) == key_of(ramp(F32, 5, 3))
    assert measure(BATCHED, (ramp(F32, 5, 3), ramp(I64, 5)), {})[1] == 5


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
    assert measure(method, (ramp(F32, 3, 7),), {})[1] == 7
    assert key_of(ramp(F32, 3, 7), method=method) == key_of(ramp(F32, 3, 1), method=method)
    assert key_of(ramp(F32, 3, 7), method=method) != key_of(ramp(F32, 4, 7), method=method)


def test_method_without_batching_is_one_row_under_its_name() -> None:
    assert measure(MethodSpec("f"), (ramp(F32),), {}) == (b"f", 1)
    assert measure(MethodSpec("f"), (), {"x": ramp(F32, 0)}) == (b"f", 1)


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
    assert measure(BATCHED, (ramp(dtypes.U8, 8),), {}, rows_max=8)[1] == 8
    with pytest.raises(TooLarge, match="9 rows, over the limit of 8 rows; send it in parts"):
        measure(BATCHED, (ramp(dtypes.U8, 9),), {}, rows_max=8)
