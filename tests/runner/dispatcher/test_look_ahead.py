"""What the look-ahead sees, in numbers worked out by hand: 1 s a batch and 4 s a row."""

import pytest

from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.look_ahead import HOPE, LookAhead, Yield

CURVE = Curve({1: 5.0, 6: 25.0}.items())


def look_ahead(slacks: list[float], rate: float = 0.0, budget_s: float = 100.0) -> LookAhead:
    return LookAhead(slacks, len(slacks), CURVE, target=3, rate=rate, budget_s=budget_s)


def test_the_next_batch_is_what_its_head_allows() -> None:
    ahead = look_ahead([10, 10, 20, 20])
    assert ahead.roll(0, 2) == Yield(4, 18.0)
    assert ahead.roll(2, 1) == Yield(2, 10.0)


def test_who_cannot_be_served_alone_is_dropped() -> None:
    assert look_ahead([9, 9, 13, 19]).roll(0, 2) == Yield(3, 14.0)


def test_those_left_count_for_a_part_if_they_could_be_next() -> None:
    rows, _ = look_ahead([10, 10, 20, 20, 22, 23, 23]).roll(0, 2)
    assert rows == pytest.approx(4 + 2 * HOPE)
    rows, _ = look_ahead([10, 10, 20, 20, *[90] * 50]).roll(0, 2)
    assert rows == pytest.approx(4 + 3 * HOPE)


def test_arrivals_go_on_behind_the_queue() -> None:
    rows, seconds = look_ahead([9, 9], rate=1 / 5).roll(0, 2)
    assert (rows, seconds) == (3 + HOPE, 14.0)  # one has come by the time of 9, another by that of 14
    rows, seconds = look_ahead([9, 9], rate=1 / 20).roll(0, 2)
    assert (rows, seconds) == (3, 25.0)  # the worker waits for it until 20


def test_the_next_batch_goes_to_the_worker_that_is_free_first() -> None:
    """The other is free at 2 and serves until 15; the first serves until 9 and again until 22."""
    rows, seconds = LookAhead([100] * 12, 12, CURVE, 3, 0.0, 1.0, others=(2.0,)).roll(0, 2)
    assert rows == pytest.approx(2 + 2 * 3 + 3 * HOPE)
    assert seconds == (15.0 + 22.0) / 2


def test_who_waits_is_dropped_only_if_no_worker_is_free_in_time() -> None:
    slacks = [9.0, 9.0, 8.0, 8.0]
    assert LookAhead(slacks, 4, CURVE, 3, 0.0, 1.0).roll(0, 2).rows == 2
    assert LookAhead(slacks, 4, CURVE, 3, 0.0, 1.0, others=(3.0,)).roll(0, 2).rows == 3
    assert LookAhead(slacks, 4, CURVE, 3, 0.0, 1.0, others=(4.0,)).roll(0, 2).rows == 2
