"""The clocks."""

from __future__ import annotations

import time

import pytest

from paceline.protocol.clock import Clock, SystemClock, VirtualClock


def test_system_clock_is_the_one_clock_of_all_processes() -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    now_ns = SystemClock.now_ns()
    assert before <= now_ns <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert SystemClock.now() >= now_ns / 1e9


def test_virtual_clock_moves_only_when_told_to() -> None:
    clock = VirtualClock(start_s=5.0)
    clock.advance(0.25)
    clock.advance(0)
    assert (clock.now(), clock.now_ns()) == (5.25, 5_250_000_000)
    with pytest.raises(ValueError, match="cannot go back, got -1"):
        clock.advance(-1)


def test_both_clocks_fit_the_seam() -> None:
    clocks: list[Clock] = [SystemClock(), VirtualClock()]
    assert all(clock.now() > 0 for clock in clocks)
