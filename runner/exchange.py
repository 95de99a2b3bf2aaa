"""One queue for several workers: a desk and a pool in one thread, which is what a broker does.

One `turn` drains both sockets fully, asks the dispatcher once and hands out what it orders. Knows no process, signal or
real socket: ports, tally and clock are passed in; the broker's main waits until `wake_at` and calls.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from paceline.protocol.clock import Clock
from paceline.protocol.control import Topology
from paceline.runner.desk import Desk, Port
from paceline.runner.dispatcher import Event
from paceline.runner.pool import Pool


class Exchange:
    """`workers`: the socket that they join. `count(requests, batches, rows)` is told the totals. Its loop: see Host."""

    def __init__(
        self, desk: Desk, workers: Port, digest: str, clock: Clock, count: Callable[[int, int, int], None]
    ) -> None:
        self.finished = False
        self.desk = desk
        self.pool = Pool(desk, workers.send, digest)
        self._workers = workers
        self._clock = clock
        self._count = count
        self._pictures: list[Topology] = []

    @property
    def draining(self) -> bool:
        return self.desk.draining

    def turn(self) -> None:
        """Take in all that came, decide once, hand it out."""
        desk, pool = self.desk, self.pool
        answered = pool.served.batches
        events: list[Event] = []
        self._receive(events)
        events += desk.take_in()
        for picture in self._pictures:
            self._look(picture, events)
        self._pictures.clear()
        now = self._clock.now()
        for batch in desk.decide(events, now):
            pool.assign(batch)
        desk.tell(now)
        if pool.served.batches > answered:
            self._count(pool.served.requests, pool.served.batches, pool.served.rows)
        self.finished = desk.is_drained(now)

    def wake_at(self) -> float:
        """When to call `turn` even if nothing comes (seconds): -inf = at once, inf = never."""
        return -inf if self._pictures else self.desk.wake_at()

    def look(self, picture: Topology) -> None:
        """What the supervisor says of the pool; the next turn sees it."""
        self._pictures.append(picture)

    def drain(self, grace_s: float) -> None:
        """Refuse what is sent from now on. `finished` once the rest is answered, `grace_s` from now at the latest."""
        self.desk.drain(grace_s)

    def _receive(self, events: list[Event]) -> None:
        for peer, parts in self._workers.drain():
            self.pool.receive(peer, parts, events, self._clock.now())

    def _look(self, picture: Topology, events: list[Event]) -> None:
        if self.pool.loses(picture):
            # What a worker answered before it died is done, and must not be run again.
            self._workers.settle()
            self._receive(events)
        self.pool.look(picture, events)
