"""A seeded random world around one dispatcher: virtual clock, workers that stall and die, clients that hang up.

`check(seed)` runs one and tests every promise of the dispatcher after every call. Each step draws from a source of its
own, so that steps can be left out: a broken promise names the seed, the fewest steps that break it and what happened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, nan
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
    Forecast,
    Measured,
    Reject,
    RejectReason,
    Tick,
    WakeAt,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.dispatcher.curve import pad
from paceline.runner.dispatcher.timing import CLUSTER_WAIT, PATIENCE_BATCHES

STEPS = 60
SIZES = (1, 4, 16, 64)
SPEEDS = {"": 1.0, "fast": 1.0, "slow": 3.0}  # seconds of a batch by the worker's profile, against the fast one's
CAPPED = ("a", "b")  # keys whose cap changes: fewer than any dispatcher here remembers
STALLED = (5.0, 20.0)  # times as long takes a batch that stalls
TWICE = "twice"  # the key or profile of somebody who comes though he is there
BROKEN = (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
ROUNDING_S = 1e-9
AGES_LATE = 1.01 / 16  # of ageing_s
AFTER_MAX = 20_000  # ends and wake-ups after the load has stopped
HISTORY_LINES = 300
HEALED = 5  # lone requests served one after the other
HEALING_MAX = 2_000


def check(seed: int) -> None:
    """Raises AssertionError with the shortest history that breaks a promise in this world."""
    if _failure(seed, range(STEPS)) is None:
        return
    steps = _shortest(seed)
    world = World(seed, log=[])
    try:
        world.run(steps)
    except BROKEN as error:
        history = "\n".join((world.log or [])[-HISTORY_LINES:])
        raise AssertionError(f"World({seed}).run({steps}) breaks a promise: {error!r}\n{history}") from error


def _shortest(seed: int) -> list[int]:
    """The steps that are left when none can be spared, tried in ever smaller groups."""
    steps, size = list(range(STEPS)), STEPS // 2
    while size:
        for begin in range(0, STEPS, size):
            fewer = [*steps[:begin], *steps[begin + size :]]
            if len(fewer) < len(steps) and _failure(seed, fewer) is not None:
                steps = fewer
        size //= 2
    return steps


def _failure(seed: int, steps: Sequence[int]) -> Exception | None:
    try:
        World(seed).run(steps)
    except BROKEN as error:
        return error
    return None


@dataclass
class Held:
    """A batch at a worker. `ends_at` = inf: prefetched, it begins when the one before ends."""

    dispatch: Dispatch
    duration: float
    ends_at: float


@dataclass
class Machine:
    """A worker as the world sees it. `free_at`: as the dispatcher predicted it."""

    profile: str
    batches: list[Held] = field(default_factory=list)
    draining: bool = False
    free_at: float = -inf
    joined_at: float = -inf


@dataclass
class Person:
    """What the world knows of one request."""

    arrived: Arrived
    at: float
    starts: int
    suspect: bool = False
    waits_again: bool = False

    @property
    def order(self) -> tuple[float, int]:
        assert isinstance(self.arrived.request_id, int)
        return self.at, self.arrived.request_id

    @property
    def queue(self) -> tuple[object, int]:
        """What it shares with those of whom each can be in any batch that another one is in."""
        return self.arrived.key, self.arrived.length

    @property
    def rank(self) -> tuple[tuple[object, int], int, float]:
        """Equals are served in order, but for those of whom one has aged more than the other."""
        return self.queue, self.arrived.priority, self.arrived.deadline

    def classes(self, ageing_s: float, now: float) -> tuple[int, int]:
        """The most and the least urgent class that it may be in by now."""
        if not ageing_s:
            return self.arrived.priority, self.arrived.priority
        age = (now - self.at) / ageing_s
        return self.arrived.priority - int(age + ROUNDING_S), self.arrived.priority - int(age - AGES_LATE)

    @property
    def shape(self) -> tuple[int, int | None, bool]:
        """Equals of one shape need the same time alone."""
        return self.arrived.rows, self.arrived.batch_limit, self.suspect


@dataclass
class World:
    seed: int
    watched: bool = True  # whether forecasts are read: it must make no difference
    faulty: bool = True  # whether some events are wrong
    log: list[str] | None = None
    now: float = 0.0
    calls: int = 0
    wake_at: float = inf
    stalls_until: float = -inf
    queued: dict[int, Person] = field(default_factory=dict)
    running: dict[int, Person] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    machines: dict[int, Machine] = field(default_factory=dict)
    caps: dict[object, tuple[int, float]] = field(default_factory=dict)
    gone: list[tuple[int, int]] = field(default_factory=list)  # batches that are done or lost
    measured: Counter[object] = field(default_factory=Counter)  # durations told, by key and length
    served: list[Person] = field(default_factory=list)  # in this call
    refused: list[tuple[Person, RejectReason]] = field(default_factory=list)  # in this call

    def __post_init__(self) -> None:
        self.random = random = Random(f"world {self.seed}")
        self.row_s = random.choice((0.0, 0.0005, 0.002))
        self.batch_s = random.choice((0.001, 0.005, 0.02))
        self.profiles = random.choice((("",), ("",), ("fast", "slow")))
        self.given = frozenset(random.choice(((), (), self.profiles, self.profiles, self.profiles[:1])))
        self.jitter = random.choice((0.0, 0.0, 0.1))
        self.config = config = DispatcherConfig(
            max_batch_size=random.choice(SIZES),
            latency_table=self._table("") if "" in self.given else None,
            latency_tables={name: self._table(name) for name in sorted(self.given - {""})} or None,
            budget_s=random.choice((None, None, 0.03)),
            reply_s=random.choice((0.0, 0.001)),
            prefetch_s=random.choice((0.0, 0.0, 0.004)),
            buckets=random.choice(((), (), (4, 16, 64))),
            queue_rows_max=random.choice((40, 10_000)),
            quantile=random.choice((0.5, 0.5, 0.9)),
            ageing_s=random.choice((0.0, 0.1, 0.5)),
            keys_max=random.choice((4, 256)),
            table_ageing_s=random.choice((0.1, 300.0)),
            starts_max=random.choice((1, 2, 3)),
        )
        self.exact = config.quantile == 0.5  # predictions of given tables are as given
        self.dispatcher = Dispatcher(config)
        self.next_id = self.next_worker = 0
        lone_s = self._true_s(self.profiles[0], pad(1, config.buckets)) + config.reply_s
        self.budgets = random.choice(
            ((inf,), (0.0303,), (0.0101, 0.101, inf), (1.05 * lone_s, 2.01 * lone_s), (0.0203, 60.0))
        )  # no sum of durations: what is exactly in time may be late by rounding
        self.priorities = random.choice(((0,), (0, 1, 5)))
        self.keys: tuple[object, ...] = random.choice(
            (("a",), ("a", "b", ("m", 1), ("m", 2)), ("a", *(("m", number) for number in range(12))))
        )
        self.steps_s: tuple[float, ...] = random.choice(((0.0, 0.0, 0.001, 0.004, 0.02), (0.0, 0.002), (0.001,)))
        self.bursts: tuple[int, ...] = random.choice(((0, 1, 1, 3, 30), (1,), (0, 5), (0, 0, 0, 12, 100)))
        self.crew_size = random.choice((1, 1, 2, 3, 8))
        self.hiring = 0.05
        if random.random() < 0.1:
            self._live_in_clusters()
        self.lengths = random.choice(((0,), (0,), (8, 16), (0, 4, 8), tuple(range(9))))

    def _live_in_clusters(self) -> None:
        """One worker for arrivals that one predicts from another."""
        self.steps_s, self.bursts, self.keys, self.lengths = (*[0.0002] * 19, 0.05), (1, 2, 2), ("a",), (0,)
        self.crew_size, self.hiring = 1, 0.0

    def run(self, steps: Sequence[int] = range(STEPS)) -> None:
        self.tell(*(self._join() for _ in range(self.crew_size)))
        for step in steps:
            self.random = Random(f"world {self.seed} step {step}")
            self._pass(step)
        self.random = Random(f"world {self.seed} end")
        self._finish()
        self._heal()

    def tell(self, *events: Event) -> None:
        """One call of the dispatcher, with every promise checked on what it answers."""
        if self.wake_at <= self.now:
            self.wake_at = inf
        self.served.clear()
        self.refused.clear()
        self._note(*events)
        try:
            actions = self.dispatcher.handle_all(events, self.now)
        except ValueError:
            wrong = [event for event in events if _is_wrong(event)]
            self._check(bool(wrong), "an event was taken for wrong")
            actions = self.dispatcher.handle(Tick(), self.now - 0.001)  # a clock that goes back stands still
        else:
            self._check(not any(_is_wrong(event) for event in events), "a wrong event was taken")
        self._note(*actions)
        for action in actions:
            self._obey(action)
        self._check_hold()
        self._check_wake()
        self._check_refusals()
        rows = sum(person.arrived.rows for person in self.queued.values() if not person.waits_again)
        self._check(rows <= self.config.queue_rows_max, f"{rows} rows are queued")
        if self.watched and self.calls % 5 == 0:  # it costs more than all the rest
            self._check_forecast()
        self.calls += 1

    # The weather

    def _pass(self, step: int) -> None:
        random = self.random
        self.step = step
        until = self.now + random.choice(self.steps_s)
        next_end = min((held.ends_at for m in self.machines.values() for held in m.batches[:1]), default=inf)
        ends = random.random() < 0.3 and next_end < min(inf, self.wake_at)
        self._advance(next_end if ends else until, before=ends)
        if random.random() < 0.02:
            self.stalls_until = self.now + 0.3
        done = [self._end(worker) for worker in self._due()]
        self.tell(*done, *self._happenings())

    def _happenings(self) -> Iterator[Event]:
        random = self.random
        nonsense = random.random()
        if nonsense < 0.05:
            yield self._nonsense()
        if random.random() < 0.1:
            yield Cancelled(self._hang_up(random.randrange(self.next_id + 1)))
        yield from (self._arrival() for _ in range(random.choice(self.bursts)))
        if random.random() < self.hiring:
            yield self._join()
        if random.random() < self.hiring and self.machines:
            yield from self._lose(random.choice(sorted(self.machines)))
        if random.random() < self.hiring and self.machines:
            yield self._drain(random.choice(sorted(self.machines)))
        if random.random() < 0.03:
            yield self._shrink()
        if random.random() < 0.05:
            yield self._warm_up()
        if 0.05 <= nonsense < 0.1:
            yield self._nonsense()

    def _arrival(self) -> Arrived:
        random = self.random
        self.next_id += 1
        starts = int(random.random() < 0.02)
        arrived = Arrived(
            self.next_id,
            random.choice(self.keys),
            rows=random.choice((1, 1, 1, 2, 7)) if random.random() < 0.95 else 150,
            deadline=self.now + random.choice(self.budgets),
            priority=random.choice(self.priorities),
            arrived_at=random.choice((None, self.now - 0.001)),
            length=self.lengths[random.randrange(9) % len(self.lengths)],
            batch_limit=random.choice((None, None, None, 1, 8)),
            starts=starts,
            starts_max=random.choice((None, None, 2, 4)),
        )
        at = self.now if arrived.arrived_at is None else arrived.arrived_at
        self.queued[self.next_id] = Person(arrived, at, starts)
        return arrived

    def _hang_up(self, request_id: int) -> int:
        for people in (self.queued, self.running):
            if people.pop(request_id, None) is not None:
                self.answers[request_id] = "cancelled"
        return request_id

    def _join(self) -> Event:
        """A worker that was lost may come back under its name."""
        lost = sorted(set(range(1, self.next_worker + 1)) - set(self.machines))
        if lost and self.random.random() < 0.3:
            worker_id = self.random.choice(lost)
        else:
            self.next_worker += 1
            worker_id = self.next_worker
        self.machines[worker_id] = Machine(self.random.choice(self.profiles), joined_at=self.now)
        return WorkerJoined(worker_id, self.machines[worker_id].profile)

    def _drain(self, worker_id: int) -> Event:
        if self.machines[worker_id].batches:
            self.machines[worker_id].draining = True
        else:
            del self.machines[worker_id]
        return WorkerDraining(worker_id)

    def _shrink(self) -> Event:
        until = self.now + self.random.choice((0.05, 0.05, -0.01))
        cap = CapChanged(self.random.choice(CAPPED), self.random.choice((0, 1, 3, 100)), until)
        self.caps[cap.key] = (max(1, cap.rows), cap.until)
        return cap

    def _warm_up(self) -> Event:
        random = self.random
        profile, key, rows = random.choice(self.profiles), random.choice(self.keys), random.choice(SIZES)
        seconds = random.choice((0.0, inf, 20.0)) if random.random() < 0.2 else self._true_s(profile, rows)
        self.measured[key, 0] += 1
        return Measured(profile, key, rows, seconds)

    def _nonsense(self) -> Event:
        """Late words, words about nobody, and words that are wrong."""
        random = self.random
        if self.gone and random.random() < 0.5:
            return BatchDone(*random.choice(self.gone), 0.1)
        wrong: list[Event] = [Arrived("no rows", "a", rows=0), Arrived("no number", "a", deadline=nan)]
        wrong += [Arrived(request_id, TWICE) for request_id in list(self.running)[:1]]
        wrong += [WorkerJoined(worker_id, TWICE) for worker_id in list(self.machines)[:1]]
        words: list[Event] = [Tick(), BatchDone(99, 1, 0.1), WorkerLost(99), WorkerDraining(99), Cancelled("nobody")]
        return random.choice([*words, *wrong] if self.faulty else words)

    def _lose(self, worker_id: int) -> Iterator[Event]:
        """Some of the time it is known which batches had begun: the first."""
        batches = self.machines.pop(worker_id).batches
        is_known = self.random.random() < 0.5
        started = {held.dispatch.batch_id for held in batches[:1]} if is_known else None
        for held in batches:
            self.gone.append((worker_id, held.dispatch.batch_id))
            may_have_started = started is None or held.dispatch.batch_id in started
            for request_id in _ids(held.dispatch):
                person = self.running.pop(request_id, None)
                if person is not None:
                    person.starts += may_have_started
                    person.suspect |= may_have_started
                    person.waits_again = True
                    self.queued[request_id] = person
        yield WorkerLost(worker_id, started)

    def _table(self, profile: str) -> dict[int, float]:
        return {rows: self._true_s(profile, rows) for rows in SIZES}

    def _true_s(self, profile: str, rows: int) -> float:
        return (self.batch_s + self.row_s * rows) * SPEEDS[profile]

    # Time

    def _advance(self, until: float, before: bool = False) -> None:
        """Ends of batches and wake-ups up to `until`, each at its own time; `before` leaves out the ends at `until`."""
        while True:
            end = min((m.batches[0].ends_at for m in self.machines.values() if m.batches), default=inf)
            if min(end, self.wake_at) > until or (before and end >= until and self.wake_at > until):
                break
            self.now = max(self.now, min(end, self.wake_at))
            if self.wake_at <= end:
                self.tell(Tick())
                late = [i for i, person in self.queued.items() if person.arrived.deadline <= self.now]
                self._check(not late, f"{late} are past their deadlines")
            else:
                self.tell(self._end(self._due()[0]))
        self.now = max(self.now, until)

    def _due(self) -> list[int]:
        ends = [(m.batches[0].ends_at, worker) for worker, m in self.machines.items() if m.batches]
        return [worker for ends_at, worker in sorted(ends) if ends_at <= self.now]

    def _end(self, worker_id: int) -> Event:
        machine = self.machines[worker_id]
        held = machine.batches.pop(0)
        dispatch = held.dispatch
        if machine.batches:
            machine.batches[0].ends_at = self.now + machine.batches[0].duration
            machine.free_at = self.now + (machine.batches[0].dispatch.predicted_s or inf)
        elif machine.draining:
            del self.machines[worker_id]
        for request_id in _ids(dispatch):
            if self.running.pop(request_id, None) is not None:
                self._answer(request_id, "result")
        self.gone.append((worker_id, dispatch.batch_id))
        self.measured[dispatch.key, dispatch.length] += 1
        return BatchDone(worker_id, dispatch.batch_id, held.duration, self.random.random() < 0.95)

    def _finish(self) -> None:
        """The load stops: everything is answered, whoever has no deadline with a result, and nothing stays behind."""
        self.tell(self._join())
        self._drain_all()
        self._check(len(self.answers) == self.next_id, "somebody got no answer")
        self._check_empty()

    def _drain_all(self) -> None:
        for _ in range(AFTER_MAX):
            if not self.queued and not any(machine.batches for machine in self.machines.values()):
                return
            ends = [m.batches[0].ends_at for m in self.machines.values() if m.batches]
            soonest = min([*ends, self.wake_at])
            self._check(soonest < inf, f"{list(self.queued)} wait for ever")
            self._advance(soonest)
        self._check(False, f"{list(self.queued)} wait too long")

    def _heal(self) -> None:
        """Whatever was learned, lone requests with three times the time that they need are served before long."""
        profile = max({machine.profile for machine in self.machines.values()}, key=SPEEDS.__getitem__)
        takes_s = 3 * self._true_s(profile, pad(1, self.config.buckets)) + self.config.reply_s
        self.stalls_until = -inf
        in_a_row = 0
        for _ in range(HEALING_MAX):
            self.next_id += 1
            self.queued[self.next_id] = Person(Arrived(self.next_id, "a", deadline=self.now + takes_s), self.now, 0)
            self.tell(self.queued[self.next_id].arrived)
            self._drain_all()
            in_a_row = in_a_row + 1 if self.answers[self.next_id] == "result" else 0
            if in_a_row == HEALED:
                return
            self._advance(self.now + takes_s)
        self._check(False, "lone requests are not served any more")

    # The promises

    def _obey(self, action: Action) -> None:
        match action:
            case Dispatch():
                self._check_batch(action)
                self._start(action)
            case Reject():
                self._check_refusal(action)
            case WakeAt(time):
                self._check(time > self.now, f"a wake-up in the past, at {time}")
                self.wake_at = time

    def _start(self, dispatch: Dispatch) -> None:
        random = self.random
        assert isinstance(dispatch.worker_id, int)
        machine = self.machines[dispatch.worker_id]
        duration = self._true_s(machine.profile, dispatch.padded_rows) * (1 + self.jitter * random.random())
        stalls = random.random() < 0.03 or self.now < self.stalls_until
        duration *= random.choice(STALLED) if stalls else 1.0
        machine.free_at = self._start_of(machine) + (dispatch.predicted_s or inf)
        machine.batches.append(Held(dispatch, duration, inf if machine.batches else self.now + duration))
        for request_id in _ids(dispatch):
            self.served.append(self.queued[request_id])
            self.running[request_id] = self.queued.pop(request_id)

    def _start_of(self, machine: Machine) -> float:
        return max(self.now, machine.free_at) if machine.batches else self.now

    def _check_batch(self, dispatch: Dispatch) -> None:
        ids = _ids(dispatch)
        self._check(set(ids) <= set(self.queued), f"{ids} are not all waiting")
        self._check(len(ids) == len(set(ids)) > 0, f"{ids} names somebody twice or nobody")
        people = [self.queued[i] for i in ids]
        requests = [person.arrived for person in people]
        self._check({request.key for request in requests} == {dispatch.key}, "keys are mixed")
        self._check(all(request.deadline > self.now for request in requests), f"{ids}: past its deadline in a batch")
        self._check(dispatch.rows == sum(request.rows for request in requests), "rows")
        lengths = {request.length for request in requests}
        self._check(dispatch.length == max(lengths), "length")
        self._check(lengths == {0} or 0 not in lengths, f"{lengths} are mixed")
        self._check(all(person.starts < self._starts_max(person) for person in people), "started too often")
        cap = self._cap(requests)
        self._check(dispatch.padded_rows == self._padded(dispatch.rows, cap), f"{dispatch.padded_rows} padded rows")
        if len(ids) > 1:
            self._check(dispatch.rows <= cap, f"{dispatch.rows} rows are above the cap of {cap}")
            self._check(not any(p.suspect or p.arrived.batch_limit == 1 for p in people), "has to run alone")
        self._check_order(people)
        self._check_worker(dispatch)
        self._check_time(dispatch, people, cap)

    def _check_time(self, dispatch: Dispatch, people: list[Person], cap: int) -> None:
        """On the word of a given table nobody goes who would be late."""
        assert isinstance(dispatch.worker_id, int)
        machine = self.machines[dispatch.worker_id]
        if machine.profile not in self.given:
            return
        seconds = self._given_s(machine.profile, dispatch.rows, cap)
        if self.exact:
            self._check(abs(dispatch.predicted_s - seconds) < ROUNDING_S, f"{dispatch}: takes {seconds}")
        if len(self.profiles) > 1:
            return  # hopeless is who would be late on the fastest kind; a slower worker may take others
        ends_at = self._start_of(machine) + seconds + self.config.reply_s
        due = min(person.arrived.deadline for person in people)
        self._check(ends_at <= due + ROUNDING_S, f"{dispatch} ends at {ends_at}, due {due}")

    def _check_order(self, people: list[Person]) -> None:
        """Of equals, nobody who waits came before somebody who goes; the most urgent class is in the batch."""
        going = {person.arrived.request_id for person in people}
        queues = {person.queue for person in people}
        last = {person.rank: person for person in sorted(people, key=lambda person: person.order)}
        most_urgent = min(self._classes(person)[0] for person in people)
        for request_id, person in self.queued.items():
            if person.queue not in queues or request_id in going:
                continue
            other = last.get(person.rank)
            if other is not None and person.order < other.order:
                equal = self._classes(person)[0] == self._classes(other)[1]
                self._check(not equal, f"{request_id} was overtaken by an equal")
            self._check(most_urgent <= self._classes(person)[1], f"{request_id}, more urgent, was passed over")

    def _classes(self, person: Person) -> tuple[int, int]:
        return person.classes(self.config.ageing_s, self.now)

    def _check_worker(self, dispatch: Dispatch) -> None:
        assert isinstance(dispatch.worker_id, int)
        machine = self.machines.get(dispatch.worker_id)
        if machine is None:
            raise AssertionError("the worker is gone")
        self._check(not machine.draining, "the worker is draining")
        self._check(len(machine.batches) < (2 if self.config.prefetch_s else 1), "the worker is busy")
        if machine.batches:
            early_s = machine.free_at - self.config.prefetch_s - self.now
            self._check(early_s <= ROUNDING_S, f"a batch in advance, {early_s} s too early")
            self._check(not self._idle(), "a batch in advance, though a worker is idle")

    def _check_hold(self) -> None:
        """An idle worker beside a request: only while another one computes, and until a timer at the latest. A single
        one waits a moment for the rest of a cluster."""
        idle, crew = self._idle(), [machine for machine in self.machines.values() if not machine.draining]
        if not self.queued or not idle:
            return
        lone = len(self.machines) == 1
        self._check(lone or len(idle) < len(crew), f"all of {idle} wait beside {list(self.queued)}")
        self._check(self.wake_at < inf, f"{idle} wait for nothing beside {list(self.queued)}")
        if crew[0].profile in self.given and self.exact:
            if len(self.profiles) == 1:
                self._check_no_hope_is_lost(crew[0].profile)
            if lone:
                moment_s = CLUSTER_WAIT * self._given_s(crew[0].profile, 1, self.config.max_batch_size)
                self._check(self.wake_at <= self.now + moment_s + ROUNDING_S, f"waits until {self.wake_at}")
            elif len(self.profiles) == 1:
                longest_s = self._given_s(crew[0].profile, self.config.max_batch_size, self.config.max_batch_size)
                at = min(person.at for person in self.queued.values())
                bound = at + PATIENCE_BATCHES * longest_s
                self._check(self.wake_at <= bound, f"waits until {self.wake_at}, not {bound}")

    def _check_no_hope_is_lost(self, profile: str) -> None:
        """Nobody is held back until it is too late."""
        needs_s = self._given_s(profile, 1, self.config.max_batch_size) + self.config.reply_s
        latest = [person.arrived.deadline - needs_s for person in self.queued.values() if person.arrived.rows == 1]
        for at in latest:
            self._check(at < self.now or self.wake_at <= at, f"held until {self.wake_at}, but hopeless after {at}")

    def _check_wake(self) -> None:
        earliest = min((person.arrived.deadline for person in self.queued.values()), default=inf)
        self._check(self.now < earliest, f"somebody due at {earliest} waits")
        self._check(self.wake_at <= earliest, f"wakes at {self.wake_at}, but somebody is due at {earliest}")

    def _check_refusal(self, reject: Reject) -> None:
        assert isinstance(reject.request_id, int)
        self._check(reject.request_id in self.queued, f"{reject} of somebody who does not wait")
        person = self.queued.pop(reject.request_id)
        self.refused.append((person, reject.reason))
        self._answer(reject.request_id, reject.reason)
        advice = reject.retry_after_s
        self._check(advice is None or 0 <= advice < inf, f"{reject}: no time to retry after")
        deadline = person.arrived.deadline
        match reject.reason:
            case RejectReason.DEADLINE:
                self._check(deadline <= self.now, f"{reject} before its deadline {deadline}")
            case RejectReason.INFEASIBLE:
                self._check(self.now < deadline < inf, f"{reject} at a deadline of {deadline}")
                is_known = self.given or self.measured[person.queue] > 2
                self._check(bool(is_known), f"{reject}, though nothing is known")
            case RejectReason.WORKER_LOST:
                spent = person.starts >= self._starts_max(person)
                self._check(spent or deadline <= self.now, f"{reject} with a start left")
            case RejectReason.QUEUE_FULL:
                queued = sum(other.arrived.rows for other in self.queued.values()) + person.arrived.rows
                self._check(queued > self.config.queue_rows_max, f"{reject} at {queued} rows")

    def _check_refusals(self) -> None:
        """On the word of given tables nobody is refused whom a worker that is idle could serve in time, and nobody for
        an equal that came later."""
        infeasible = [person for person, reason in self.refused if reason is RejectReason.INFEASIBLE]
        for person in infeasible:
            rows, cap = person.arrived.rows, self._cap([person.arrived])
            for worker_id in self._idle():
                machine = self.machines[worker_id]
                if machine.joined_at == self.now:
                    continue  # after the request was looked at, perhaps
                if self.exact and machine.profile in self.given:
                    ends_at = self.now + self._given_s(machine.profile, rows, cap) + self.config.reply_s
                    late = ends_at > person.arrived.deadline - ROUNDING_S
                    self._check(late, f"{person} was refused, with {worker_id} idle")
            for other in self.served:
                if (other.rank, other.shape) == (person.rank, person.shape) and len(self.profiles) == 1:
                    self._check(other.order < person.order, f"{person} was refused for {other}")

    def _check_forecast(self) -> None:
        """A pure read that says what is the case."""
        forecast = self.dispatcher.forecast(self.now)
        self._check(forecast == self.dispatcher.forecast(self.now), "two forecasts of one moment differ")
        rows = Counter[object]()
        for person in self.queued.values():
            rows[person.queue] += person.arrived.rows
        self._check(forecast.rows_queued == rows.total(), f"{forecast.rows_queued} rows queued, {rows} are")
        crew = {worker: machine for worker, machine in self.machines.items() if not machine.draining}
        self._check({w.worker_id for w in forecast.workers} == set(crew), f"{forecast.workers}: {crew}")
        for worker in forecast.workers:
            assert isinstance(worker.worker_id, int)
            machine = crew[worker.worker_id]
            expected = max(self.now, machine.free_at) if machine.batches else self.now
            self._check(worker.free_at == expected, f"{worker}, expected {expected}")
        self._check_keys(forecast, rows)
        self._check(0 <= forecast.drain_rate < inf, f"a drain rate of {forecast.drain_rate}")
        points = forecast.backlog
        self._check(list(points) == sorted(points), f"{points} are not in order")
        self._check((points[-1][2] if points else 0) == rows.total(), f"{points} do not count {rows.total()} rows")

    def _check_keys(self, forecast: Forecast, rows: Counter[object]) -> None:
        for key in forecast.keys:
            queued = rows[key.key, key.length]
            self._check(key.rows_queued == queued, f"{key}: {queued} rows wait")
            self._check(key.rows_max == self._cap([Arrived(0, key.key)]), f"{key}: the cap is another")
            self._check(key.known == (key.profile in self.given), f"{key}: is not known")
            rising = [seconds for _, seconds in sorted(key.points)]
            self._check(rising == sorted(rising), f"{key} falls")
        if rows and self.machines:
            self._check({(key.key, key.length) for key in forecast.keys} >= set(rows), f"{rows} are not all listed")

    def _check_empty(self) -> None:
        dispatcher, config = self.dispatcher, self.config
        backlog, fleet, tables = dispatcher._backlog, dispatcher._fleet, dispatcher._tables
        self._check(not (dispatcher._live or dispatcher._fresh or dispatcher._actions), "something is left")
        self._check(not (backlog.waiting or backlog._lengths) and backlog.rows == 0, "rows are left")
        self._check(all(not s.queue.lanes and s.queue.rows == 0 for s in backlog._idle.values()), "a lane is left")
        self._check(set(fleet._workers) == set(self.machines), "workers are left")
        self._check(fleet.idle == fleet.size == len(self.machines), "workers are miscounted")
        self._check(fleet.crew == fleet.profiles == Counter(m.profile for m in self.machines.values()), "profiles")
        shares = dispatcher._planner._timing._shares._shares
        for shelf in (backlog._idle, backlog._caps, tables._learned, tables._pools, shares):
            self._check(len(shelf) <= config.keys_max, f"{len(shelf)} keys are kept by {type(shelf)}")

    # Small words

    def _answer(self, request_id: int, answer: str) -> None:
        self._check(request_id not in self.answers, f"{request_id} is answered twice")
        self.answers[request_id] = answer

    def _idle(self) -> list[int]:
        return [worker for worker, m in self.machines.items() if not m.batches and not m.draining]

    def _starts_max(self, person: Person) -> int:
        own = person.arrived.starts_max
        return self.config.starts_max if own is None else own

    def _cap(self, requests: list[Arrived]) -> int:
        """A limit of 1 is no cap: its request runs alone."""
        rows, until = self.caps.get(requests[0].key, (self.config.max_batch_size, inf))
        limits = [request.batch_limit for request in requests if request.batch_limit not in (None, 1)]
        cap = min(self.config.max_batch_size, rows) if self.now < until else self.config.max_batch_size
        return min(cap, *(limit for limit in limits if limit is not None), cap)

    def _padded(self, rows: int, cap: int) -> int:
        """Slice by slice."""
        return sum(pad(min(cap, rows - begin), self.config.buckets) for begin in range(0, rows, cap))

    def _given_s(self, profile: str, rows: int, cap: int) -> float:
        buckets = self.config.buckets
        return sum(self._true_s(profile, pad(min(cap, rows - begin), buckets)) for begin in range(0, rows, cap))

    def _note(self, *what: Event | Action) -> None:
        if self.log is not None:
            self.log += [f"{self.now:.6f} {item}" for item in what]

    def _check(self, holds: bool, what: str) -> None:
        assert holds, f"seed {self.seed} at {self.now:.6f}: {what}"


def _ids(dispatch: Dispatch) -> list[int]:
    return [request_id for request_id in dispatch.request_ids if isinstance(request_id, int)]


def _is_wrong(event: Event) -> bool:
    match event:
        case Arrived():
            return event.rows < 1 or event.deadline != event.deadline or event.key == TWICE
        case WorkerJoined():
            return event.profile == TWICE
        case _:
            return False
