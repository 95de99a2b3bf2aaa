"""A seeded random world around one dispatcher: virtual clock, workers that stall and die, clients that hang up.

`World(seed).run()` checks every promise of the dispatcher after every call; a broken one names the seed.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random

from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatch,
    Dispatcher,
    DispatcherConfig,
    Event,
    Reject,
    RejectReason,
    Tick,
    WakeAt,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)

STEPS = 60


@dataclass
class Held:
    """A batch at a worker. `ends_at` = inf: prefetched, it begins when the one before ends."""

    dispatch: Dispatch
    duration: float
    ends_at: float


@dataclass
class Person:
    """What the world knows of one request."""

    arrived: Arrived
    order: tuple[float, int]
    starts: int = 0
    suspect: bool = False


@dataclass
class World:
    seed: int
    now: float = 0.0
    queued: dict[int, Person] = field(default_factory=dict)
    running: dict[int, Person] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    workers: dict[int, list[Held]] = field(default_factory=dict)
    draining: set[int] = field(default_factory=set)
    caps: dict[str, tuple[int, float]] = field(default_factory=dict)
    timers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random = Random(self.seed)
        self.row_s = random.choice((0.0, 0.0005, 0.002))
        self.batch_s = random.choice((0.001, 0.005, 0.02))
        self.given = random.random() < 0.4
        self.jitter = random.choice((0.0, 0.0, 0.1))
        self.config = DispatcherConfig(
            max_batch_size=random.choice((1, 4, 16, 64)),
            latency_table={rows: self._seconds(rows) for rows in (1, 4, 16, 64)} if self.given else None,
            reply_s=random.choice((0.0, 0.001)),
            prefetch_s=random.choice((0.0, 0.0, 0.004)),
            buckets=random.choice(((), (4, 16, 64))),
            queue_rows_max=random.choice((40, 10_000)),
            quantile=random.choice((0.5, 0.9)),
            ageing_s=random.choice((0.0, 0.1, 10.0)),
            table_ageing_s=random.choice((0.1, 300.0)),
            keys_max=random.choice((4, 256)),
        )
        self.dispatcher = Dispatcher(self.config)
        self.next_id = self.next_worker = 0
        self.budgets = random.choice(((inf,), (0.03,), (0.01, 0.1, inf), (0.005, 0.02)))
        self.priorities = random.choice(((0,), (0, 1, 5)))
        self.keys = random.choice((("a",), ("a", "b", ("m", 1), ("m", 2))))

    def run(self) -> None:
        for _ in range(self.random.choice((1, 1, 2, 5))):
            self.tell(self._join())
        for _ in range(STEPS):
            self._advance(self.now + self.random.choice((0.0, 0.0, 0.001, 0.004, 0.02)))
            self.tell(*self._happenings())
        self._finish()

    def tell(self, *events: Event) -> None:
        """One call of the dispatcher, with every promise checked on what it answers."""
        for action in self.dispatcher.handle_all(events, self.now):
            self._obey(action)
        self._check_hold()

    # The weather

    def _happenings(self) -> Iterator[Event]:
        random = self.random
        if random.random() < 0.1:
            yield Cancelled(self._hang_up(random.randrange(self.next_id + 1)))
        yield from (self._arrival() for _ in range(random.choice((0, 1, 1, 3, 30))))
        if random.random() < 0.05:
            yield self._join()
        if random.random() < 0.05 and self.workers:
            yield from self._lose(random.choice(sorted(self.workers)))
        if random.random() < 0.02 and self.workers:
            yield self._drain(random.choice(sorted(self.workers)))
        if random.random() < 0.03:
            yield self._shrink()
        if random.random() < 0.1:
            yield random.choice((Tick(), BatchDone(99, 1, 0.1), BatchDone(0, 10**9, 0.1), WorkerLost(99)))

    def _arrival(self) -> Arrived:
        random = self.random
        self.next_id += 1
        arrived = Arrived(
            self.next_id,
            random.choice(self.keys),
            rows=random.choice((1, 1, 1, 2, 7)) if random.random() < 0.95 else 150,
            deadline=self.now + random.choice(self.budgets),
            priority=random.choice(self.priorities),
            arrived_at=random.choice((None, self.now - 0.001)),
            length=random.randrange(9),
            batch_limit=random.choice((None, None, None, 1, 8)),
        )
        at = self.now if arrived.arrived_at is None else arrived.arrived_at
        self.queued[self.next_id] = Person(arrived, (at, self.next_id))
        return arrived

    def _hang_up(self, request_id: int) -> int:
        for people in (self.queued, self.running):
            if people.pop(request_id, None) is not None:
                self.answers[request_id] = "cancelled"
        return request_id

    def _join(self) -> Event:
        self.next_worker += 1
        self.workers[self.next_worker] = []
        return WorkerJoined(self.next_worker)

    def _drain(self, worker_id: int) -> Event:
        if self.workers[worker_id]:
            self.draining.add(worker_id)
        else:
            del self.workers[worker_id]
        return WorkerDraining(worker_id)

    def _shrink(self) -> Event:
        cap = CapChanged(self.random.choice(self.keys), self.random.choice((1, 3, 100)), self.now + 0.05)
        self.caps[str(cap.key)] = (cap.rows, cap.until)
        return cap

    def _lose(self, worker_id: int) -> Iterator[Event]:
        """Some of the time it is known which batches had begun: the first."""
        batches = self.workers.pop(worker_id)
        self.draining.discard(worker_id)
        is_known = self.random.random() < 0.5
        started = {held.dispatch.batch_id for held in batches[:1]} if is_known else None
        for held in batches:
            may_have_started = started is None or held.dispatch.batch_id in started
            for request_id in held.dispatch.request_ids:
                assert isinstance(request_id, int)
                person = self.running.pop(request_id, None)
                if person is not None:
                    person.starts += may_have_started
                    person.suspect |= may_have_started
                    self.queued[request_id] = person
        yield WorkerLost(worker_id, started)

    def _seconds(self, rows: int) -> float:
        return self.batch_s + self.row_s * rows

    # Time

    def _advance(self, until: float) -> None:
        """Ends of batches and wake-ups up to `until`, each at its own time, equal times in one call or apart."""
        while True:
            ends = [(held[0].ends_at, worker) for worker, held in self.workers.items() if held]
            end = min(ends, default=(inf, 0))
            wake = self.timers[0] if self.timers else inf
            if min(end[0], wake) > until:
                break
            self.now = max(self.now, min(end[0], wake))
            if wake <= end[0]:
                heapq.heappop(self.timers)
                self.tell(Tick())
                late = [i for i, person in self.queued.items() if person.arrived.deadline <= self.now]
                self._check(not late, f"{late} are past their deadlines")
            else:
                self._end(end[1])
        self.now = max(self.now, until)

    def _end(self, worker_id: int) -> None:
        batches = self.workers[worker_id]
        held = batches.pop(0)
        if batches:
            batches[0].ends_at = self.now + batches[0].duration
        elif worker_id in self.draining:
            self.draining.discard(worker_id)
            del self.workers[worker_id]
        for request_id in held.dispatch.request_ids:
            assert isinstance(request_id, int)
            if self.running.pop(request_id, None) is not None:
                self._answer(request_id, "result")
        self.tell(BatchDone(worker_id, held.dispatch.batch_id, held.duration, self.random.random() < 0.95))

    def _finish(self) -> None:
        """Everything ends, nothing stays behind."""
        self.tell(self._join())
        while self.queued or self.running:
            ends = [held[0].ends_at for held in self.workers.values() if held]
            self._advance(min(ends + self.timers))
        self._check(len(self.answers) == self.next_id, "somebody got no answer")
        self._check(not self.dispatcher._live and not self.dispatcher._backlog.waiting, "something is left")
        self._check(self.dispatcher._backlog.rows == 0, "rows are left")
        self._check(self.dispatcher._fleet.idle == len(self._idle()), "idle workers are miscounted")

    # The promises

    def _obey(self, action: Action) -> None:
        match action:
            case Dispatch():
                self._check_batch(action)
                self._start(action)
            case Reject():
                self._check_refusal(action)
            case WakeAt(time):
                self._check(time >= self.now, f"a wake-up in the past, at {time}")
                self.timers = [time]

    def _start(self, dispatch: Dispatch) -> None:
        random = self.random
        duration = self._seconds(dispatch.padded_rows) * (1 + self.jitter * random.random())
        duration *= random.choice((5.0, 20.0)) if random.random() < 0.03 else 1.0
        assert isinstance(dispatch.worker_id, int)
        batches = self.workers[dispatch.worker_id]
        batches.append(Held(dispatch, duration, inf if batches else self.now + duration))
        for request_id in dispatch.request_ids:
            assert isinstance(request_id, int)
            self.running[request_id] = self.queued.pop(request_id)

    def _check_batch(self, dispatch: Dispatch) -> None:
        ids = [i for i in dispatch.request_ids if isinstance(i, int)]
        self._check(set(ids) <= set(self.queued), f"{ids} are not all waiting")
        self._check(len(ids) == len(set(ids)) > 0, f"{ids} names somebody twice or nobody")
        people = [self.queued[i] for i in ids]
        requests = [person.arrived for person in people]
        self._check({request.key for request in requests} == {dispatch.key}, "keys are mixed")
        self._check(all(request.deadline > self.now for request in requests), f"{ids}: past its deadline in a batch")
        self._check(dispatch.rows == sum(request.rows for request in requests) <= dispatch.padded_rows, "rows")
        self._check(dispatch.length == max(request.length for request in requests), "length")
        self._check(all(person.starts < self.config.starts_max for person in people), "started too often")
        if len(ids) > 1:
            self._check(dispatch.rows <= self._cap(requests), f"{dispatch.rows} rows are above the cap")
            self._check(not any(p.suspect or p.arrived.batch_limit == 1 for p in people), "has to run alone")
        self._check_order(people)
        self._check_worker(dispatch)

    def _cap(self, requests: list[Arrived]) -> int:
        rows, until = self.caps.get(str(requests[0].key), (10**9, inf))
        limits = [request.batch_limit for request in requests if request.batch_limit is not None]
        return min(self.config.max_batch_size, rows if self.now < until else 10**9, *limits, 10**9)

    def _check_order(self, people: list[Person]) -> None:
        """Of equals, nobody who waits came before somebody who goes."""
        going = {person.arrived.request_id for person in people}
        last = {self._rank(person): person.order for person in sorted(people, key=lambda person: person.order)}
        for request_id, person in self.queued.items():
            overtaken = request_id not in going and person.order < last.get(self._rank(person), (-inf, 0))
            self._check(not overtaken, f"{request_id} was overtaken by an equal")

    def _check_hold(self) -> None:
        """An idle worker beside a request: only while another one computes, and until a timer at the latest."""
        idle, crew = self._idle(), set(self.workers) - self.draining
        if not self.queued or not idle:
            return
        lone = len(crew) == 1  # may wait for the rest of a cluster
        self._check(lone or len(idle) < len(crew), f"all of {idle} wait beside {list(self.queued)}")
        earliest = min(person.arrived.deadline for person in self.queued.values())
        self._check(bool(self.timers), f"{idle} wait for nothing beside {list(self.queued)}")
        self._check(self.now < self.timers[0] <= earliest, f"{idle} wait until {self.timers[0]}, due {earliest}")

    def _rank(self, person: Person) -> tuple[object, ...]:
        """Equal for those of whom the first goes first. Who may be growing more urgent just now is equal to nobody."""
        arrived = person.arrived
        rank = (arrived.key, arrived.priority, arrived.deadline)
        ageing_s = self.config.ageing_s
        if not ageing_s:
            return rank
        waited = (self.now - person.order[0]) / ageing_s
        grown = int(waited)
        return (*rank, grown) if int(waited - 1 / 16) == grown else (*rank, grown, arrived.request_id)

    def _check_worker(self, dispatch: Dispatch) -> None:
        assert isinstance(dispatch.worker_id, int)
        self._check(dispatch.worker_id in self.workers, "the worker is gone")
        self._check(dispatch.worker_id not in self.draining, "the worker is draining")
        batches = self.workers[dispatch.worker_id]
        self._check(len(batches) < (2 if self.config.prefetch_s else 1), "the worker is busy")

    def _check_refusal(self, reject: Reject) -> None:
        assert isinstance(reject.request_id, int)
        self._check(reject.request_id in self.queued, f"{reject} of somebody who does not wait")
        person = self.queued.pop(reject.request_id)
        self._answer(reject.request_id, reject.reason)
        deadline = person.arrived.deadline
        match reject.reason:
            case RejectReason.DEADLINE:
                self._check(deadline <= self.now, f"{reject} before its deadline {deadline}")
            case RejectReason.INFEASIBLE:
                self._check(self.now < deadline < inf, f"{reject} at a deadline of {deadline}")
            case RejectReason.WORKER_LOST:
                self._check(person.starts >= 2 or deadline <= self.now, f"{reject} with a start left")
            case RejectReason.QUEUE_FULL:
                queued = sum(other.arrived.rows for other in self.queued.values()) + person.arrived.rows
                self._check(queued > self.config.queue_rows_max, f"{reject} at {queued} rows")

    def _answer(self, request_id: int, answer: str) -> None:
        self._check(request_id not in self.answers, f"{request_id} is answered twice")
        self.answers[request_id] = answer

    def _idle(self) -> list[int]:
        return [worker for worker, held in self.workers.items() if not held and worker not in self.draining]

    def _check(self, holds: bool, what: str) -> None:
        assert holds, f"seed {self.seed} at {self.now:.6f}: {what}"
