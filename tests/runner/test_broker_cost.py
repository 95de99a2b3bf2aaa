"""A broker costs a request little. `python -m tests.runner.test_broker_cost` prints the CPU time of one under load."""

from __future__ import annotations

import gc
from time import process_time

from paceline.protocol import messages, pool
from paceline.protocol.messages import Infer
from paceline.protocol.pool import Work
from paceline.protocol.tensor import Buffer
from tests.runner.dispatcher.test_decision_cost import Work as Effort
from tests.runner.host_fakes import ALICE
from tests.runner.pool_fakes import PoolBench

TICK = 64  # requests of one message, and of one batch
WORKERS = [b"\x01" + bytes([number]) * 15 for number in range(4)]
CALLS_MAX = 75  # functions called for a request, a third more than measured


class Flow:
    """Messages of API servers and workers at the broker's two sockets, one full batch a step."""

    def __init__(self) -> None:
        self.bench = PoolBench(max_batch_size=TICK)
        self.bench.join(*WORKERS)
        self._counter = 0
        self._running: list[tuple[bytes, Work]] = []

    def fill(self) -> None:
        """The next Infer, and the answer of the batch before."""
        items = []
        for _ in range(TICK):
            self._counter += 1
            items.append(self.bench.item(self._counter))
        parts: list[Buffer] = [bytes(part) for part in messages.encode(Infer(ALICE, tuple(items)))]
        self.bench.port.inbound.append((ALICE, parts))
        for worker, work in self._running:
            self.bench.finish(worker, work)

    def empty(self) -> None:
        """Take what the broker sent."""
        sent = self.bench.workers.sent
        works = [(worker, pool.decode([bytes(part) for part in parts])) for worker, parts in sent]
        self._running = [(worker, work) for worker, work in works if isinstance(work, Work)]
        sent.clear()
        self.bench.port.sent.clear()


def cost_us(rounds: int = 500) -> float:
    """CPU microseconds of a request: read, decided, written, its answer passed on."""
    flow = Flow()
    spent_s = 0.0
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        flow.fill()
        flow.bench.clock.advance(0.02)
        began = process_time()
        flow.bench.exchange.turn()
        spent_s += process_time() - began
        flow.empty()
    return spent_s / rounds / TICK * 1e6


def test_a_request_costs_few_function_calls() -> None:
    flow = Flow()
    for _ in range(5):
        flow.fill()
        flow.bench.exchange.turn()
        flow.empty()
    flow.fill()
    with Effort() as effort:
        flow.bench.exchange.turn()
    assert flow.bench.exchange.pool.served.requests == 5 * TICK
    assert effort.calls / TICK < CALLS_MAX


if __name__ == "__main__":
    print(f"{cost_us():.1f} us of CPU a request")  # noqa: T201  # what it is run for
