"""The ledger in seeded random worlds: hosts come, hang, refuse, answer late and twice, and die; the contract holds.

A failure names its seed; `World(seed)` and STEPS steps repeat it.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from paceline.protocol.errors import NoWorker, QueueFull, RequestError
from paceline.protocol.ledger import Entry, Ledger, LedgerLimits
from paceline.protocol.messages import InferItem

SEEDS, SEEDS_PER_TEST = 1000, 50
STEPS = 200
LATE_MAX_S = 0.004


class World:
    """One ledger, its hosts as they see themselves, and a book of everything that was closed."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.bounds = LedgerLimits(
            window_requests=random.choice([1, 3, 8]),
            window_bytes=random.choice([50, 10_000]),
            pending_requests=random.choice([4, 40]),
            pending_bytes=random.choice([200, 10_000]),
            starts_max=random.choice([1, 2, 3]),
        )
        self.ledger = Ledger({"net": 1, "add": 1}, self.bounds)
        self.now = 1000.0
        self.counter = 0
        self.hosts: dict[bytes, str] = {}
        self.holds: dict[bytes, list[InferItem]] = {}
        self.old_answers: list[tuple[bytes, int, int]] = []
        self.submitted: dict[int, Entry] = {}
        self.starts_told: dict[int, int] = {}
        self.closed: Counter[int] = Counter()
        self.starts: Counter[int] = Counter()
        self.sent_last: dict[str, int] = {"net": -1, "add": -1}

    def step(self) -> None:
        moves = [
            (self.submit, 10),
            (self.take, 8),
            (self.answer, 8),
            (self.answer_again, 2),
            (self.cancel, 2),
            (self.pass_time, 6),
            (self.host_up, 2),
            (self.host_leaving, 1),
            (self.give_back, 2),
            (self.host_down, 1),
            (self.runner_failed, 1),
        ]
        move = self.random.choices([move for move, _ in moves], [weight for _, weight in moves])[0]
        move()
        self.check()

    def submit(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            self.counter += 1
            deadline_s = self.now + self.random.choice([0.0, 0.001, 0.05, 1.0])
            request = InferItem(
                self.counter,
                0,
                0,
                False,
                round(self.now * 1e9),
                round(deadline_s * 1e9),
                0,
                1 + self.counter % 3,
                0,
                "m",
                b"",
                "",
                "",
                None,
            )
            runner = self.random.choice(["net", "net", "add"])
            try:
                entry = self.ledger.submit(
                    runner, request, object(), self.random.choice([0, 10, 45, 60]), self.random.random() < 0.7
                )
            except (QueueFull, NoWorker):
                continue
            self.submitted[self.counter] = entry

    def take(self) -> None:
        runner = self.random.choice(["net", "add"])
        waiting_before = self.waiting(runner)
        self.starts_told = {counter: self.submitted[counter].item.starts for counter in waiting_before}
        sent: list[int] = []
        for host, items in self.ledger.take(runner):
            assert self.hosts[host] == runner, "sent to a host that is not up"
            counters = [request.counter for request in items]
            sent += counters
            assert all(not self.submitted[counter].closed for counter in counters), "sent a closed request"
            assert counters == sorted(counters, key=waiting_before.index), "not in order"
            if self.random.random() < 0.15:
                self.ledger.unsent(host, items)
            else:
                self.holds[host] += items
        # Resends first, each in order of arrival: what was sent is a prefix of what waited. Suspects, which go one at a
        # time, are a line of their own.
        for suspect in (False, True):
            line = [counter for counter in waiting_before if (self.starts_told[counter] > 0) is suspect]
            left = {counter for counter in sent if (self.starts_told[counter] > 0) is suspect}
            assert left == set(line[: len(left)]), "not first in, first out"

    def waiting(self, runner: str) -> list[int]:
        state = self.ledger._runners[runner]
        return [*sorted(state.again), *sorted(state.pending)]

    def answer(self) -> None:
        busy = [host for host, items in self.holds.items() if items]
        if not busy:
            return
        host = self.random.choice(busy)
        items = self.holds[host]
        for _ in range(self.random.randint(1, len(items))):
            request = items.pop(self.random.randrange(len(items)))
            self.old_answers.append((host, request.counter, request.attempt))
            self.close(self.ledger.settle(host, request.counter, request.attempt))

    def answer_again(self) -> None:
        """A duplicate, an answer of a dead host, or one of another attempt: nobody's."""
        for host, counter, attempt in self.random.sample(self.old_answers, min(3, len(self.old_answers))):
            assert self.ledger.settle(host, counter, attempt) is None, "a late answer was taken"
        held = [(host, request) for host, items in self.holds.items() for request in items]
        if held:
            host, request = self.random.choice(held)
            assert self.ledger.settle(host, request.counter, request.attempt + 1) is None, "another attempt was taken"

    def cancel(self) -> None:
        if self.submitted:
            cancelled = self.ledger.cancel(self.random.choice(list(self.submitted)))
            if cancelled is not None:
                self.close(cancelled[0])

    def pass_time(self) -> None:
        """As the shell does: awake at next_deadline, and whenever else."""
        end = self.now + self.random.choice([0.0, 0.002, 0.03, 0.3])
        while (at := self.ledger.next_deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.expire()
        self.now = end
        if self.random.random() < 0.5:
            self.expire()

    def expire(self) -> None:
        for entry in self.ledger.expire(self.now):
            assert entry.deadline_s <= self.now, "expired before its deadline"
            self.close(entry)

    def host_up(self) -> None:
        if len(self.hosts) < 4:
            host = self.random.randbytes(16)
            self.hosts[host] = self.random.choice(["net", "net", "add"])
            self.holds[host] = []
            self.ledger.host_up(self.hosts[host], host)

    def host_leaving(self) -> None:
        if self.hosts:
            host = self.random.choice(list(self.hosts))
            self.ledger.host_leaving(host)
            del self.hosts[host]

    def give_back(self) -> None:
        """A host that drains refuses what it has not started."""
        busy = [host for host, items in self.holds.items() if items]
        if not busy:
            return
        host = self.random.choice(busy)
        if self.hosts.pop(host, None) is not None:
            self.ledger.host_leaving(host)
        items = self.holds[host]
        refused = [items.pop(self.random.randrange(len(items))) for _ in range(self.random.randint(1, len(items)))]
        pairs = [(request.counter, request.attempt) for request in refused]
        self.old_answers += [(host, *pair) for pair in pairs]
        for entry, error in self.ledger.give_back(host, pairs, self.now):
            assert isinstance(error, RequestError)
            self.close(entry)
        assert self.ledger.give_back(host, pairs, self.now) == [], "a request was given back twice"

    def host_down(self) -> None:
        if not self.holds:
            return
        host = self.random.choice(list(self.holds))
        items = self.holds.pop(host)
        self.hosts.pop(host, None)
        hand = items[: self.random.randint(0, len(items))]
        started = None if self.random.random() < 0.3 else frozenset(request.counter for request in hand)
        for request in hand if started is not None else items:
            self.starts[request.counter] += 1
            entry = self.submitted[request.counter]
            assert entry.idempotent or self.starts[request.counter] == 1, "started twice though not idempotent"
        self.old_answers += [(host, request.counter, request.attempt) for request in items]
        for entry, error in self.ledger.host_down(host, started, self.now):
            assert isinstance(error, RequestError)
            self.close(entry)

    def runner_failed(self) -> None:
        if self.random.random() < 0.3:
            for entry, _ in self.ledger.runner_failed(self.random.choice(["net", "add"]), "given up"):
                self.close(entry)

    def close(self, entry: Entry | None) -> None:
        if entry is None:
            return
        counter = entry.item.counter
        assert self.submitted[counter] is entry
        assert entry.closed
        self.closed[counter] += 1
        assert self.closed[counter] == 1, "closed twice"
        assert self.now <= entry.deadline_s + LATE_MAX_S + 1e-9, "closed too late"

    def check(self) -> None:
        assert len(self.ledger) == len(self.submitted) - len(self.closed), "a request is neither open nor closed"
        assert all(count <= self.bounds.starts_max for count in self.starts.values()), "started too often"
        for runner in ("net", "add"):
            state = self.ledger._runners[runner]
            waiting = [*state.again.values(), *state.pending.values()]
            assert state.pending_bytes == sum(entry.nbytes for entry in waiting)
            assert state.pending_rows == sum(entry.item.rows for entry in waiting)
            assert not any(entry.closed for entry in waiting)
            for entry in state.again.values():
                assert entry.item.starts < self.bounds.starts_max
        for host in self.ledger._hosts.values():
            assert len(host.owed) <= self.bounds.window_requests
            assert sum(entry.item.starts > 0 for entry in host.owed.values()) <= 1, "two suspects at one host"
            assert host.nbytes == sum(entry.nbytes for entry in host.owed.values())
            assert host.nbytes <= self.bounds.window_bytes or len(host.owed) == 1
            assert sorted(host.owed) == sorted(request.counter for request in self.holds[host.incarnation])

    def finish(self) -> None:
        """Everything is answered or expires; then nothing is left."""
        for _ in range(200):
            self.answer()
        while (at := self.ledger.next_deadline()) is not None:
            self.now = max(self.now, at)
            self.expire()
        for host, items in self.holds.items():
            for request in items:
                assert self.ledger.settle(host, request.counter, request.attempt) is None
            items.clear()
        self.check()
        assert set(self.closed) == set(self.submitted), "a request was never closed"
        assert footprint(self.ledger) == {"open": 0, "buckets": 0, "heap": 0, "waiting": 0, "owed": 0, "bytes": 0}


def footprint(ledger: Ledger) -> dict[str, Any]:
    hosts, runners = ledger._hosts.values(), ledger._runners.values()
    return {
        "open": len(ledger._open),
        "buckets": len(ledger._buckets),
        "heap": len(ledger._bucket_heap),
        "waiting": sum(len(state.again) + len(state.pending) for state in runners),
        "owed": sum(len(host.owed) for host in hosts),
        "bytes": sum(host.nbytes for host in hosts) + sum(state.pending_bytes for state in runners),
    }


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_world_keeps_the_contract(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        world = World(seed)
        try:
            for _ in range(STEPS):
                world.step()
            world.finish()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error


def test_nothing_grows_over_many_requests() -> None:
    ledger = Ledger({"net": 1})
    ledger.host_up("net", b"h" * 16)
    for counter in range(20_000):
        now_ns = counter * 100_000
        request = InferItem(counter, 0, 0, False, now_ns, now_ns + 30_000_000_000, 0, 1, 0, "m", b"", "", "", None)
        ledger.submit("net", request, None, 1)
        ledger.take("net")
        assert ledger.settle(b"h" * 16, counter, 0) is not None
        ledger.next_deadline()
        assert counter % 1000 or set(footprint(ledger).values()) == {0}
