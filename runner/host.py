"""The shell that drives one Dispatcher: messages become events, actions become batches run and answers sent.

It has no policy: when, which and how many is the dispatcher's. One `turn` drains the socket fully, asks once and does
what it is told, computing included, so that all that arrived while a batch ran is decided together. Knows no process,
signal or real socket: port, engine, hand and clock are passed in; the worker's main waits until `wake_at` and calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, cast

from paceline.protocol import limits
from paceline.protocol.clock import Clock
from paceline.protocol.errors import (
    DeadlineExceeded,
    InfeasibleNow,
    Internal,
    InvalidInput,
    ModelError,
    ProtocolError,
    QueueFull,
    RequestError,
    WorkerLost,
)
from paceline.protocol.messages import Result, pack_result
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Buffer
from paceline.runner.bulletin import Bulletin
from paceline.runner.calls import BatchRun, Call, DeviceBroken
from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    CapChanged,
    Dispatch,
    Dispatcher,
    Event,
    Reject,
    RejectReason,
    WakeAt,
    WorkerJoined,
)
from paceline.runner.inbox import Held, RequestKey
from paceline.runner.intake import Intake, IntakeLimits
from paceline.runner.outbox import Outbox
from paceline.runner.warm_up import Observation

logger = logging.getLogger(__name__)

WORKER_ID = 0
CAP_S = 300.0  # a batch size that memory did not hold is not tried again for so long
_LEARN_ROUNDS = 3  # the dispatcher does not learn from the first two batches of a size


class Port(Protocol):
    """The data socket, as channel.ServerSocket. Neither call blocks."""

    def drain(self) -> Iterable[tuple[bytes, list[Buffer]]]: ...

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool: ...

    def settle(self) -> None:
        """Wait a moment for what was sent to leave this process."""
        ...


class Engine(Protocol):
    """What runs a batch: the executor."""

    def run(
        self, method_name: str, calls: Sequence[Call], now: Callable[[], float], batch_id: str = ""
    ) -> BatchRun: ...


class Hand(Protocol):
    """Where it is written down what is in hand: the slot."""

    def begin(self, batch_id: int, ids: list[tuple[bytes, int]], now_ns: int) -> None: ...

    def end(self) -> None: ...

    def count(self, requests: int, batches: int, rows: int) -> None: ...


@dataclass(frozen=True, slots=True)
class _Ran:
    """What the dispatcher will want to know of a batch; its results are gone by then, and their memory is free."""

    batch: Dispatch
    learn: bool
    cap_rows: int | None


@dataclass(slots=True)
class _Served:
    """Totals since the start."""

    requests: int = 0
    batches: int = 0
    rows: int = 0


class Host:
    """One runner's dispatch host and its one worker, in one thread. See the module; the loop around it:

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
        self.draining = False
        self.finished = False
        self.outbox = Outbox(port.send)
        self.intake = Intake(methods, self.outbox, bounds)
        self._port = port
        self._dispatcher = dispatcher
        self._engine = engine
        self._hand = hand
        self._clock = clock
        self._bulletin = Bulletin(port.send)
        self._served = _Served()
        self._wake_at = inf
        self._drain_until = inf
        self._ran: list[_Ran] = []
        self._decided_at = clock.now()
        dispatcher.handle(WorkerJoined(WORKER_ID, profile), self._decided_at)

    def learn(self, seen: Observation) -> None:
        """Before serving: show the dispatcher a batch of the warm-up as if it had ordered it."""
        now = self._clock.now()
        deadline = now + limits.LATENCY_BUDGET_MS / 1000
        arrived = Arrived(b"warm-up", (seen.method, seen.key), seen.rows, deadline)
        for _ in range(_LEARN_ROUNDS):
            for action in self._dispatcher.handle(arrived, now):
                if isinstance(action, Dispatch):
                    self._dispatcher.handle(BatchDone(WORKER_ID, action.batch_id, seen.seconds), now)

    def turn(self) -> None:
        """Take in all that came, decide once, do it. Raises DeviceBroken: the process must end, unanswered."""
        events: list[Event] = []
        for peer, parts in self._port.drain():
            self.intake.receive(peer, parts, events, self._clock.now_ns())
        # Only now: what was in the pipe when the drain began had been accepted.
        self.intake.draining = self.draining
        now = self._clock.now()
        self._report_ran(now, events)
        self.intake.drop_overdue(self._clock.now_ns(), events)
        if now >= self._drain_until:
            self.intake.drop_queued(events)
        batches = self._decide(events, now) if events or now >= self._wake_at else []
        self.outbox.flush(now)
        self._bulletin.publish(self._dispatcher.forecast, self.intake.origins, now)
        for batch in batches:
            self._run(batch)
        self.finished = self.intake.draining and self._is_drained(now)

    def wake_at(self) -> float:
        """When to call `turn` even if nothing comes (seconds): -inf = at once, inf = never."""
        if self._ran or self.draining is not self.intake.draining:
            return -inf
        return min(
            self._wake_at,
            self.intake.inbox.next_overdue_s(),
            self.outbox.retry_at(),
            self._bulletin.wanted_at,
            self._drain_until,
        )

    def drain(self, grace_s: float) -> None:
        """Refuse what is sent from now on. `finished` once the rest is answered, `grace_s` from now at the latest."""
        self.draining = True
        self._drain_until = min(self._drain_until, self._clock.now() + grace_s)

    def _is_drained(self, now: float) -> bool:
        if self._ran or self.intake.inbox:
            return False
        return not self.outbox or now >= self._drain_until

    def _decide(self, events: list[Event], now: float) -> list[Dispatch]:
        """Ask the dispatcher; answer what it rejects, return what it orders."""
        if now >= self._wake_at:
            self._wake_at = inf
        batches: list[Dispatch] = []
        self._decided_at = now
        for action in self._dispatcher.handle_all(events, now):
            if isinstance(action, Dispatch):
                batches.append(action)
            elif isinstance(action, Reject):
                # Cancelled, overdue or dropped in this very turn, it has its answer already.
                held = self.intake.inbox.remove_queued(cast("RequestKey", action.request_id))
                if held is not None:
                    self.outbox.fail(held, _rejection(action))
            elif isinstance(action, WakeAt):
                self._wake_at = action.time
        self._bulletin.want()
        return batches

    def _report_ran(self, now: float, events: list[Event]) -> None:
        """What ran since the last decision, as events. A batch takes from its decision to the next one: that is what
        the next one waits for, decoding and answering included."""
        for ran in self._ran:
            events.append(BatchDone(WORKER_ID, ran.batch.batch_id, now - self._decided_at, ran.learn))
            if ran.cap_rows is not None:
                events.append(CapChanged(ran.batch.key, ran.cap_rows, now + CAP_S))
        self._ran.clear()

    def _run(self, batch: Dispatch) -> None:
        """Run one batch and send its answers."""
        keys = cast("tuple[RequestKey, ...]", batch.request_ids)
        members = self.intake.inbox.start(keys)
        if members[0].item.suspect:
            # It may kill this process, and answers still inside it would be lost, their starts used up.
            self._port.settle()
        began_ns = self._clock.now_ns()
        self._hand.begin(batch.batch_id, list(keys), began_ns)
        run = self._call(batch, members)
        self._answer(batch, members, run, began_ns)
        self.outbox.flush(self._clock.now())
        # Not before its answers left: who is killed in between had them in hand. That they were started stays known.
        self._hand.end()
        self._ran.append(_Ran(batch, run.learn, run.cap_rows))
        served = self._served
        served.requests += len(members)
        served.batches += 1
        served.rows += batch.rows
        self._hand.count(served.requests, served.batches, served.rows)

    def _call(self, batch: Dispatch, members: list[Held]) -> BatchRun:
        """The outcomes of `members`, in order. Arguments that are no arguments fail alone, before the model runs."""
        calls: list[Call] = []
        bad: dict[int, RequestError] = {}
        for index, held in enumerate(members):
            item = held.item
            try:
                args, kwargs = item.call()
            except ProtocolError as error:
                bad[index] = InvalidInput(f"the arguments are malformed: {error}")
                continue
            calls.append(Call(args, kwargs, item.rows, item.deadline_ns / 1e9, item.request_id))
        run = self._run_calls(members[0].item.method, calls, str(batch.batch_id)) if calls else BatchRun([], False)
        if not bad:
            return run
        outcomes = iter(run.outcomes)
        return BatchRun([bad.get(index) or next(outcomes) for index in range(len(members))], False, run.cap_rows)

    def _run_calls(self, method: str, calls: list[Call], batch_id: str) -> BatchRun:
        try:
            return self._engine.run(method, calls, self._clock.now, batch_id)
        except DeviceBroken:
            raise
        except Exception:
            # The engine answers for user code; what comes through is a bug of ours, and no reason to lose the process.
            logger.exception("batch failed inside the worker", extra={"batch_id": batch_id, "method": method})
            return BatchRun([Internal("the worker failed on this batch; its log says how") for _ in calls], False)

    def _answer(self, batch: Dispatch, members: list[Held], run: BatchRun, began_ns: int) -> None:
        run_us = (self._clock.now_ns() - began_ns) // 1000
        inbox, outbox, rows = self.intake.inbox, self.outbox, batch.rows
        for held, outcome in zip(members, run.outcomes, strict=True):
            inbox.remove(held.key)
            if isinstance(outcome, RequestError):
                outbox.fail(held, outcome)
                continue
            try:
                packed, frames = pack_result(outcome)
            except ModelError as error:
                outbox.fail(held, error)
                continue
            item = held.item
            queue_us = (began_ns - item.arrival_ns) // 1000
            outbox.result(held.key[0], Result(item.counter, item.attempt, rows, queue_us, run_us, packed, frames))


def _rejection(action: Reject) -> RequestError:
    """The error that answers what the dispatcher rejected."""
    match action.reason:
        case RejectReason.DEADLINE:
            return DeadlineExceeded("the deadline passed before the request's turn")
        case RejectReason.INFEASIBLE:
            return InfeasibleNow(
                "the request cannot be done by its deadline under the present load; retry later or allow more time",
                retry_after_s=action.retry_after_s,
            )
        case RejectReason.QUEUE_FULL:
            return QueueFull("the runner's queue is full; retry later", retry_after_s=action.retry_after_s)
        case RejectReason.WORKER_LOST:
            return WorkerLost(
                "the request was started as often as allowed, and its worker was lost",
                retry_after_s=action.retry_after_s,
            )
