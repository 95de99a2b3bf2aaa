"""Rates over a short and a long window, and the usual budget."""

from math import inf, sqrt

import pytest

from paceline.runner.dispatcher.arrivals import BUDGETS, LONG, Arrivals


def window_of(seconds: float) -> Arrivals:
    arrivals = Arrivals()
    arrivals.resize(seconds, 0.0)
    return arrivals


def test_what_lasts_is_the_rate_of_the_long_window() -> None:
    arrivals = window_of(0.1)
    for i in range(60):
        arrivals.add(2, 1.0, i * 0.01)
    assert arrivals.lasting(0.6) == pytest.approx(200.0)
    assert arrivals.lasting(0.65) == pytest.approx(200.0 * 5.5 / LONG)  # half of the first window still counts
    assert arrivals.lasting(1.3) == 0.0


def test_demand_sees_a_burst_within_one_window_less_its_chance() -> None:
    arrivals = window_of(0.1)
    arrivals.add(100, 1.0, 0.0)
    assert arrivals.demand(0.001) == pytest.approx((100 - sqrt(100)) / 0.1)


def test_demand_remembers_the_long_window_when_the_short_one_is_empty() -> None:
    arrivals = window_of(0.1)
    arrivals.add(60, 1.0, 0.0)
    assert arrivals.demand(0.25) == pytest.approx(60 / LONG / 0.1)
    assert arrivals.demand(0.65) == pytest.approx(60 / LONG / 0.1 / 2)  # the first window is half out of reach
    assert arrivals.demand(0.75) == 0.0


def test_after_a_long_silence_counting_begins_anew() -> None:
    arrivals = window_of(0.1)
    arrivals.add(60, 1.0, 0.0)
    arrivals.add(1, 1.0, 100.0)
    assert arrivals.lasting(100.0) == pytest.approx(10.0 / LONG)


def test_a_steady_stream_keeps_its_rate_when_the_window_changes() -> None:
    arrivals = window_of(0.1)
    for i in range(100):
        arrivals.add(1, 1.0, i * 0.01)
    arrivals.resize(0.04, 0.9901)
    assert arrivals.lasting(0.9901) == pytest.approx(100.0, rel=0.15)
    arrivals.resize(0.2, 0.9901)
    assert arrivals.lasting(0.9901) == pytest.approx(100.0, rel=0.15)


def test_what_came_just_now_is_within_a_shorter_window_too() -> None:
    arrivals = Arrivals()
    arrivals.add(50, 1.0, 0.0)
    arrivals.resize(0.02, 0.001)
    assert arrivals.lasting(0.001) == pytest.approx(50 / 0.02 / LONG)


def test_the_budget_is_the_median_of_the_last_ones() -> None:
    arrivals = Arrivals()
    assert arrivals.budget_s() == inf
    for budget_s in (0.1, 0.3, 0.2):
        arrivals.add(1, budget_s, 0.0)
    assert arrivals.budget_s() == 0.2
    for _ in range(2 * BUDGETS):
        arrivals.add(1, inf, 0.0)
    assert arrivals.budget_s() == inf
