"""The error tree: complete in both directions, as its docstring draws it and the HTTP page says."""

from __future__ import annotations

import re

import pytest

from paceline.protocol import errors
from paceline.protocol.errors import ERRORS_BY_CODE, Internal, PacelineError, RequestError, error_from_code

STATUSES = {
    "invalid_input": 400,
    "invalid_parameter": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "model_not_found": 404,
    "version_not_found": 404,
    "too_large": 413,
    "unsupported_media_type": 415,
    "model_rejected_input": 422,
    "poison_input": 422,
    "queue_full": 429,
    "quota": 429,
    "infeasible_now": 503,
    "draining": 503,
    "no_worker": 503,
    "worker_lost": 503,
    "model_error": 500,
    "internal": 500,
    "deadline_exceeded": 504,
}


def tree(root: type[Exception]) -> set[type[Exception]]:
    """`root` and every class below it in errors.py."""
    below = [tree(cls) for cls in root.__subclasses__() if cls.__module__ == errors.__name__]
    return {root}.union(*below)


def test_every_code_has_its_http_status_and_no_other_code_exists() -> None:
    assert {code: cls.http_status for code, cls in ERRORS_BY_CODE.items()} == STATUSES


def test_every_leaf_of_the_tree_is_in_the_table_under_its_code() -> None:
    leaves = {cls for cls in tree(RequestError) if not cls.__subclasses__()}
    assert leaves == set(ERRORS_BY_CODE.values())
    assert all(cls.code == code for code, cls in ERRORS_BY_CODE.items())


def test_docstring_draws_every_class_with_its_status_and_no_other() -> None:
    drawn = dict(re.findall(r"(?:├──|└──) (\w+) *(\d{3})?", errors.__doc__ or ""))
    assert set(drawn) == {cls.__name__ for cls in tree(PacelineError) - {PacelineError}}
    assert {name: int(status) for name, status in drawn.items() if status} == {
        cls.__name__: cls.http_status for cls in ERRORS_BY_CODE.values()
    }


def test_waiting_helps_exactly_where_the_status_says_so() -> None:
    assert {cls for cls in ERRORS_BY_CODE.values() if cls.retryable} == {
        cls for cls in ERRORS_BY_CODE.values() if cls.http_status in (429, 503)
    }


@pytest.mark.parametrize("code", ERRORS_BY_CODE)
def test_error_crosses_a_process_as_code_text_and_delay(code: str) -> None:
    error = error_from_code(code, "because", 1.5)
    assert (type(error), str(error), error.message, error.retry_after_s) == (
        ERRORS_BY_CODE[code],
        "because",
        "because",
        1.5,
    )


def test_unknown_code_of_a_newer_peer_becomes_internal_and_is_named() -> None:
    error = error_from_code("gone_fishing", "back soon")
    assert isinstance(error, Internal)
    assert str(error) == "back soon (unknown error code 'gone_fishing')"


@pytest.mark.parametrize(("given", "hint"), [("batchabel", ' Did you mean "batchable"?'), ("xyz", ""), ("", "")])
def test_nearest_name_is_offered_only_when_near(given: str, hint: str) -> None:
    assert errors.did_you_mean(given, ["batchable", "batch_dim"]) == hint
