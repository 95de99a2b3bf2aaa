"""A host on fakes: a port of lists, an engine that doubles on a virtual clock, a hand that remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from paceline.protocol import messages
from paceline.protocol.clock import VirtualClock
from paceline.protocol.errors import ModelRejectedInput
from paceline.protocol.measure import measure
from paceline.protocol.messages import Answers, Cancel, Failure, Forecast, Infer, InferItem, Result, pack_call
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Buffer, Tensor, from_numpy
from paceline.runner.calls import BatchRun, Call, Outcome
from paceline.runner.dispatcher import Dispatcher, DispatcherConfig
from paceline.runner.host import Host
from paceline.runner.intake import IntakeLimits

ALICE, BOB = b"\x01" + b"a" * 15, b"\x01" + b"b" * 15
METHODS = (MethodSpec("__call__", batchable=True), MethodSpec("single"), MethodSpec("once", idempotent=False))


class FakePort:
    """What peers sent waits in `inbound`; what the host sent is in `sent`. Peers in `deaf` refuse everything."""

    def __init__(self) -> None:
        self.inbound: list[tuple[bytes, list[Buffer]]] = []
        self.sent: list[tuple[bytes, list[Buffer]]] = []
        self.deaf: set[bytes] = set()
        self.settled_after: list[int] = []
        self.while_sending: Callable[[], None] = lambda: None

    def drain(self) -> Iterator[tuple[bytes, list[Buffer]]]:
        inbound, self.inbound = self.inbound, []
        yield from inbound

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool:
        if peer in self.deaf:
            return False
        self.while_sending()
        self.sent.append((peer, list(parts)))
        return True

    def settle(self) -> None:
        self.settled_after.append(len(self.sent))

    def answers(self) -> list[Answers]:
        return [message for message in self._decoded() if isinstance(message, Answers)]

    def forecasts(self, peer: bytes) -> list[Forecast]:
        return [
            message
            for (to, _), message in zip(self.sent, self._decoded(), strict=True)
            if to == peer and isinstance(message, Forecast)
        ]

    def _decoded(self) -> list[messages.Message]:
        return [messages.decode(parts) for _, parts in self.sent]


class FakeEngine:
    """Doubles the first argument. A negative number in it is refused; `raises` ends the run instead."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.batches: list[list[str]] = []
        self.seconds: Callable[[int], float] = lambda rows: 0.01
        self.while_running: Callable[[], None] = lambda: None
        self.raises: Exception | None = None
        self.cap_rows: int | None = None

    def run(self, method_name: str, calls: Sequence[Call], now: Callable[[], float], batch_id: str = "") -> BatchRun:
        self.batches.append([call.request_id for call in calls])
        self.clock.advance(self.seconds(sum(call.rows for call in calls)))
        self.while_running()
        if self.raises is not None:
            raise self.raises
        outcomes = [_doubled(call) for call in calls]
        failed = any(isinstance(outcome, ModelRejectedInput) for outcome in outcomes)
        return BatchRun(outcomes, not failed, self.cap_rows)


class FakeHand:
    """The slot: what is in hand, what was begun, the counters."""

    def __init__(self) -> None:
        self.held: list[tuple[bytes, int]] = []
        self.counters = (0, 0, 0)

    def begin(self, batch_id: int, ids: list[tuple[bytes, int]], now_ns: int) -> None:
        self.held = ids

    def end(self) -> None:
        self.held = []

    def count(self, requests: int, batches: int, rows: int) -> None:
        self.counters = (requests, batches, rows)


class Peers:
    """The API servers' side of the conversation with a desk, on a virtual clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.port = FakePort()

    def item(
        self,
        counter: int,
        value: object = 1.0,
        *,
        method: str = "__call__",
        rows: int = 1,
        deadline_s: float = 10.0,
        starts: int = 0,
        attempt: int = 0,
    ) -> InferItem:
        args = (from_numpy(np.full((rows, 2), value, np.float32)),)
        known = next((spec for spec in METHODS if spec.name == method), MethodSpec(method))
        packed, frames = pack_call(args, {})
        now_ns = self.clock.now_ns()
        return InferItem(
            counter=counter,
            attempt=attempt,
            starts=starts,
            suspect=starts > 0,
            arrival_ns=now_ns,
            deadline_ns=now_ns + round(deadline_s * 1e9),
            priority=0,
            rows=rows,
            length=0,
            method=method,
            key=measure(known, args, {}).key,
            request_id=f"r{counter}",
            traceparent="",
            packed=packed,
            frames=frames,
        )

    def send(self, *items: InferItem, origin: bytes = ALICE) -> None:
        self.port.inbound.append((origin, messages.encode(Infer(origin, items))))

    def cancel(self, *counters: int, origin: bytes = ALICE) -> None:
        self.port.inbound.append((origin, messages.encode(Cancel(origin, counters))))

    def results(self, origin: bytes = ALICE) -> dict[int, float]:
        """Counter -> first number of each result that `origin` got."""
        got: dict[int, float] = {}
        for answers in self.port.answers():
            for result in answers.results if answers.origin == origin else ():
                assert result.counter not in got, f"{result.counter} was answered twice"
                got[result.counter] = _number(result)
        return got

    def failures(self, origin: bytes = ALICE) -> dict[int, Failure]:
        """Counter -> failure of each that `origin` got."""
        got: dict[int, Failure] = {}
        for answers in self.port.answers():
            for failure in answers.failures if answers.origin == origin else ():
                assert failure.counter not in got, f"{failure.counter} was answered twice"
                got[failure.counter] = failure
        return got


class Bench(Peers):
    """A host with its fakes."""

    def __init__(self, max_batch_size: int = 8, bounds: IntakeLimits | None = None, **options: object) -> None:
        super().__init__()
        self.engine = FakeEngine(self.clock)
        self.hand = FakeHand()
        dispatcher = dispatcher_of(max_batch_size, **options)
        self.host = Host(self.port, dispatcher, self.engine, self.hand, METHODS, self.clock, bounds)

    def settle(self) -> None:
        """Turn until nothing is to be done at once; `engine.batches` tells what ran."""
        self.host.turn()
        while not self.host.finished and self.host.wake_at() <= self.clock.now():
            self.host.turn()


def dispatcher_of(max_batch_size: int, **options: object) -> Dispatcher:
    """A dispatcher that knows that every batch takes 10 ms, unless `options` say otherwise."""
    table = dict.fromkeys((1, max_batch_size), 0.01)
    return Dispatcher(DispatcherConfig(max_batch_size, **{"latency_table": table, **options}))  # type: ignore[arg-type]


def _doubled(call: Call) -> Outcome:
    tensor = call.args[0]
    assert isinstance(tensor, Tensor)
    array = tensor.numpy()
    return ModelRejectedInput("negative") if (array < 0).any() else from_numpy(array * 2)


def _number(result: Result) -> float:
    tree = result.tree()
    assert isinstance(tree, Tensor)
    return float(tree.numpy().flat[0])
