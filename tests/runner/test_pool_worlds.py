"""Seeded random worlds of a broker: API servers send and cancel, workers join, die at any moment and leave, the clock
jumps. Every request is answered once, starts at most as often as it may, and a suspect is with its worker alone."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from paceline.protocol.messages import CANCELLED
from paceline.protocol.pool import Released, Work
from tests.runner.host_fakes import ALICE
from tests.runner.pool_fakes import PoolBench

WORLDS = 200
STEPS = 60
CAP = 4
METHODS = ("__call__", "__call__", "__call__", "single", "once")


class World:
    """One run. A worker is what it was sent and has not finished; the first of it may have begun."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.bench = PoolBench(max_batch_size=CAP, prefetch_s=self.random.choice((0.0, 0.001, 0.02)))
        self.held: dict[bytes, list[Work]] = {}
        self.begun: dict[bytes, int] = {}  # the worker's batch that runs
        self.ring: dict[bytes, list[int]] = {}  # all that its slot says had begun
        self.seen: Counter[bytes] = Counter()  # messages of the broker that the worker has read
        self.leaving: set[bytes] = set()
        self.dead: list[tuple[bytes, Work]] = []  # what dead workers had, and may still seem to answer
        self.lost: list[tuple[bytes, list[int] | None]] = []
        self.starts: Counter[int] = Counter()
        self.methods: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self._names = 0

    def run(self) -> None:
        steps = (
            self.send,
            self.send,
            self.work,
            self.work,
            self.work,
            self.wait,
            self.join,
            self.die,
            self.haunt,
            self.cancel,
        )
        self.join()
        for _ in range(STEPS):
            self.random.choice((*steps, self.leave) if self.random.random() < 0.3 else steps)()
            if self.random.random() < 0.8:
                self.turn()
        self.end()

    def send(self) -> None:
        items = []
        for _ in range(self.random.randint(1, 6)):
            number = len(self.methods)
            self.methods[number] = self.random.choice(METHODS)
            rows = self.random.choice((1, 1, 1, 2, 5)) if self.methods[number] == "__call__" else 1
            deadline_s = self.random.choice((1000.0, 1000.0, 0.05))
            items.append(
                self.bench.item(number, float(number), method=self.methods[number], rows=rows, deadline_s=deadline_s)
            )
        self.bench.send(*items)

    def cancel(self) -> None:
        if self.methods:
            self.cancelled.add(number := self.random.randrange(len(self.methods)))
            self.bench.cancel(number)

    def wait(self) -> None:
        self.bench.clock.advance(self.random.choice((0.0, 0.001, 0.009, 0.03)))

    def join(self) -> None:
        if len(self.held) < 3:
            self._names += 1
            worker = b"\x01" + self._names.to_bytes(15, "big")
            self.held[worker], self.ring[worker] = [], []
            self.bench.join(worker)
            self.show()

    def leave(self) -> None:
        if self.held:
            worker = self.random.choice(list(self.held))
            self.leaving.add(worker)
            self.bench.leave(worker)

    def work(self) -> None:
        """Some worker begins its next batch, or ends the one that it runs."""
        for worker in self.random.sample(list(self.held), len(self.held)):
            if worker in self.begun:
                del self.begun[worker]
                self.bench.finish(worker, self.held[worker].pop(0))
                return
            if self.held[worker]:
                self.begin(worker)
                return

    def begin(self, worker: bytes) -> None:
        batch = self.held[worker][0]
        self.begun[worker] = batch.batch_id
        counters = [item.counter for infer in batch.requests for item in infer.items]
        self.starts.update(counters)
        self.ring[worker] += counters

    def die(self) -> None:
        if not self.held or self.random.random() < 0.5:
            return
        worker = self.random.choice(list(self.held))
        if self.held[worker] and self.random.random() < 0.2:
            self.bench.finish(worker, self.held[worker][0])  # its last words, on their way when it died
            if worker not in self.begun:
                self.begin(worker)
        known = self.random.random() < 0.8
        self.lost = [*self.lost[-5:], (worker, list(self.ring[worker]) if known else None)]
        self.dead += [(worker, work) for work in self.held[worker]]
        self.forget(worker)
        self.show()

    def haunt(self) -> None:
        """An answer that comes later than the news of its worker's death, or from one that has another batch."""
        if self.dead:
            self.turn()
            worker, work = self.dead.pop()
            self.bench.finish(self.random.choice([worker, *self.held]), work)

    def forget(self, worker: bytes) -> None:
        del self.held[worker], self.ring[worker]
        self.begun.pop(worker, None)
        self.leaving.discard(worker)

    def show(self) -> None:
        self.bench.picture(alive=self.held, lost=self.lost, origin=ALICE)

    def turn(self) -> None:
        self.bench.settle()
        for worker in list(self.held):
            self.read(worker)

    def read(self, worker: bytes) -> None:
        told = self.bench.told(worker)
        news = told[self.seen[worker] :]
        self.seen[worker] = len(told)
        for message in news:
            if isinstance(message, Work):
                assert message.final
                assert message.rows <= CAP or len(message.requests[0].items) == 1
                items = [item for infer in message.requests for item in infer.items]
                assert all(item.suspect for item in items if self.starts[item.counter])
                self.held[worker].append(message)
        held = self.held[worker]
        assert len(held) <= 2
        suspects = [item for work in held for infer in work.requests for item in infer.items if item.suspect]
        assert not suspects or (len(held) == 1 and len(held[0].requests[0].items) == 1)
        if worker in self.leaving and not held and any(isinstance(message, Released) for message in told):
            self.forget(worker)
            self.show()

    def end(self) -> None:
        """No more trouble: a last worker serves what is left."""
        self.turn()
        self.join()
        for _ in range(1000):
            self.work()
            self.bench.clock.advance(0.01)
            self.turn()
            if not self.held:
                self.join()
            if not self.bench.exchange.desk.inbox:
                break
        self.check()

    def check(self) -> None:
        results, failures = self.bench.results(), self.bench.failures()
        assert results.keys() | failures.keys() == self.methods.keys(), "nothing is lost"
        assert not results.keys() & failures.keys(), "nothing is answered twice"
        assert all(results[number] == 2.0 * number for number in results), "nothing is crossed"
        codes = {failure.code for failure in failures.values()}
        assert codes <= {CANCELLED, "worker_lost", "deadline_exceeded", "infeasible_now"}
        assert all(number in self.cancelled for number, failure in failures.items() if failure.code == CANCELLED)
        for number, count in self.starts.items():
            assert count <= (1 if self.methods[number] == "once" else 2)
        assert self.bench.exchange.desk.inbox.nbytes == 0
        assert self.bench.exchange.desk._dispatcher._live == {}


@pytest.mark.parametrize("first", range(0, WORLDS, 50))
def test_every_request_of_a_random_world_gets_its_one_answer(first: int) -> None:
    for seed in range(first, first + 50):
        world = World(seed)
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"world {seed}: {error}") from error
