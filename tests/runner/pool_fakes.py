"""A broker's exchange on fakes: API servers and workers are lists of messages, the clock is virtual."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from paceline.protocol import messages, pool
from paceline.protocol.control import Host, LostHost, State, Topology
from paceline.protocol.messages import Answers, Infer, Result, pack_result
from paceline.protocol.pool import Addressed, Done, Join, Leave, Observation, PoolMessage, Work
from paceline.protocol.tensor import Tensor, from_numpy
from paceline.runner.desk import Desk
from paceline.runner.exchange import Exchange
from paceline.runner.execution import Ran
from paceline.runner.intake import IntakeLimits
from paceline.runner.parcels import done_messages
from tests.runner.host_fakes import METHODS, FakePort, Peers, dispatcher_of

RUNNER, DIGEST = "net", "ab" * 32
BROKER = b"\x01" + b"B" * 15
ANN, BEN = b"\x01" + b"1" * 15, b"\x01" + b"2" * 15  # workers


class PoolBench(Peers):
    """An exchange with its fakes, and the workers' and the supervisor's side of the conversation."""

    def __init__(self, max_batch_size: int = 8, bounds: IntakeLimits | None = None, **options: object) -> None:
        super().__init__()
        self.workers = FakePort()
        self.counted = (0, 0, 0)
        desk = Desk(self.port, dispatcher_of(max_batch_size, **options), METHODS, self.clock, bounds)
        self.exchange = Exchange(desk, self.workers, DIGEST, self.clock, self._count)
        self._version = 0

    def settle(self) -> None:
        """Turn until nothing is to be done at once."""
        self.exchange.turn()
        while not self.exchange.finished and self.exchange.wake_at() <= self.clock.now():
            self.exchange.turn()

    def say(self, worker: bytes, message: PoolMessage) -> None:
        self.workers.inbound.append((worker, pool.encode(message)))

    def join(self, *workers: bytes, digest: str = DIGEST, ladder: tuple[Observation, ...] = ()) -> None:
        for worker in workers:
            self.say(worker, Join("cpu", digest, ladder))
        self.settle()

    def leave(self, worker: bytes) -> None:
        self.say(worker, Leave())

    def told(self, worker: bytes) -> list[PoolMessage]:
        """All that the broker sent to this worker."""
        return [pool.decode(parts) for peer, parts in self.workers.sent if peer == worker]

    def works(self, worker: bytes) -> list[Work]:
        return [message for message in self.told(worker) if isinstance(message, Work)]

    def batches(self, worker: bytes) -> list[list[int]]:
        """The counters of each Work that this worker was sent."""
        return [[item.counter for infer in work.requests for item in infer.items] for work in self.works(worker)]

    def finish(self, worker: bytes, work: Work, cap_rows: int | None = None, duration_s: float = 0.01) -> None:
        """The worker answers the batch: twice the argument of each request."""
        answers = [Addressed(infer.origin, tuple(messages.encode(_doubled(infer)))) for infer in work.requests]
        for parts in done_messages(work.batch_id, answers, duration_s, Ran(True, cap_rows)):
            self.workers.inbound.append((worker, parts))

    def answer_part(self, worker: bytes, work: Work) -> None:
        """The worker answers all of the batch, but does not say that this was all."""
        answers = [Addressed(infer.origin, tuple(messages.encode(_doubled(infer)))) for infer in work.requests]
        self.say(worker, Done(work.batch_id, False, 0.0, True, None, tuple(answers)))

    def picture(
        self, alive: Iterable[bytes] = (), lost: Iterable[tuple[bytes, Iterable[int] | None]] = (), origin: bytes = b""
    ) -> None:
        """The supervisor shows the pool. `lost`: workers, each with the counters of ALICE's requests that it had
        begun, None = not known."""
        self._version += 1
        hosts = (Host(RUNNER, BROKER, "ipc:///p", State.READY), *[Host(RUNNER, w, "", State.READY) for w in alive])
        losses = [
            LostHost(RUNNER, worker, "killed", begun is not None, True, tuple((origin, n) for n in begun or ()))
            for worker, begun in lost
        ]
        self.exchange.look(Topology(self._version, False, hosts, tuple(losses), ()))

    def _count(self, requests: int, batches: int, rows: int) -> None:
        self.counted = (requests, batches, rows)


def _doubled(infer: Infer) -> Answers:
    results = []
    for item in infer.items:
        (argument,), _ = item.call()
        assert isinstance(argument, Tensor)
        packed, frames = pack_result(from_numpy(np.asarray(argument.numpy() * 2)))
        results.append(Result(item.counter, item.attempt, len(infer.items), 0, 0, packed, frames))
    return Answers(infer.origin, tuple(results))
