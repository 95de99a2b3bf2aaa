"""What a run did: batches and drops, and the figures that tables are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulate.latency import ROUNDING_S


class Batch(NamedTuple):
    """Requests that one worker served together, from `start` to `finish`."""

    worker: int
    start: float
    finish: float
    requests: Sequence[int]


@dataclass(slots=True)
class Outcome:
    """`drops` holds (time, requests). In a run that was cut short some requests are in neither list."""

    arrivals: list[float]
    budget_s: float
    batches: list[Batch] = field(default_factory=list)
    drops: list[tuple[float, Sequence[int]]] = field(default_factory=list)

    def latencies(self) -> NDArray[np.float64]:
        """Seconds from arrival to answer of all that were served."""
        if not self.batches:
            return np.zeros(0)
        served = np.concatenate([np.asarray(batch.requests) for batch in self.batches])
        finished = np.repeat([b.finish for b in self.batches], [len(b.requests) for b in self.batches])
        latencies: NDArray[np.float64] = finished - np.asarray(self.arrivals)[served]
        return latencies

    def good(self) -> int:
        """Requests that were answered within the budget."""
        return int((self.latencies() <= self.budget_s + ROUNDING_S).sum())

    def late(self) -> int:
        return len(self.latencies()) - self.good()

    def dropped(self) -> int:
        return sum(len(requests) for _, requests in self.drops)

    def attainment(self) -> float:
        """The share of all arrivals that were answered within the budget; drops are misses."""
        return self.good() / len(self.arrivals)

    def misses(self) -> int:
        """All that were not answered within the budget, those of a run that was cut short included."""
        return len(self.arrivals) - self.good()

    def percentile_s(self, percent: float) -> float:
        latencies = self.latencies()
        return float(np.percentile(latencies, percent)) if len(latencies) else float("nan")

    def mean_batch(self) -> float:
        return len(self.latencies()) / max(1, len(self.batches))
