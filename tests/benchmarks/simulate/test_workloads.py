"""Arrival times: rates, shapes, common random numbers, replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulate.workloads import WORKLOADS, diurnal, gamma, mmpp, replay

COUNT = 20_000
BUDGET_S = 0.01


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_mean_rate_is_the_one_asked_for(name: str) -> None:
    ends = [WORKLOADS[name](1000.0, BUDGET_S, COUNT, seed)[-1] for seed in range(8)]
    assert COUNT / np.mean(ends) == pytest.approx(1000, rel=0.06)


@pytest.mark.parametrize("name", WORKLOADS)
def test_arrivals_are_sorted_and_repeat_with_their_seed(name: str) -> None:
    times = WORKLOADS[name](500.0, BUDGET_S, 1000, 3)
    assert times == sorted(times)
    assert len(times) == 1000
    assert times == WORKLOADS[name](500.0, BUDGET_S, 1000, 3)
    assert times != WORKLOADS[name](500.0, BUDGET_S, 1000, 4)


@pytest.mark.parametrize("name", ["poisson", "gamma4", "diurnal"])
def test_another_rate_stretches_the_same_arrivals(name: str) -> None:
    slow, fast = (WORKLOADS[name](rate, BUDGET_S, 500, 1) for rate in (100.0, 200.0))
    assert np.allclose(slow, np.multiply(fast, 2))


def test_gamma_gaps_vary_four_times_their_mean() -> None:
    gaps = np.diff(gamma(100.0, BUDGET_S, 200_000, 1))
    assert gaps.std() / gaps.mean() == pytest.approx(4, rel=0.05)


def test_mmpp_starts_in_a_burst_of_2_5_times_the_rate() -> None:
    rates = [np.searchsorted(mmpp(10_000.0, BUDGET_S, COUNT, seed), BUDGET_S) / BUDGET_S for seed in range(20)]
    assert np.mean(rates) == pytest.approx(25_000, rel=0.15)


def test_a_day_has_a_busy_and_a_quiet_half() -> None:
    times = np.array(diurnal(1000.0, BUDGET_S, COUNT, 1))
    busy = (times < COUNT / 1000 / 2).mean()
    assert busy == pytest.approx(0.5 + 0.6 / np.pi, abs=0.02)


def test_a_file_is_replayed_at_its_own_rate_and_at_others(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.txt"
    path.write_text("10.0\n10.5\n12.0\n11.0\n")
    assert replay(path)(1.5, BUDGET_S, 10, 1) == pytest.approx([0.0, 0.5, 1.0, 2.0])
    assert replay(path)(3.0, BUDGET_S, 3, 1) == pytest.approx([0.0, 0.25, 0.5])


@pytest.mark.parametrize("text", ["", "1.0\n", "1.0\nsoon\n", "1.0\n1.0\n"])
def test_a_file_without_two_times_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "arrivals.txt"
    path.write_text(text)
    with pytest.raises(ValueError):
        replay(path)
