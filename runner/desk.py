"""Where requests come in and answers go out: the data socket, what is held, the one Dispatcher, refusals, forecasts.

What a worker with its own queue and a broker have in common. It has no policy: when, which and how many is the
dispatcher's; it knows neither models nor workers. Port and clock are passed in. Called by the host and the broker:

    events = desk.take_in()        all that came, as events
    ...                            what else happened, appended
    batches = desk.decide(events)  asked once
    desk.tell()                    refusals and forecasts leave
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Protocol, cast

from paceline.protocol.clock import Clock
from paceline.protocol.errors import DeadlineExceeded, InfeasibleNow, QueueFull, RequestError, WorkerLost
from paceline.protocol.pool import Observation
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Buffer
from paceline.runner.bulletin import Bulletin
from paceline.runner.dispatcher import Dispatch, Dispatcher, Event, Measured, Reject, RejectReason, WakeAt
from paceline.runner.inbox import RequestKey
from paceline.runner.intake import Intake, IntakeLimits
from paceline.runner.outbox import Outbox

CAP_S = 300.0  # a batch size that memory did not hold is not tried again for so long
RETRY_AFTER_S = 1.0  # what a refusal names where the dispatcher has no advice, as with an empty queue
_LEARN_ROUNDS = 3  # the dispatcher does not learn from the first two batches of a size


class Port(Protocol):
    """The data socket, as channel.ServerSocket. Neither call blocks."""

    def drain(self) -> Iterable[tuple[bytes, list[Buffer]]]: ...

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool: ...

    def settle(self) -> None:
        """Wait a moment for what was sent to leave this process."""
        ...


class Desk:
    """See the module. `draining`: what comes from now on is refused."""

    def __init__(
        self,
        port: Port,
        dispatcher: Dispatcher,
        methods: Iterable[MethodSpec],
        clock: Clock,
        bounds: IntakeLimits | None = None,
    ) -> None:
        self.draining = False
        self.outbox = Outbox(port.send)
        self.intake = Intake(methods, self.outbox, bounds)
        self.inbox = self.intake.inbox
        self._port = port
        self._dispatcher = dispatcher
        self._clock = clock
        self._bulletin = Bulletin(port.send)
        self._wake_at = inf
        self._drain_until = inf

    def take_in(self) -> list[Event]:
        """Everything that peers sent, as events."""
        events: list[Event] = []
        for peer, parts in self._port.drain():
            self.intake.receive(peer, parts, events, self._clock.now_ns())
        # Only now: what was in the pipe when the drain began had been accepted.
        self.intake.draining = self.draining
        return events

    def decide(self, events: list[Event], now: float) -> list[Dispatch]:
        """Ask the dispatcher; gather answers to what it rejects, return what it orders."""
        self.intake.drop_overdue(self._clock.now_ns(), events)
        if now >= self._drain_until:
            self.intake.drop_queued(events)
        return self._ask(events, now) if events or now >= self._wake_at else []

    def tell(self, now: float) -> None:
        """Send what peers are to know. Before something that takes long, after what somebody waits for."""
        self.outbox.flush(now)
        self._bulletin.publish(self._dispatcher.forecast, self.intake.origins, now)

    def wake_at(self) -> float:
        """When to come again even if nothing does (seconds): -inf = at once, inf = never."""
        if self.draining is not self.intake.draining:
            return -inf
        return min(
            self._wake_at,
            self.inbox.next_overdue_s(),
            self.outbox.retry_at(),
            self._bulletin.wanted_at,
            self._drain_until,
        )

    def drain(self, grace_s: float) -> None:
        """Refuse what is sent from now on, and `grace_s` from now what still waits."""
        self.draining = True
        self._drain_until = min(self._drain_until, self._clock.now() + grace_s)

    def is_drained(self, now: float) -> bool:
        """Whether everything that was ever taken is answered, or the grace is over."""
        if not self.intake.draining or self.inbox:
            return False
        return not self.outbox or now >= self._drain_until

    def _ask(self, events: list[Event], now: float) -> list[Dispatch]:
        if now >= self._wake_at:
            self._wake_at = inf
        batches: list[Dispatch] = []
        for action in self._dispatcher.handle_all(events, now):
            if isinstance(action, Dispatch):
                batches.append(action)
            elif isinstance(action, Reject):
                # Cancelled, overdue or dropped in this very turn, it has its answer already.
                held = self.inbox.remove_queued(cast("RequestKey", action.request_id))
                if held is not None:
                    self.outbox.fail(held, _rejection(action))
            elif isinstance(action, WakeAt):
                self._wake_at = action.time
        self._bulletin.want()
        return batches


def learned(ladder: Iterable[Observation], profile: str) -> list[Event]:
    """What the warm-up of a worker of `profile` measured, as events that the dispatcher learns from."""
    return [
        Measured(profile, (seen.method, seen.key), seen.rows, seen.seconds)
        for seen in ladder
        for _ in range(_LEARN_ROUNDS)
    ]


def _rejection(action: Reject) -> RequestError:
    """The error that answers what the dispatcher rejected."""
    retry_after_s = RETRY_AFTER_S if action.retry_after_s is None else action.retry_after_s
    match action.reason:
        case RejectReason.DEADLINE:
            return DeadlineExceeded("the deadline passed before the request's turn")
        case RejectReason.INFEASIBLE:
            return InfeasibleNow(
                "the request cannot be done by its deadline under the present load; retry later or allow more time",
                retry_after_s=retry_after_s,
            )
        case RejectReason.QUEUE_FULL:
            return QueueFull("the runner's queue is full; retry later", retry_after_s=retry_after_s)
        case RejectReason.WORKER_LOST:
            return WorkerLost(
                "the request was started as often as allowed, and its worker was lost",
                retry_after_s=retry_after_s,
            )
