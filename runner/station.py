"""A worker of a pool: joins the broker of its runner, runs the batches that it is sent, answers them.

It has no queue but what it was sent, at most one batch ahead. It lives on when its broker dies: drops what that one had
sent and joins the next. Knows no process, signal or real socket: these, engine, hand and clock are passed in; the
worker's main waits until `wake_at` and calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeVar

from paceline.protocol import pool
from paceline.protocol.clock import Clock
from paceline.protocol.control import Host, State, Topology
from paceline.protocol.errors import ProtocolError, StartError
from paceline.protocol.pool import Addressed, Join, Leave, Refused, Released, Work
from paceline.protocol.tensor import Buffer
from paceline.runner.execution import Engine, Execution, Hand, Order
from paceline.runner.inbox import Held
from paceline.runner.outbox import Outbox
from paceline.runner.parcels import done_messages


class Pipe(Protocol):
    """The connection to one broker, as channel.ClientSocket."""

    def drain(self) -> Iterable[list[Buffer]]: ...

    def send(self, parts: Sequence[Buffer]) -> bool: ...

    def close(self) -> None: ...


P = TypeVar("P", bound=Pipe)


@dataclass(slots=True, eq=False)
class _Broker(Generic[P]):
    """The broker that this worker joined. `released`: no work follows."""

    host: Host
    pipe: P
    released: bool = False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A batch to run, and when it was there (seconds)."""

    order: Order
    since: float


class Station(Generic[P]):
    """`connect(address)` opens the pipe to a broker, `exists(address)` says whether its socket is still there. `join`
    is what every broker is told first. The loop around it is that of a Host, with `pipe` in place of its sockets."""

    def __init__(
        self,
        connect: Callable[[str], P],
        exists: Callable[[str], bool],
        join: Join,
        engine: Engine,
        hand: Hand,
        clock: Clock,
    ) -> None:
        self.draining = False
        self.finished = False
        self._connect = connect
        self._exists = exists
        self._join = join
        self._execution = Execution(engine, hand, clock)
        self._clock = clock
        self._broker: _Broker[P] | None = None
        self._parts: list[Held] = []
        self._orders: deque[_Waiting] = deque()
        self._ended_at = -inf
        self._drain_until = inf
        self._answers: list[Addressed] = []
        self._outbox = Outbox(self._keep)

    @property
    def pipe(self) -> P | None:
        """What to wait for; None as long as there is no broker."""
        return None if self._broker is None else self._broker.pipe

    def turn(self) -> None:
        """Take in what was sent, run one batch of it. Raises DeviceBroken: the process must end, unanswered;
        StartError: the broker refused this worker."""
        since = self._clock.now()  # reading a batch is part of what it costs
        self._receive(since)
        if self._orders:
            self._run(self._orders.popleft())
        self.finished = self.draining and self._has_left()

    def wake_at(self) -> float:
        """When to call `turn` even if nothing comes (seconds): -inf = at once, inf = never."""
        if self._orders or (self.draining and self._has_left()):
            return -inf
        return self._drain_until

    def look(self, picture: Topology) -> None:
        """What the supervisor says of the pool. A broker that is not in it any more is dead."""
        brokers = [host for host in picture.hosts if host.address]
        joined = self._broker
        if joined is not None and all(host.incarnation != joined.host.incarnation for host in brokers):
            self._drop()
        for host in brokers:
            if self._broker is None and host.state == State.READY and not self.draining:
                self._broker = _Broker(host, self._connect(host.address))
                self._broker.pipe.send(pool.encode(self._join))

    def drain(self, grace_s: float) -> None:
        """Ask for no more work. `finished` once what it has is done, `grace_s` from now at the latest."""
        self._drain_until = min(self._drain_until, self._clock.now() + grace_s)
        if not self.draining and self._broker is not None:
            self._broker.pipe.send(pool.encode(Leave()))
        self.draining = True

    def _has_left(self) -> bool:
        if self._clock.now() >= self._drain_until:
            return True
        return not self._orders and (self._broker is None or self._broker.released)

    def _receive(self, since: float) -> None:
        broker = self._broker
        if broker is None:
            return
        for parts in broker.pipe.drain():
            try:
                message = pool.decode(parts)
            except ProtocolError as error:
                # A batch is lost with it, and nobody knows which: the broker must have it back.
                raise StartError(f"the broker sent what cannot be read: {error}") from error
            if isinstance(message, Work):
                self._take(message, since)
            elif isinstance(message, Released):
                broker.released = True
            elif isinstance(message, Refused):
                raise StartError(f"the broker refused this worker: {message.reason}")

    def _take(self, work: Work, since: float) -> None:
        self._parts += [Held((infer.origin, item.counter), item, 0) for infer in work.requests for item in infer.items]
        if work.final and self._parts:
            self._orders.append(_Waiting(Order(work.batch_id, self._parts, work.rows), since))
            self._parts = []

    def _run(self, waiting: _Waiting) -> None:
        order, execution, broker = waiting.order, self._execution, self._broker
        assert broker is not None, "orders are dropped with their broker"
        began_ns = execution.begin(order)
        # In this order: who buries a broker removes its socket first, and reads after that who had begun what.
        if not self._exists(broker.host.address):
            execution.drop()
            self._drop()
            return
        ran = execution.run(order, began_ns, self._outbox)
        self._outbox.flush(self._clock.now())
        answers, self._answers = self._answers, []
        began, self._ended_at = max(waiting.since, self._ended_at), self._clock.now()
        for message in done_messages(order.batch_id, answers, self._ended_at - began, ran):
            broker.pipe.send(message)
        execution.end(order)

    def _keep(self, origin: bytes, message: Sequence[Buffer]) -> bool:
        self._answers.append(Addressed(origin, tuple(message)))
        return True

    def _drop(self) -> None:
        """The broker is dead: what it had sent and was not begun is being sent again by others."""
        if self._broker is not None:
            self._broker.pipe.close()
        self._broker = None
        self._orders.clear()
        self._parts = []
