"""Signatures as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.protocol import dtypes
from paceline.protocol.errors import ConfigError, InvalidParameter
from paceline.protocol.signature import (
    MethodSpec,
    parse_signatures,
    pick_method,
    spec_from_plain,
    spec_to_plain,
)
from tests.protocol.corpus import METHOD


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
    assert "Known keys: batchable, batch_dim, idempotent, max_batch_size, latency_budget_ms, pad, mask, unpad." in str(
        caught.value
    )


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
    halves = MethodSpec("embed", integers=dtypes.F16)
    assert spec_from_plain(spec_to_plain(halves)) == halves
    assert "integers" not in spec_to_plain(MethodSpec("embed"))


def test_method_is_picked_by_name_or_default() -> None:
    methods = {"__call__": MethodSpec("__call__"), "embed": MethodSpec("embed")}
    assert pick_method(methods, "embed").name == "embed"
    assert pick_method(methods, None).name == "__call__"
    assert pick_method({"embed": MethodSpec("embed")}, None).name == "embed"
    with pytest.raises(InvalidParameter, match=r'Did you mean "embed"\? Expected one of __call__, embed'):
        pick_method(methods, "embad")
    with pytest.raises(InvalidParameter, match="to be one of a, b"):
        pick_method({"a": MethodSpec("a"), "b": MethodSpec("b")}, None)
