"""All that waits: one queue per key and length, its recent arrivals, the caps. Knows no worker and no latency."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from paceline.runner.dispatcher.arrivals import Arrivals
from paceline.runner.dispatcher.events import Arrived
from paceline.runner.dispatcher.pace import Hold, Pace, PaceCase
from paceline.runner.dispatcher.queue import KeyQueue, Waiting, priority_of

AGEING_STEPS = 16  # a request grows more urgent at most so much of ageing_s late: looking is not free
LOWER_KEYS_MAX = 64  # so many keys are looked at for requests of lower classes to give up
PADDED = object()  # no key that a caller makes is equal to a tuple with this in it
Urgency = tuple[int, float, float]


@dataclass(slots=True)
class KeyState:
    """What is kept of the requests of one key and length, its queue empty or not."""

    name: Hashable  # in the backlog: the key, if there is no length
    key: Hashable
    length: int
    queue: KeyQueue = field(default_factory=KeyQueue)
    arrivals: Arrivals = field(default_factory=Arrivals)
    urgency: Urgency | None = None  # among the states; None = to be computed, the queue has changed
    urgency_of: tuple[str, int] = ("", 0)  # the worker profile and the version of the tables that it holds for
    paces: dict[PaceCase, Pace] = field(default_factory=dict)
    hold: Hold | None = None  # the last one; None = to be looked up


class Backlog:
    """`waiting` holds the states with a queue, by name; of the others only the last `keys_max` are remembered."""

    def __init__(self, keys_max: int, ageing_s: float = 0.0) -> None:
        self.rows = 0
        self.ages_at = inf  # when `age` may have something to do
        self.waiting: dict[Hashable, KeyState] = {}
        self._lengths: dict[Hashable, dict[int, KeyState]] = {}  # those of `waiting` that have a length, by key
        self._idle: OrderedDict[Hashable, KeyState] = OrderedDict()
        self._caps: dict[Hashable, tuple[int, float]] = {}
        self._keys_max = keys_max
        self._ageing_s = ageing_s or inf

    def states(self) -> list[KeyState]:
        """Those that wait, else the last that did."""
        return list(self.waiting.values()) or [self._idle[name] for name in list(self._idle)[-1:]]

    def other_lengths(self, state: KeyState) -> list[KeyState]:
        """Those that wait of the same key, padded to something else."""
        lengths = self._lengths.get(state.key)
        return [other for other in lengths.values() if other is not state] if lengths else []

    def add(self, waiting: Waiting) -> KeyState:
        request = waiting.request
        name = _name(request) if request.length else request.key
        state = self.waiting.get(name)
        if state is None:
            state = self._open(name, request)
        state.queue.add(waiting)
        state.urgency = None
        self.rows += request.rows
        if waiting.arrived_at + self._ageing_s < self.ages_at:
            grown = request.priority - waiting.priority
            self.ages_at = min(self.ages_at, waiting.arrived_at + (grown + 1) * self._ageing_s)
        return state

    def age(self, now: float) -> list[Waiting]:
        """Who has waited `ageing_s` is one class more urgent, and another for each `ageing_s` more: nobody starves.
        Returns those for whom that is new, as they wait now."""
        if now < self.ages_at:
            return []
        before = now - self._ageing_s
        lanes = [lane for state in self.waiting.values() for lane in state.queue.lanes]
        old = [waiting for lane in lanes for waiting in lane.entries if waiting.arrived_at <= before]
        self.ages_at = now + self._ageing_s / AGEING_STEPS if lanes else inf
        aged = [waiting for waiting in old if self._class(waiting, now) < waiting.priority]
        for waiting in aged:
            self.remove(waiting)
        aged = [waiting._replace(priority=self._class(waiting, now)) for waiting in aged]
        for waiting in aged:
            self.add(waiting)
        return aged

    def _class(self, waiting: Waiting, now: float) -> int:
        return waiting.request.priority - int((now - waiting.arrived_at) / self._ageing_s)

    def lower(self, priority: int, rows: int) -> list[Waiting]:
        """The least urgent requests of lower classes, as many as have so many rows; none if they have not."""
        states = islice(self.waiting.values(), LOWER_KEYS_MAX)
        lanes = [lane for state in states for lane in state.queue.lanes if lane.priority > priority]
        if sum([lane.rows for lane in lanes]) < rows:
            return []
        found: list[Waiting] = []
        for lane in sorted(lanes, key=priority_of, reverse=True):
            for waiting in reversed(lane.entries):
                if rows <= 0:
                    return found
                found.append(waiting)
                rows -= waiting.request.rows
        return found

    def remove(self, waiting: Waiting) -> None:
        state = self.waiting[_name(waiting.request)]
        state.queue.remove(waiting)
        self.left(state, waiting.request.rows)

    def left(self, state: KeyState, rows: int) -> None:
        """So many rows were taken out of this queue."""
        self.rows -= rows
        state.urgency = None
        if not state.queue:
            self._close(state)

    def pop_expired(self, now: float) -> list[Waiting]:
        """Every request whose deadline has passed leaves."""
        expired: list[Waiting] = []
        for state in list(self.waiting.values()):
            before = state.queue.rows
            for lane in list(state.queue.lanes):
                count = 0
                while count < len(lane.entries) and lane.entries[count].deadline <= now:
                    count += 1
                expired += state.queue.take(lane, count)
            if before > state.queue.rows:
                self.left(state, before - state.queue.rows)
        return expired

    def earliest_deadline(self) -> float:
        return min((state.queue.earliest_deadline() for state in self.waiting.values()), default=inf)

    def lower_cap(self, key: Hashable, rows: int, until: float, now: float) -> None:
        self._caps = {k: cap for k, cap in self._caps.items() if cap[1] > now and k != key}
        if len(self._caps) >= self._keys_max:
            del self._caps[min(self._caps, key=lambda k: self._caps[k][1])]
        if until > now:
            self._caps[key] = (max(1, rows), until)
        states = list(self._lengths.get(key, {}).values())
        if key in self.waiting:
            states.append(self.waiting[key])
        for state in states:
            state.urgency = state.hold = None

    def cap(self, key: Hashable, rows_max: int, now: float) -> int:
        """The most rows of a batch of this key now."""
        if not self._caps:
            return rows_max
        rows, until = self._caps.get(key, (rows_max, inf))
        return min(rows, rows_max) if now < until else rows_max

    def _open(self, name: Hashable, request: Arrived) -> KeyState:
        state = self._idle.pop(name, None) or KeyState(name, request.key, request.length)
        self.waiting[name] = state
        if state.length:
            self._lengths.setdefault(state.key, {})[state.length] = state
        return state

    def _close(self, state: KeyState) -> None:
        """Its queue is empty."""
        del self.waiting[state.name]
        if state.length:
            lengths = self._lengths[state.key]
            del lengths[state.length]
            if not lengths:
                del self._lengths[state.key]
        self._idle[state.name] = state
        if len(self._idle) > self._keys_max:
            self._idle.popitem(last=False)


def _name(request: Arrived) -> Hashable:
    """What requests share that wait in one queue."""
    return (request.key, request.length, PADDED) if request.length else request.key
