"""The nine bars: what the dispatcher must reach in simulation. A contender that is no dispatcher is held to 1-5."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.simulate.bars import cost, idle, learning, one_worker, overload, pool, serving
from benchmarks.simulate.bars.check import Check
from benchmarks.simulate.bars.trial import Trial

__all__ = ["Check", "Trial", "all_checks", "policy_checks"]


def all_checks(trial: Trial) -> Iterator[Check]:
    """Of Paceline's dispatcher, in the order of the bars."""
    yield from policy_checks(trial)
    yield from learning.checks(trial)
    yield from cost.checks(trial)
    yield from serving.checks(trial)


def policy_checks(trial: Trial) -> Iterator[Check]:
    """Of any contender."""
    yield from one_worker.checks(trial)
    yield from overload.checks(trial)
    yield from pool.checks(trial)
    yield from idle.checks(trial)
