"""Arrival times: seeded, and such that another rate stretches the same random numbers. Seconds from 0."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sin
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
Workload = Callable[[float, float, int, int], list[float]]  # (rate, budget_s, count, seed)

QUIET = (0.5, 30.0)  # rate factor, mean sojourn in budgets
BURST = (2.5, 10.0)
GAMMA_CV = 4.0
DIURNAL_SWING = 0.6


def poisson(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
    """Independent arrivals at `rate` per second."""
    return _listed(np.cumsum(_gaps(count, seed)) / rate)


def gamma(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
    """Clusters: independent gaps of a gamma distribution with coefficient of variation 4."""
    shape = GAMMA_CV**-2
    gaps = np.random.default_rng(seed).gamma(shape, 1 / shape, count)
    return _listed(np.cumsum(gaps) / rate)


def diurnal(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
    """One sine period over the whole run, between 0.4 and 1.6 times `rate`; each gap has the rate of its begin."""
    period_s = count / rate
    times: list[float] = []
    now = 0.0
    for gap in _gaps(count, seed).tolist():
        now += gap / (rate * (1 + DIURNAL_SWING * sin(2 * pi * now / period_s)))
        times.append(now)
    return times


def mmpp(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
    """Bursts: the rate changes between 2.5x and 0.5x, at first the former; sojourns are exponential with means of 10
    and 30 budgets."""
    return _modulated(rate, budget_s, count, seed, (BURST, QUIET))


def mmpp_quiet(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
    """`mmpp` that begins in a quiet time, which matters where a run is not much longer than a sojourn."""
    return _modulated(rate, budget_s, count, seed, (QUIET, BURST))


def replay(path: Path) -> Workload:
    """Arrival times from a file, one number of seconds per line; another rate stretches the time axis.

    Raises ValueError for a file with fewer than two arrivals, or with a line that is not a number.
    """
    times = np.sort(np.array([float(line) for line in path.read_text().split()]))
    if len(times) < 2 or times[-1] <= times[0]:
        raise ValueError(f"{path} holds {len(times)} arrival times, expected at least two that differ, one per line")
    times -= times[0]
    own_rate = (len(times) - 1) / times[-1]

    def workload(rate: float, budget_s: float, count: int, seed: int) -> list[float]:
        return _listed(times[:count] * (own_rate / rate))

    return workload


WORKLOADS: dict[str, Workload] = {
    "poisson": poisson,
    "mmpp": mmpp,
    "mmpp from quiet": mmpp_quiet,
    "gamma4": gamma,
    "diurnal": diurnal,
}


def _modulated(
    rate: float, budget_s: float, count: int, seed: int, states: tuple[tuple[float, float], tuple[float, float]]
) -> list[float]:
    """Two states that take turns, each with its rate (times `rate`) and its mean sojourn (in budgets)."""
    turns = 16 + int(2 * count / (rate * budget_s * sum(sojourn for _, sojourn in states)))
    factors, means = np.tile(np.array(states).T, turns)
    sojourns = np.random.default_rng([seed, 1]).exponential(means) * budget_s
    times = np.concatenate([[0.0], np.cumsum(sojourns)])
    work = np.concatenate([[0.0], np.cumsum(sojourns * factors * rate)])
    return _listed(np.interp(np.cumsum(_gaps(count, seed)), work, times))


def _gaps(count: int, seed: int) -> Times:
    """Of a Poisson process of rate 1."""
    return np.random.default_rng(seed).exponential(1.0, count)


def _listed(times: Times) -> list[float]:
    listed: list[float] = times.tolist()  # the event loops read single times, which is slow in an array
    return listed
