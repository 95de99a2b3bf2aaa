"""A latency table, asked."""

from __future__ import annotations

import pytest

from paceline.protocol.forecast import KeyTable
from paceline.protocol.timetable import Timetable


def timetable(points: dict[int, float], rows_max: int = 64) -> Timetable:
    return Timetable(KeyTable("m", b"", 0, False, rows_max, tuple(points), tuple(points.values())))


def test_straight_lines_between_flat_below_and_the_last_slope_beyond() -> None:
    known = timetable({2: 0.1, 4: 0.2, 8: 0.25})
    assert [known.seconds(rows) for rows in (1, 2, 3, 4, 6, 8, 16)] == pytest.approx(
        [0.1, 0.1, 0.15, 0.2, 0.225, 0.25, 0.35]
    )


def test_a_single_point_says_nothing_of_a_gain_from_batching() -> None:
    known = timetable({2: 0.1})
    assert [known.seconds(rows) for rows in (1, 2, 6)] == pytest.approx([0.1, 0.1, 0.3])


def test_a_request_over_the_cap_takes_the_sum_of_its_slices() -> None:
    assert timetable({1: 0.1, 8: 0.8}, rows_max=4).seconds(10) == pytest.approx(0.4 + 0.4 + 0.2)


@pytest.mark.parametrize(
    ("points", "rows_max", "full_rows"),
    [
        ({1: 0.1, 64: 0.2}, 64, 64),
        ({1: 0.1, 64: 0.2}, 16, 16),
        ({1: 0.1, 8: 0.2, 64: 6.4}, 64, 8),
        ({1: 0.1, 8: 0.8, 16: 1.63}, 16, 16),  # 2 % less a second: a tie
    ],
)
def test_a_full_batch_has_the_most_rows_per_second(points: dict[int, float], rows_max: int, full_rows: int) -> None:
    known = timetable(points, rows_max)
    assert known.full_rows == full_rows
    assert known.full_s == pytest.approx(known.seconds(full_rows))


def test_a_batch_that_takes_no_time_has_a_rate_all_the_same() -> None:
    assert timetable({1: 0.0}, 4).full_rows == 4
    assert 0 < timetable({1: 0.0}, 4).full_s < 1e-6
