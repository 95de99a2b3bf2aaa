"""One cell of a table: a model, a workload, a budget and a number of workers, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import inf
from pathlib import Path

from benchmarks.simulate.capacity import capacity
from benchmarks.simulate.clairvoyant import fewest_misses, peak_rate, staggered_rate
from benchmarks.simulate.contenders import contender
from benchmarks.simulate.latency import BATCH_MAX, Model, Service, jittered, rows_within
from benchmarks.simulate.outcome import Outcome
from benchmarks.simulate.policy import Setting
from benchmarks.simulate.workloads import WORKLOADS, Workload, replay

COUNT = 10_000
MISS_SHARE = 0.01
CEILING = 1.1  # times the reference rate: the largest capacity that is looked for
FLOOR = 0.7  # times the ceiling: tried first


@dataclass(frozen=True)
class Cell:
    """`budgets` is S / l(1); `workload` a name or, with a slash or a dot, a file of arrival times to replay."""

    model: Model
    workload: str
    budgets: float
    workers: int = 1
    sigma: float = 0.0
    count: int = COUNT

    @property
    def name(self) -> str:
        jitter = f", jitter {self.sigma}" if self.sigma else ""
        workers = f", N={self.workers}" if self.workers > 1 else ""
        steps = ", steps" if self.model.steps else ""
        return f"{self.model.name} {self.workload} {self.budgets:g} l(1){workers}{steps}{jitter}"

    @cached_property
    def setting(self) -> Setting:
        """Batches that take longer than the budget on their own are never worth a try, so they are above the cap."""
        table = _table(self.model)
        budget_s = self.budgets * table[1]
        return Setting(table, budget_s, self.workers, max(1, rows_within(table, budget_s, BATCH_MAX)))

    @property
    def peak_rate(self) -> float:
        """Of all workers at the best batch size that the budget allows."""
        return self.workers * peak_rate(self.setting.budget_s, self.setting.table, self.setting.batch_max)

    @property
    def staggered_rate(self) -> float:
        return staggered_rate(self.setting.budget_s, self.setting.table, self.workers, self.setting.batch_max)

    def arrivals(self, rate: float, seed: int) -> list[float]:
        return _workload(self.workload)(rate, self.setting.budget_s, self.count, seed)

    def service(self, seed: int) -> Service:
        return jittered(self.setting.table, self.sigma, seed)

    def run(self, name: str, rate: float, seed: int, misses_max: float = inf) -> Outcome:
        """Of the contender with this name."""
        return contender(name)(self.setting, self.arrivals(rate, seed), self.service(seed), misses_max)

    def capacity(self, name: str, seed: int, reference: float) -> float:
        """The largest rate at which 99 % are answered in time; `reference` is about that or more."""
        most = self.count * MISS_SHARE

        def meets(rate: float) -> bool:
            return self.run(name, rate, seed, most).misses() <= most

        return capacity(meets, CEILING * reference, FLOOR * CEILING * reference)

    def bound(self, seed: int) -> float:
        """The capacity of one worker that knows the future."""
        most = int(self.count * MISS_SHARE)
        return capacity(lambda rate: self.fewest_misses(rate, seed, most) <= most, self.peak_rate * 1.02)

    def fewest_misses(self, rate: float, seed: int, misses_max: int | None = None) -> int:
        setting = self.setting
        arrivals = self.arrivals(rate, seed)
        return fewest_misses(arrivals, setting.budget_s, setting.table, setting.batch_max, misses_max)


@cache
def _table(model: Model) -> list[float]:
    return model.table()


@cache
def _workload(name: str) -> Workload:
    return WORKLOADS[name] if name in WORKLOADS else replay(Path(name))
