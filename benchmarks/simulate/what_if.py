"""What another setting would have done: the recorded requests, again, with a dispatcher and workers of our choice.

A batch takes what batches of its size took in the recording: the curve of their medians, times the deviation of one
that is drawn from those of its key, and that one's way to the worker and back.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Iterable
from heapq import heappop, heappush
from math import inf
from statistics import median

from benchmarks.simulate.outcome import Batch
from benchmarks.simulate.recorded import Account, Story, Taken
from paceline.runner.dispatcher import (
    Action,
    BatchDone,
    Cancelled,
    Dispatch,
    Dispatcher,
    DispatcherConfig,
    Event,
    Reject,
    Tick,
    WorkerJoined,
)
from paceline.runner.dispatcher.curve import Curve
from paceline.runner.recording import RecordingError

INSTANT_S = 1e-9


class Durations:
    """How long batches take, by key; a key without a batch of its own has what all others took together."""

    def __init__(self, taken: Iterable[Taken], seed: int = 1) -> None:
        """Raises RecordingError where nothing can be known."""
        every = list(taken)
        usual = [batch for batch in every if batch.usual and batch.seconds > 0] or every
        if not usual:
            raise RecordingError("no batch was finished in it, so nothing is known of how long one takes")
        by_key: defaultdict[Hashable, list[Taken]] = defaultdict(list)
        for batch in usual:
            by_key[batch.key].append(batch)
        self._by_key = {key: _Deviations(own) for key, own in by_key.items()}
        self._all = _Deviations(usual)
        self._chance = random.Random(f"durations {seed}")

    def draw(self, key: Hashable, rows: int) -> tuple[float, float]:
        """Seconds of one batch of `rows` padded rows, and those on its way to the worker and back."""
        return self._by_key.get(key, self._all).draw(rows, self._chance)


class _Deviations:
    def __init__(self, taken: list[Taken]) -> None:
        by_rows: defaultdict[int, list[float]] = defaultdict(list)
        for batch in taken:
            by_rows[batch.rows].append(batch.seconds)
        self._curve = Curve(_rising(by_rows), open_ended=True)
        expected = [max(self._curve.seconds(batch.rows), INSTANT_S) for batch in taken]
        self._drawn = [(batch.seconds / seconds, batch.way_s) for batch, seconds in zip(taken, expected)]

    def draw(self, rows: int, chance: random.Random) -> tuple[float, float]:
        ratio, way_s = chance.choice(self._drawn)
        return self._curve.seconds(rows) * ratio, way_s


def _rising(by_rows: dict[int, list[float]]) -> list[tuple[int, float]]:
    """Medians by size, never falling: neighbours that fall are pooled, weighted by how often they were seen."""
    pools: list[tuple[float, int, list[int]]] = []  # (seconds, batches, sizes)
    for rows, seconds in sorted(by_rows.items()):
        height, weight, sizes = median(seconds), len(seconds), [rows]
        while pools and pools[-1][0] > height:
            left_height, left_weight, left_sizes = pools.pop()
            height = (height * weight + left_height * left_weight) / (weight + left_weight)
            weight += left_weight
            sizes = left_sizes + sizes
        pools.append((height, weight, sizes))
    return [(rows, height) for height, _, sizes in pools for rows in sizes]


def simulate(story: Story, config: DispatcherConfig, workers: int, durations: Durations) -> Account:
    """The requests of `story`, told as soon as they were there; all workers are there from the begin."""
    world = _World(story, config, workers, durations)
    world.run()
    return world.account


class _World:
    """Events of one time are told together. A worker that has a second batch begins it when the first one ends."""

    def __init__(self, story: Story, config: DispatcherConfig, workers: int, durations: Durations) -> None:
        self.account = Account(workers=workers)
        self._dispatcher = Dispatcher(config)
        self._durations = durations
        self._ends: list[tuple[float, int, int, float]] = []  # (time of the news, worker, batch id, seconds)
        self._free_at = [story.begin] * workers
        self._wake_at = inf
        self._told = _told(story)
        profiles = story.profiles or [""]
        joins = [WorkerJoined(worker, profiles[worker % len(profiles)]) for worker in range(workers)]
        known = [measured for measured in story.measured if measured.rows <= config.max_batch_size]
        self._tell([*joins, *known], story.begin)

    def run(self) -> None:
        at = 0
        while True:
            next_ = self._told[at][0] if at < len(self._told) else inf
            end = self._ends[0][0] if self._ends else inf
            now = min(next_, end, self._wake_at)
            if now == inf:
                return
            events: list[Event] = []
            while self._ends and self._ends[0][0] <= now:
                _, worker, batch_id, seconds = heappop(self._ends)
                events.append(BatchDone(worker, batch_id, seconds))
            while at < len(self._told) and self._told[at][0] <= now:
                events.append(self._told[at][1])
                at += 1
            self._tell(events or [Tick()], now)

    def _tell(self, events: list[Event], now: float) -> None:
        if now >= self._wake_at:
            self._wake_at = inf
        for action in self._dispatcher.handle_all(events, now):
            self._obey(action, now)

    def _obey(self, action: Action, now: float) -> None:
        if isinstance(action, Dispatch):
            self._start(action, now)
        elif isinstance(action, Reject):
            assert isinstance(action.request_id, int)
            self.account.refusals.append((now, action.request_id, action.reason))
        else:
            self._wake_at = action.time

    def _start(self, dispatch: Dispatch, now: float) -> None:
        worker = dispatch.worker_id
        assert isinstance(worker, int)
        start = max(now, self._free_at[worker])
        seconds, way_s = self._durations.draw(dispatch.key, dispatch.padded_rows)
        self._free_at[worker] = start + seconds
        finish = start + seconds + way_s
        heappush(self._ends, (finish, worker, dispatch.batch_id, seconds))
        requests = [number for number in dispatch.request_ids if isinstance(number, int)]
        self.account.batches.append(Batch(worker, finish - seconds, finish, requests))


def _told(story: Story) -> list[tuple[float, Event]]:
    """In order of time; of one time, requests before their cancellations."""
    told: list[tuple[float, Event]] = [(story.told_at[number], request) for number, request in story.requests.items()]
    told += [(at, Cancelled(number)) for number, at in story.cancels.items()]
    told += story.caps
    return sorted(told, key=lambda pair: pair[0])
