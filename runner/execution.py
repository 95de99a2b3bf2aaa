"""One batch's way through the engine: arguments opened, the method called, every outcome put into the outbox.

What a worker does with a batch, whether its own dispatcher ordered it or a broker sent it. Before and after, it is
written down what is in hand. Knows no queue, socket or torch: engine, hand and clock are passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.protocol.clock import Clock
from paceline.protocol.errors import Internal, InvalidInput, ModelError, ProtocolError, RequestError
from paceline.protocol.messages import Result, pack_result
from paceline.runner.calls import BatchRun, Call, DeviceBroken
from paceline.runner.inbox import Held
from paceline.runner.outbox import Outbox

logger = logging.getLogger(__name__)


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
class Order:
    """A batch of `rows` rows to run."""

    batch_id: int
    members: Sequence[Held]
    rows: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What the dispatcher will want to know of a batch; its results are gone by then, and their memory is free."""

    learn: bool
    cap_rows: int | None


@dataclass(slots=True)
class _Served:
    """Totals since the start."""

    requests: int = 0
    batches: int = 0
    rows: int = 0


class Execution:
    """`begin`, `run`, send the answers, `end`: in this order for each batch."""

    def __init__(self, engine: Engine, hand: Hand, clock: Clock) -> None:
        self._engine = engine
        self._hand = hand
        self._clock = clock
        self._served = _Served()

    def begin(self, order: Order) -> int:
        """Write down that the batch is in hand. When it began (ns)."""
        began_ns = self._clock.now_ns()
        self._hand.begin(order.batch_id, [held.key for held in order.members], began_ns)
        return began_ns

    def run(self, order: Order, began_ns: int, outbox: Outbox) -> Ran:
        """Run it; every outcome is in `outbox` then. Raises DeviceBroken: the process must end, unanswered."""
        run = self._call(order)
        self._answer(order, run, began_ns, outbox)
        return Ran(run.learn, run.cap_rows)

    def end(self, order: Order) -> None:
        """Not before the answers left: who is killed in between had them in hand. That they started stays known."""
        self._hand.end()
        served = self._served
        served.requests += len(order.members)
        served.batches += 1
        served.rows += order.rows
        self._hand.count(served.requests, served.batches, served.rows)

    def drop(self) -> None:
        """What had begun does not run after all."""
        self._hand.end()

    def _call(self, order: Order) -> BatchRun:
        """The outcomes of its members, in order. Arguments that are no arguments fail alone, before the model runs."""
        calls: list[Call] = []
        bad: dict[int, RequestError] = {}
        for index, held in enumerate(order.members):
            item = held.item
            try:
                args, kwargs = item.call()
            except ProtocolError as error:
                bad[index] = InvalidInput(f"the arguments are malformed: {error}")
                continue
            calls.append(Call(args, kwargs, item.rows, item.deadline_ns / 1e9, item.request_id))
        run = self._run_calls(order, calls) if calls else BatchRun([], False)
        if not bad:
            return run
        outcomes = iter(run.outcomes)
        return BatchRun([bad.get(index) or next(outcomes) for index in range(len(order.members))], False, run.cap_rows)

    def _run_calls(self, order: Order, calls: list[Call]) -> BatchRun:
        method, batch_id = order.members[0].item.method, str(order.batch_id)
        try:
            return self._engine.run(method, calls, self._clock.now, batch_id)
        except DeviceBroken:
            raise
        except Exception:
            # The engine answers for user code; what comes through is a bug of ours, and no reason to lose the process.
            logger.exception("batch failed inside the worker", extra={"batch_id": batch_id, "method": method})
            return BatchRun([Internal("the worker failed on this batch; its log says how") for _ in calls], False)

    def _answer(self, order: Order, run: BatchRun, began_ns: int, outbox: Outbox) -> None:
        run_us = (self._clock.now_ns() - began_ns) // 1000
        for held, outcome in zip(order.members, run.outcomes, strict=True):
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
            outbox.result(held.key[0], Result(item.counter, item.attempt, order.rows, queue_us, run_us, packed, frames))
