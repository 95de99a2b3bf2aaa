"""The requests of one key that wait, most urgent first: by (priority, deadline, arrival, order of being told).

One lane per priority, each a sorted list: budgets are mostly equal, so nearly every request is appended at the end,
and leaving from the head moves pointers only. Knows no clock, worker or latency.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from paceline.runner.dispatcher.events import Arrived


class Waiting(NamedTuple):
    """A request in the queue. Its fields are in the order that decides who goes first; `number` is unique."""

    priority: int
    deadline: float
    arrived_at: float
    number: int
    request: Arrived
    starts: int
    suspect: bool = False  # a worker may have died of it

    @property
    def runs_alone(self) -> bool:
        """Not batchable, or suspected of having killed a worker: then it must not take neighbours down."""
        return self.suspect or self.request.batch_limit == 1


def deadline_of(waiting: Waiting) -> float:
    """What a lane is sorted by."""
    return waiting.deadline


def priority_of(lane: "Lane") -> int:
    """What the lanes of a queue are sorted by."""
    return lane.priority


class Lane:
    """The waiting requests of one priority, sorted."""

    __slots__ = ("entries", "priority", "rows")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.entries: list[Waiting] = []
        self.rows = 0


class KeyQueue:
    """Lanes in order of priority, none of them empty."""

    __slots__ = ("lanes", "rows")

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.rows = 0

    def __bool__(self) -> bool:
        return self.rows > 0

    @property
    def head(self) -> Waiting:
        return self.lanes[0].entries[0]

    def earliest_deadline(self) -> float:
        return min(lane.entries[0].deadline for lane in self.lanes)

    def add(self, waiting: Waiting) -> None:
        lanes = self.lanes
        lane = lanes[0] if lanes and lanes[0].priority == waiting.priority else self._lane(waiting.priority)
        entries = lane.entries
        if not entries or entries[-1] < waiting:
            entries.append(waiting)
        else:
            insort(entries, waiting)
        rows = waiting.request.rows
        lane.rows += rows
        self.rows += rows

    def remove(self, waiting: Waiting) -> None:
        lane = self._lane(waiting.priority)
        del lane.entries[bisect_left(lane.entries, waiting)]
        self._forget_rows(lane, waiting.request.rows)

    def take(self, lane: Lane, end: int, begin: int = 0) -> list[Waiting]:
        """The requests of the lane from index `begin` up to `end` leave the queue."""
        taken = lane.entries[begin:end]
        if taken:
            del lane.entries[begin:end]
            rows = len(taken) if lane.rows == len(lane.entries) + len(taken) else sum(w.request.rows for w in taken)
            self._forget_rows(lane, rows)
        return taken

    def fill(self, queues: Iterable["KeyQueue"], each: int) -> None:
        """An empty queue gets the first `each` requests of every lane of these, which keep them."""
        found: dict[int, list[Waiting]] = {}
        for lane in [lane for queue in queues for lane in queue.lanes]:
            found.setdefault(lane.priority, []).extend(lane.entries[:each])
        for priority, entries in found.items():
            lane = self._lane(priority)
            lane.entries = sorted(entries)
            lane.rows = sum([waiting.request.rows for waiting in entries])
            self.rows += lane.rows

    def leave(self, going: Sequence[Waiting]) -> None:
        """These, of one priority and in order, with nobody between them, leave the queue."""
        lane = self._lane(going[0].priority)
        begin = bisect_left(lane.entries, going[0])
        self.take(lane, begin + len(going), begin)

    def _lane(self, priority: int) -> Lane:
        lanes = self.lanes
        at = bisect_left(lanes, priority, key=priority_of)
        if at == len(lanes) or lanes[at].priority != priority:
            lanes.insert(at, Lane(priority))
        return lanes[at]

    def _forget_rows(self, lane: Lane, rows: int) -> None:
        lane.rows -= rows
        self.rows -= rows
        if not lane.entries:
            self.lanes.remove(lane)
