"""What could be served if the future were known: exact for one worker, a rule of thumb for several.

One worker, equal budgets: an exchange argument shows that some best schedule serves contiguous batches in order of
arrival. With G[l][k] the earliest time at which the worker is free with the first l requests settled and at most k of
them lost,

    G[l][k] = min(G[l-1][k-1], min over b of max(G[l-b][k], r_l) + seconds(b), subject to that <= r_(l-b+1) + budget)

which is O(n K B). Only a narrow band of k matters for each l: below it G is infinite, and above the first k whose
worker is idle when the next request comes more losses buy nothing. The tests compare it with exhaustive search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulate.latency import BATCH_MAX, ROUNDING_S, rows_within

BAND = 64


def fewest_misses(
    arrivals: Sequence[float],
    budget_s: float,
    table: Sequence[float],
    batch_max: int = BATCH_MAX,
    misses_max: int | None = None,
) -> int:
    """Of one worker that knows the future. Stops at the first proof of more than `misses_max`."""
    most = len(arrivals) if misses_max is None else misses_max
    band = BAND
    while True:
        misses = _Bound(arrivals, budget_s, table, batch_max, band).misses(most)
        if misses is not None:
            return misses
        band *= 2


class _Bound:
    """`band`: how many values of k are kept at a time, `_base` is the first of them.

    Row l of `_free` is G[l]: infinite below column `_low`, and from column `_high` on it repeats the value before.
    """

    def __init__(
        self, arrivals: Sequence[float], budget_s: float, table: Sequence[float], batch_max: int, band: int
    ) -> None:
        self._arrivals = np.asarray(arrivals, dtype=np.float64)
        self._deadlines = (self._arrivals + budget_s + ROUNDING_S)[:, None]
        self._seconds = np.asarray(table[1 : batch_max + 1], dtype=np.float64)
        self._backwards = self._seconds[::-1][:, None]
        self._free = np.full((len(arrivals) + 1, band), np.inf)
        self._free[0] = -np.inf
        self._base, self._low, self._high = 0, 0, 1

    def misses(self, most: int) -> int | None:
        """None: the band was too narrow."""
        sizes = self._sizes().tolist()
        times = [*self._arrivals.tolist(), np.inf]
        for settled, size in enumerate(sizes, start=1):
            if self._high == self._free.shape[1] and not self._rebase(settled):
                return None
            self._settle(settled, size, times[settled - 1], times[settled])
            if self._base + self._low > most:
                break
        return self._base + self._low

    def _settle(self, settled: int, size: int, arrival: float, next_arrival: float) -> None:
        """Row `settled`: its last request ends a batch of up to `size`, or is lost."""
        low, high = self._low, self._high + 1
        row = self._free[settled]
        if size:
            first = settled - size
            ends = np.maximum(self._free[first:settled, low:high], arrival)
            ends += self._backwards[len(self._backwards) - size :]
            ends[ends > self._deadlines[first:settled]] = np.inf
            ends.min(axis=0, out=row[low:high])
        lost = row[low + 1 : high]
        np.minimum(lost, self._free[settled - 1, low : high - 1], out=lost)
        while row[low] == np.inf:
            low += 1
        busy = int((row[low:high] > next_arrival).sum())
        self._low, self._high = low, min(low + busy + 1, high)
        row[self._high :] = row[self._high - 1]

    def _rebase(self, settled: int) -> bool:
        """Columns that are infinite by now make room for others."""
        low = self._low
        if not low:
            return False
        rows = self._free[max(0, settled - len(self._seconds)) : settled]
        last = rows[:, -1:].copy()
        rows[:, :-low] = rows[:, low:].copy()
        rows[:, -low:] = last
        self._base, self._low, self._high = self._base + low, 0, self._high - low
        return True

    def _sizes(self) -> NDArray[np.int64]:
        """For each request the largest batch that it may end: one whose first member can still meet its deadline."""
        arrivals, deadlines = self._arrivals, self._deadlines[:, 0]
        sizes = np.zeros(len(arrivals), dtype=np.int64)
        for rows, seconds in enumerate(self._seconds[: len(arrivals)], start=1):
            fits = arrivals[rows - 1 :] + seconds <= deadlines[: len(arrivals) - rows + 1]
            if not fits.any():
                break
            sizes[rows - 1 :] += fits
        return sizes


def staggered_rows(budget_s: float, table: Sequence[float], workers: int, batch_max: int = BATCH_MAX) -> int:
    """The largest batch b with (1 + 1/workers) seconds(b) <= budget; 1 if there is none."""
    return max(1, rows_within(table, budget_s / (1 + 1 / workers), batch_max))


def staggered_rate(budget_s: float, table: Sequence[float], workers: int, batch_max: int = BATCH_MAX) -> float:
    """What evenly spaced arrivals allow: the workers start `seconds(b) / workers` apart. A reference, not a bound."""
    rows = staggered_rows(budget_s, table, workers, batch_max)
    return workers * rows / table[rows]


def peak_rate(budget_s: float, table: Sequence[float], batch_max: int = BATCH_MAX) -> float:
    """Rows per second of one worker at the best batch size that the budget allows."""
    return max(rows / table[rows] for rows in range(1, max(1, rows_within(table, budget_s, batch_max)) + 1))
