"""A worker with its own queue: a desk and an engine in one thread.

One `turn` drains the socket fully, asks the dispatcher once and does what it says, computing included, so that all that
arrived while a batch ran is decided together. Knows no process, signal or real socket: port, engine, hand and clock are
passed in; the worker's main waits until `wake_at` and calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import cast

from paceline.protocol.clock import Clock
from paceline.protocol.pool import Observation
from paceline.protocol.signature import MethodSpec
from paceline.runner.desk import CAP_S, Desk, Port, learned
from paceline.runner.dispatcher import BatchDone, CapChanged, Dispatch, Dispatcher, Event, WorkerJoined
from paceline.runner.execution import Engine, Execution, Hand, Order, Ran
from paceline.runner.inbox import RequestKey
from paceline.runner.intake import IntakeLimits

WORKER_ID = 0


@dataclass(frozen=True, slots=True)
class _Over:
    """A batch that ran and that the dispatcher has not been told of."""

    batch: Dispatch
    ran: Ran


class Host:
    """One runner's dispatch host and its one worker. See the module; the loop around it:

    while not host.finished:
        wait until a message comes or host.wake_at()
        host.turn()
    """

    def __init__(
        self,
        port: Port,
        dispatcher: Dispatcher,
        engine: Engine,
        hand: Hand,
        methods: Iterable[MethodSpec],
        clock: Clock,
        bounds: IntakeLimits | None = None,
        profile: str = "",
    ) -> None:
        self.finished = False
        self.desk = Desk(port, dispatcher, methods, clock, bounds)
        self._port = port
        self._dispatcher = dispatcher
        self._execution = Execution(engine, hand, clock)
        self._clock = clock
        self._profile = profile
        self._over: list[_Over] = []
        self._decided_at = clock.now()
        dispatcher.handle(WorkerJoined(WORKER_ID, profile), self._decided_at)

    @property
    def draining(self) -> bool:
        return self.desk.draining

    def learn(self, ladder: Iterable[Observation]) -> None:
        """Before serving: what batches took in the warm-up."""
        self._dispatcher.handle_all(learned(ladder, self._profile), self._clock.now())

    def turn(self) -> None:
        """Take in all that came, decide once, do it. Raises DeviceBroken: the process must end, unanswered."""
        desk = self.desk
        events = desk.take_in()
        now = self._clock.now()
        self._report(now, events)
        batches = desk.decide(events, now)
        desk.tell(now)
        if batches:
            self._decided_at = now
        for batch in batches:
            self._run(batch)
        self.finished = not self._over and desk.is_drained(now)

    def wake_at(self) -> float:
        """When to call `turn` even if nothing comes (seconds): -inf = at once, inf = never."""
        return -inf if self._over else self.desk.wake_at()

    def drain(self, grace_s: float) -> None:
        """Refuse what is sent from now on. `finished` once the rest is answered, `grace_s` from now at the latest."""
        self.desk.drain(grace_s)

    def _report(self, now: float, events: list[Event]) -> None:
        """What ran since the last decision, as events. A batch takes from its decision to the next one: that is what
        the next one waits for, decoding and answering included."""
        for over in self._over:
            batch, ran = over.batch, over.ran
            events.append(BatchDone(WORKER_ID, batch.batch_id, now - self._decided_at, ran.learn))
            if ran.cap_rows is not None:
                events.append(CapChanged(batch.key, ran.cap_rows, now + CAP_S))
        self._over.clear()

    def _run(self, batch: Dispatch) -> None:
        """Run one batch and send its answers."""
        inbox, outbox, execution = self.desk.inbox, self.desk.outbox, self._execution
        members = inbox.start(cast("tuple[RequestKey, ...]", batch.request_ids))
        order = Order(batch.batch_id, members, batch.rows)
        if members[0].item.suspect:
            # It may kill this process, and answers still inside it would be lost, their starts used up.
            self._port.settle()
        ran = execution.run(order, execution.begin(order), outbox)
        for held in members:
            inbox.remove(held.key)
        outbox.flush(self._clock.now())
        execution.end(order)
        self._over.append(_Over(batch, ran))
