"""The seam for policies: asked when a worker is idle and something waits, a policy says what to drop and what to send.

A policy sees one queue, first come first served, all with the same budget. `queue_loop` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol, runtime_checkable

from benchmarks.simulate.latency import BATCH_MAX


@dataclass(frozen=True, slots=True)
class Setting:
    """What a policy may know: `table[b]` seconds of a batch of b rows, the budget and the number of workers."""

    table: Sequence[float]
    budget_s: float
    workers: int = 1
    batch_max: int = BATCH_MAX


@dataclass(slots=True)
class Queue:
    """Requests `head` to `tail - 1` wait; `arrivals[i]` is when request i came. Later entries are the future."""

    arrivals: list[float]
    head: int = 0
    tail: int = 0
    idle: int = 1  # workers


class Decision(NamedTuple):
    """Drop `skip` heads, then send the next `take` to an idle worker. 0 = hold: ask again at the time `wake_at`, at
    the next arrival or when a batch is done, whatever comes first."""

    skip: int = 0
    take: int = 0
    wake_at: float = inf


class Policy(Protocol):
    """Called with at least one request waiting and one worker idle; again until it takes nothing."""

    def decide(self, queue: Queue, now: float) -> Decision: ...


@runtime_checkable
class Observer(Protocol):
    """A policy that also wants to hear what batches took."""

    def finished(self, rows: int, seconds: float, now: float) -> None: ...


MakePolicy = Callable[[Setting], Policy]
