"""A recording as the world it was made in: who asked for what, what the workers took, and what became of each request.

Read from the file of `paceline serve --record`. The figures are the same for what was recorded and what is simulated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from math import inf, isnan
from pathlib import Path
from statistics import median
from typing import TypeAlias

import numpy as np

from benchmarks.simulate.latency import ROUNDING_S
from benchmarks.simulate.outcome import Batch, Outcome
from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatch,
    Measured,
    Reject,
    RejectReason,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.recording import Header, Step, Torn, read

PERCENTS = (50, 95, 99)
Figures: TypeAlias = dict[str, float | list[float] | None]


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch of `rows` padded rows of `key` took `seconds`, and `way_s` more on its way to the worker and back.
    `usual`: the dispatcher was told to learn from it."""

    key: Hashable
    rows: int
    seconds: float
    usual: bool = True
    way_s: float = 0.0


@dataclass(slots=True)
class Account:
    """What became of requests, by their numbers. Batches that a worker took along when it was lost are not listed."""

    batches: list[Batch] = field(default_factory=list)
    refusals: list[tuple[float, int, RejectReason]] = field(default_factory=list)
    workers: int = 0  # numbered from 0


@dataclass(slots=True)
class Story:
    """The world of one process, from its header to the next: what happened to the dispatcher from outside, and what it
    made of it (`account`)."""

    header: Header
    begin: float = 0.0
    requests: dict[int, Arrived] = field(default_factory=dict)  # with the time they came to the API server
    told_at: dict[int, float] = field(default_factory=dict)  # when its dispatcher could first know of each
    cancels: dict[int, float] = field(default_factory=dict)
    caps: list[tuple[float, CapChanged]] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    profiles: list[str] = field(default_factory=list)  # of the most workers that there were at once
    taken: list[Taken] = field(default_factory=list)
    account: Account = field(default_factory=Account)


def stories(path: Path, notes: list[str]) -> list[Story]:
    """All of the file; what the reader should know is appended to `notes`. Raises OSError, RecordingError."""
    told: list[_Teller] = []
    for number, entry in entries(path):
        if isinstance(entry, Header):
            told.append(_Teller(Story(entry)))
        elif isinstance(entry, Torn):
            notes.append(torn_note(number))
        else:
            told[-1].hear(entry)
    lost = sum(teller.lost for teller in told)
    if lost:
        notes.append(f"{lost} workers were lost in the recording; the simulation loses none")
    for teller in told:
        teller.end()
    return [teller.story for teller in told]


def entries(path: Path) -> Iterator[tuple[int, Header | Step | Torn]]:
    with path.open("rb") as file:
        yield from read(file)


def torn_note(number: int) -> str:
    return f"line {number} was cut short, as when a process is killed; it is left out"


class _Teller:
    """Follows the calls of one dispatcher."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.lost = 0
        self._begun = False
        self._last: Step | None = None
        self._kept_waiting: list[tuple[int, float, float]] = []  # (request, earliest, latest time it was there)
        self._here: dict[Hashable, str] = {}
        self._open: dict[int, tuple[float, Dispatch]] = {}
        self._free_since: dict[Hashable, float] = {}

    def hear(self, step: Step) -> None:
        story, now = self.story, step.now
        if not self._begun:
            story.begin = now
            self._begun = True
        busy_since = self._busy_since(step)
        for event in step.events:
            match event:
                case Arrived():
                    self._come(event, now, busy_since)
                case Cancelled(request_id):
                    story.cancels.setdefault(_number(request_id), now)
                case BatchDone():
                    self._finish(event, now)
                case CapChanged():
                    story.caps.append((now, event))
                case Measured():
                    story.measured.append(event)
                case WorkerJoined(worker_id, profile):
                    self._join(_number(worker_id), profile)
                case WorkerLost(worker_id):
                    self.lost += self._here.pop(worker_id, None) is not None
                    self._open = {n: sent for n, sent in self._open.items() if sent[1].worker_id != worker_id}
        for action in step.actions:
            if isinstance(action, Dispatch):
                self._open[action.batch_id] = (now, action)
            elif isinstance(action, Reject):
                story.account.refusals.append((now, _number(action.request_id), action.reason))
        self._last = step

    def end(self) -> None:
        """A worker with a queue of its own hears nothing while it computes: who came then was there as long after its
        arrival as others usually are."""
        story = self.story
        ways = [at - (story.requests[number].arrived_at or at) for number, at in story.told_at.items()]
        way_s = median(ways) if ways else 0.0
        for number, earliest, latest in self._kept_waiting:
            arrived_at = story.requests[number].arrived_at
            assert arrived_at is not None
            story.told_at[number] = min(max(arrived_at + way_s, earliest), latest)

    def _busy_since(self, step: Step) -> float | None:
        """When a batch began that was all that happened until this call; None = the dispatcher was free to hear."""
        done = {event.batch_id for event in step.events if isinstance(event, BatchDone)}
        if self._last is None or not done:
            return None
        begun = {action.batch_id for action in self._last.actions if isinstance(action, Dispatch)}
        return self._last.now if done & begun else None

    def _come(self, event: Arrived, now: float, busy_since: float | None) -> None:
        number = _number(event.request_id)
        if number in self.story.requests or event.rows < 1 or isnan(event.deadline):
            return  # the dispatcher raised: it was there already, or is none
        # A request may have waited for this process to start.
        came = now if event.arrived_at is None else max(event.arrived_at, self.story.begin)
        self.story.requests[number] = replace(event, arrived_at=came)
        if busy_since is None:
            self.story.told_at[number] = now
        else:
            self._kept_waiting.append((number, busy_since, now))

    def _join(self, worker: int, profile: str) -> None:
        self._here[worker] = profile
        if len(self._here) > len(self.story.profiles):
            self.story.profiles = list(self._here.values())
        self.story.account.workers = max(self.story.account.workers, worker + 1)

    def _finish(self, done: BatchDone, now: float) -> None:
        sent_at, batch = self._open.get(done.batch_id, (now, None))
        if batch is None or batch.worker_id != done.worker_id:
            return
        del self._open[done.batch_id]
        begin = max(sent_at, self._free_since.get(done.worker_id, sent_at))
        self._free_since[done.worker_id] = now
        way_s = max(0.0, now - begin - done.duration)
        numbers = [number for number in map(_number, batch.request_ids) if number in self.story.requests]
        self.story.taken.append(Taken(batch.key, batch.padded_rows, done.duration, done.learn, way_s))
        self.story.account.batches.append(Batch(_number(done.worker_id), now - done.duration, now, numbers))


def figures(told: list[tuple[Story, Account]]) -> Figures:
    """What the accounts of several processes come to, together."""
    latencies: list[float] = []
    counts: Counter[str] = Counter()
    busy: defaultdict[int, float] = defaultdict(float)
    span_s = 0.0
    workers = 0
    for story, account in told:
        latencies += _ends(story, account, counts)
        workers = max(workers, account.workers)
        for batch in account.batches:
            busy[batch.worker] += batch.finish - batch.start
        span_s += _span_s(story, account)
    batches = [(story, batch) for story, account in told for batch in account.batches]
    rows = sum(story.requests[number].rows for story, batch in batches for number in batch.requests)
    return {
        "requests": sum(len(story.requests) for story, _ in told),
        "in_time": counts["in_time"],
        "late": counts["late"],
        **{f"dropped_{reason}": counts[reason] for reason in RejectReason},
        "cancelled": counts["cancelled"],
        "unfinished": counts["unfinished"],
        **{f"p{percent}_ms": _percentile_ms(latencies, percent) for percent in PERCENTS},
        "batches": len(batches),
        "mean_batch_rows": rows / len(batches) if batches else None,
        "busy_share": [busy[worker] / span_s if span_s else 0.0 for worker in range(workers)],
    }


def as_outcome(story: Story, account: Account) -> tuple[Outcome, list[float]]:
    """For a plot: requests numbered by arrival, seconds from the begin; and the deadline of each."""
    requests = sorted(story.requests.values(), key=lambda request: request.arrived_at or 0.0)
    at = {_number(request.request_id): number for number, request in enumerate(requests)}
    outcome = Outcome([(request.arrived_at or 0.0) - story.begin for request in requests], inf)
    for worker, start, finish, numbers in account.batches:
        shown = sorted(at[number] for number in numbers)
        outcome.batches.append(Batch(worker, start - story.begin, finish - story.begin, shown))
    outcome.drops += [(now - story.begin, (at[number],)) for now, number, _ in account.refusals]
    return outcome, [request.deadline - story.begin for request in requests]


def _ends(story: Story, account: Account, counts: Counter[str]) -> Iterator[float]:
    """The latencies of those who got an answer; everybody's end is counted."""
    open_ = set(story.requests)
    for batch in account.batches:
        for number in batch.requests:
            if number not in open_:
                continue
            open_.discard(number)
            request = story.requests[number]
            if story.cancels.get(number, batch.finish) < batch.finish:
                counts["cancelled"] += 1
                continue
            counts["in_time" if batch.finish <= request.deadline + ROUNDING_S else "late"] += 1
            assert request.arrived_at is not None
            yield batch.finish - request.arrived_at
    for _, number, reason in account.refusals:
        if number in open_:
            open_.discard(number)
            counts[reason] += 1
    cancelled = open_ & set(story.cancels)
    counts["cancelled"] += len(cancelled)
    counts["unfinished"] += len(open_ - cancelled)


def _percentile_ms(latencies: list[float], percent: float) -> float | None:
    return 1000 * float(np.percentile(latencies, percent)) if latencies else None


def _span_s(story: Story, account: Account) -> float:
    """From the first request to the last answer."""
    if not story.requests or not account.batches:
        return 0.0
    begin = min(request.arrived_at or 0.0 for request in story.requests.values())
    return max(batch.finish for batch in account.batches) - begin


def _number(identity: object) -> int:
    assert isinstance(identity, int)
    return identity
