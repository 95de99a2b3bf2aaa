"""What a choice of batch is found to yield, in numbers that can be checked by hand."""

import pytest

from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.look_ahead import LookAhead
from tests.runner.dispatcher.scene import FLAT

ROOMY = [1.0] * 12


def ahead(slacks: list[float], others: tuple[float, ...] = ()) -> LookAhead:
    """Nothing arrives, a batch of up to 4 rows takes 10 ms."""
    return LookAhead(slacks, len(slacks), Curve(FLAT.items()), 4, 0.0, 1.0, others)


def test_one_worker_serves_batch_after_batch() -> None:
    rows, seconds = ahead(ROOMY).roll(0, 4, full_fit=True)
    assert rows == 12
    assert seconds == pytest.approx(0.030)


def test_the_next_batch_goes_to_the_worker_that_is_free_first() -> None:
    """The other is free in 2 ms, serves until 12 ms, and again until 22 ms; the first serves from 10 to 20 ms."""
    rows, seconds = ahead([1.0] * 16, (0.002,)).roll(0, 4, full_fit=True)
    assert rows == 16
    assert seconds == pytest.approx((0.020 + 0.022) / 2)


def test_who_waits_is_dropped_only_if_no_worker_is_free_in_time() -> None:
    slacks = [0.010] * 4 + [0.013] * 4
    assert ahead(slacks).roll(0, 4, full_fit=True).rows == 4
    assert ahead(slacks, (0.002,)).roll(0, 4, full_fit=True).rows == 8
    assert ahead(slacks, (0.004,)).roll(0, 4, full_fit=True).rows == 4
