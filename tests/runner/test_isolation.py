"""The bisecting plan on its own: who is found, in how many runs, and what memory teaches."""

from __future__ import annotations

import math
import random

import pytest

from paceline.runner.isolation import (
    OUTPUT_BATCHES_SKIPPED,
    OUTPUT_SEARCHES,
    Bisection,
    OutputSearches,
    SizesTried,
    Verdict,
)


def bisect(count: int, bad: set[int]) -> tuple[set[int], set[int], int]:
    """(found bad, found good, runs) when the calls of `bad` fail every part that they are in."""
    plan = Bisection(count)
    found_bad: set[int] = set()
    found_good: set[int] = set()
    runs = 0
    while (part := plan.next_part()) is not None:
        runs += 1
        failed = bool(bad & set(part))
        if not failed:
            found_good |= set(part)
        elif len(part) == 1:
            found_bad |= set(part)
        plan.report(Verdict.FAILED if failed else Verdict.PASSED)
    return found_bad, found_good, runs


@pytest.mark.parametrize("count", [*range(2, 34), 64, 100, 127, 128, 255, 256])
def test_one_bad_call_is_found_within_the_bound(count: int) -> None:
    for bad in range(count):
        found_bad, found_good, runs = bisect(count, {bad})
        assert found_bad == {bad}
        assert found_good == set(range(count)) - {bad}
        assert runs <= 2 * math.log2(count) + 1


def test_any_number_of_bad_calls_is_found() -> None:
    rng = random.Random(2)
    for _ in range(300):
        count = rng.randint(2, 40)
        bad = {index for index in range(count) if rng.random() < rng.choice((0.05, 0.5, 1.0))} or {0}
        found_bad, found_good, runs = bisect(count, bad)
        assert (found_bad, found_good) == (bad, set(range(count)) - bad)
        assert runs <= 2 * count - 2


def test_a_failure_that_does_not_come_back_is_nobodys() -> None:
    found_bad, found_good, _ = bisect(16, set())
    assert (found_bad, found_good) == (set(), set(range(16)))


def test_a_batch_of_one_leaves_nothing_to_bisect() -> None:
    assert Bisection(1).next_part() is None


def test_after_a_passing_left_half_the_right_one_is_not_run_whole() -> None:
    plan = Bisection(8)
    assert plan.next_part() == range(4)
    plan.report(Verdict.PASSED)
    assert plan.next_part() == range(4, 6)


def test_an_unknown_left_half_says_nothing_of_the_right_one() -> None:
    plan = Bisection(8)
    plan.next_part()
    plan.report(Verdict.UNKNOWN)
    assert plan.next_part() == range(4, 8)


def test_memory_that_suffices_lowers_no_cap() -> None:
    sizes = SizesTried()
    sizes.passed(64)
    assert sizes.cap_rows() is None
    assert not sizes.any_ran_out


def test_the_cap_is_the_largest_size_below_the_one_that_ran_out() -> None:
    sizes = SizesTried()
    sizes.ran_out(64)
    sizes.passed(16)
    sizes.passed(32)
    assert sizes.any_ran_out
    assert sizes.cap_rows() == 32


def test_the_cap_is_half_when_nothing_smaller_was_tried() -> None:
    sizes = SizesTried()
    sizes.passed(64)
    sizes.ran_out(64)
    assert sizes.cap_rows() == 32


def test_a_single_row_that_runs_out_lowers_no_cap() -> None:
    sizes = SizesTried()
    for rows in (8, 4, 2, 1):
        sizes.ran_out(rows)
    assert sizes.cap_rows() is None


def test_outputs_are_searched_until_it_was_in_vain_too_often_and_now_and_then_after() -> None:
    searches = OutputSearches()
    for at_fault, innocent in ((8, 0), (0, 8), (8, 0), (0, 8))[:OUTPUT_SEARCHES]:
        assert searches.makes_sense()
        searches.ended(at_fault, innocent)
    assert [searches.makes_sense() for _ in range(OUTPUT_BATCHES_SKIPPED)] == [False] * OUTPUT_BATCHES_SKIPPED
    assert searches.makes_sense()
    searches.ended(8, 0)
    assert not searches.makes_sense()


def test_a_search_that_found_somebody_or_a_batch_that_passed_is_a_fresh_start() -> None:
    for fresh_start in (lambda searches: searches.ended(1, 7), OutputSearches.passed):
        searches = OutputSearches()
        for _ in range(OUTPUT_SEARCHES):
            searches.ended(8, 0)
        fresh_start(searches)
        assert searches.makes_sense()
