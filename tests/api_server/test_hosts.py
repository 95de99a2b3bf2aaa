"""Hosts on a virtual clock with fake connections: batching of a tick, deadlines, cancels, deaths."""

from __future__ import annotations

from typing import Any, cast

import pytest

from paceline.protocol import dtypes
from paceline.protocol.control import FailedRunner, LostHost
from paceline.protocol.errors import (
    DeadlineExceeded,
    Draining,
    ModelError,
    NoWorker,
    QueueFull,
    RequestError,
    WorkerLost,
)
from paceline.protocol.hosts import Hosts
from paceline.protocol.measure import Measure
from paceline.protocol.messages import Failure, Forecast, Result, encode
from paceline.protocol.spec import RunnerSpec
from paceline.protocol.tensor import Tensor
from tests.api_server.world import (
    HOST,
    OPEN,
    ORIGIN,
    OTHER_HOST,
    FakeHosts,
    FakePipe,
    VirtualLoop,
    echo,
    runner,
    serve,
    topology,
    up,
)


class Waiting:
    """A waiter that keeps what it got and when."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.answers: list[Result | RequestError] = []
        self.at: list[float] = []

    def answered(self, result: Result) -> None:
        self._keep(result)

    def failed(self, error: RequestError) -> None:
        self._keep(error)

    def _keep(self, answer: Result | RequestError) -> None:
        self.answers.append(answer)
        self.at.append(self._world.loop.clock.now())

    @property
    def error(self) -> RequestError:
        assert len(self.answers) == 1
        assert isinstance(self.answers[0], RequestError)
        return self.answers[0]


class World:
    def __init__(self, *runners: RunnerSpec, origin: bytes = ORIGIN, **http: Any) -> None:
        self.loop = VirtualLoop()
        self.fake = FakeHosts(reply=None)
        self.hosts = Hosts(serve(*runners, **http), origin, cast(Any, self.loop), self.fake, self.loop.clock)

    def submit(
        self, budget_s: float = 10.0, nbytes: int = 4, data: bytes = b"\0\0\0\0", rows: int = 1
    ) -> tuple[int, Waiting]:
        waiting = Waiting(self)
        tensor = Tensor(dtypes.F32, (1, len(data) // 4), data)
        counter = self.hosts.submit(
            "net",
            OPEN,
            (tensor,),
            {},
            measured=Measure(b"k", rows),
            nbytes=nbytes,
            budget_s=budget_s,
            priority=0,
            request_id="r",
            traceparent="",
            waiter=waiting,
        )
        return counter, waiting

    def up(self, version: int = 1, *incarnations: bytes) -> FakePipe:
        self.hosts.apply(topology(version, *[up(i) for i in incarnations or (HOST,)]))
        self.loop.tick()
        return self.fake.pipes[-1]


def test_requests_of_one_tick_leave_in_one_message() -> None:
    world = World()
    pipe = world.up()
    for _ in range(5):
        world.submit()
    assert pipe.inferred == []
    world.loop.tick()
    assert [len(message.items) for message in pipe.inferred] == [5]


def test_a_message_is_cut_at_64_requests() -> None:
    world = World()
    pipe = world.up()
    for _ in range(130):
        world.submit()
    world.loop.tick()
    assert [len(message.items) for message in pipe.inferred] == [64, 64, 2]


def test_a_message_is_cut_at_a_megabyte_and_a_larger_request_goes_alone() -> None:
    world = World()
    pipe = world.up()
    for size in (400_000, 400_000, 400_000, 3_000_000):
        world.submit(nbytes=size, data=bytes(size))
    world.loop.tick()
    assert [len(message.items) for message in pipe.inferred] == [2, 1, 1]
    assert [item.counter for item in pipe.items] == [1, 2, 3, 4]


def test_an_answer_reaches_its_waiter_once_and_a_late_one_nobody() -> None:
    world = World()
    pipe = world.up()
    _, waiting = world.submit()
    world.loop.tick()
    answer = echo(pipe.items[0])
    pipe.answer([answer])
    pipe.answer([answer])
    assert len(waiting.answers) == 1
    assert world.hosts.counters.late == 1


def test_a_failure_becomes_its_error() -> None:
    world = World()
    pipe = world.up()
    counter, waiting = world.submit()
    world.loop.tick()
    pipe.answer([Failure(counter, 0, "model_error", "boom", 2.0)])
    assert isinstance(waiting.error, ModelError)
    assert waiting.error.retry_after_s == 2.0


def test_the_deadline_is_answered_within_25_ms_when_no_host_ever_answers() -> None:
    world = World()
    world.up()
    started = world.loop.clock.now()
    waits = [world.submit(budget_s=budget)[1] for budget in (1.0, 0.05, 0.2)]
    world.loop.advance(2.0)
    for waiting, budget in zip(waits, (1.0, 0.05, 0.2)):
        assert isinstance(waiting.error, DeadlineExceeded)
        assert 0 <= waiting.at[0] - started - budget <= 0.025


def test_the_deadline_is_answered_when_there_is_no_host_at_all() -> None:
    world = World()
    _, waiting = world.submit(budget_s=0.1)
    world.loop.advance(0.125)
    assert isinstance(waiting.error, DeadlineExceeded)


def test_an_expired_request_is_cancelled_at_its_host() -> None:
    world = World()
    pipe = world.up()
    counter, _ = world.submit(budget_s=0.1)
    world.loop.advance(0.2)
    assert pipe.cancelled == [counter]


def test_cancels_of_one_tick_leave_in_one_message_and_the_waiters_hear_nothing() -> None:
    world = World()
    pipe = world.up()
    pairs = [world.submit() for _ in range(3)]
    world.loop.tick()
    for counter, _ in pairs:
        world.hosts.cancel(counter)
    world.loop.tick()
    assert pipe.cancelled == [counter for counter, _ in pairs]
    assert all(waiting.answers == [] for _, waiting in pairs)
    assert len(world.hosts) == 0


def test_a_request_cancelled_before_it_left_is_never_sent() -> None:
    world = World()
    pipe = world.up()
    counter, _ = world.submit()
    world.hosts.cancel(counter)
    world.loop.tick()
    assert pipe.items == []


def test_requests_wait_for_a_host_and_go_to_it_when_it_is_up() -> None:
    world = World()
    world.submit()
    world.loop.tick()
    assert len(world.up().items) == 1


def test_a_lost_hosts_requests_go_to_the_next_with_their_starts_counted() -> None:
    world = World()
    world.up()
    started, _ = world.submit()
    world.submit()
    world.loop.tick()
    lost = LostHost("net", HOST, "signal 9", True, True, ((ORIGIN, started), (b"\x01" + b"x" * 15, 2)))
    world.hosts.apply(topology(2, up(OTHER_HOST), lost=(lost,)))
    world.loop.tick()
    first, second = world.fake.pipes
    assert first.closed
    assert [(item.counter, item.starts, item.attempt) for item in second.items] == [(1, 1, 1), (2, 0, 1)]


def test_what_had_arrived_from_a_host_that_died_is_an_answer_and_not_run_again() -> None:
    world = World()
    pipe = world.up()
    answered, done = world.submit()
    _, waiting = world.submit()
    world.loop.tick()
    pipe.arrived = [echo(pipe.items[0])]
    lost = LostHost("net", HOST, "signal 9", True, True, ((ORIGIN, answered),))
    world.hosts.apply(topology(2, up(OTHER_HOST), lost=(lost,)))
    world.loop.tick()
    assert [type(answer) for answer in done.answers] == [Result]
    assert waiting.answers == []
    assert [(item.counter, item.starts) for item in world.fake.pipes[1].items] == [(2, 0)]


def test_a_request_that_was_started_twice_fails_as_worker_lost() -> None:
    world = World()
    world.up()
    _, waiting = world.submit()
    world.loop.tick()
    world.hosts.apply(topology(2, up(OTHER_HOST), lost=(LostHost("net", HOST, "oom", False, True, ()),)))
    world.loop.tick()
    world.hosts.apply(topology(3, lost=(LostHost("net", OTHER_HOST, "oom", False, True, ()),)))
    assert isinstance(waiting.error, WorkerLost)


def test_an_older_snapshot_is_ignored() -> None:
    world = World()
    world.up(5)
    world.hosts.apply(topology(4))
    assert world.hosts.ready("net")


def test_a_draining_host_gets_nothing_new_and_still_answers() -> None:
    world = World()
    pipe = world.up()
    _, waiting = world.submit()
    world.loop.tick()
    world.hosts.apply(topology(2, up(state="draining")))
    world.submit()
    world.loop.tick()
    assert len(pipe.items) == 1
    assert not world.hosts.ready("net")
    pipe.answer([echo(pipe.items[0])])
    assert len(waiting.answers) == 1


def test_a_host_that_is_ready_again_after_draining_gets_what_waited() -> None:
    world = World()
    pipe = world.up()
    world.hosts.apply(topology(2, up(state="draining")))
    world.submit()
    world.loop.tick()
    assert pipe.items == []
    world.hosts.apply(topology(3, up()))
    world.loop.tick()
    assert world.hosts.ready("net")
    assert len(world.fake.pipes) == 1
    assert len(pipe.items) == 1


def test_what_a_stopping_worker_refuses_goes_to_its_successor() -> None:
    world = World()
    pipe = world.up()
    waits = [world.submit()[1] for _ in range(3)]
    world.loop.tick()
    pipe.answer([echo(pipe.items[0]), *[Failure(i.counter, i.attempt, "draining", "") for i in pipe.items[1:]]])
    world.submit()
    world.loop.tick()
    assert not world.hosts.ready("net")
    assert len(pipe.items) == 3
    assert [len(waiting.answers) for waiting in waits] == [1, 0, 0]
    world.hosts.apply(topology(2, up(state="draining"), up(OTHER_HOST)))
    world.loop.tick()
    successor = world.fake.pipes[1]
    assert [(i.counter, i.attempt, i.starts) for i in successor.items] == [(2, 1, 0), (3, 1, 0), (4, 0, 0)]
    successor.answer([echo(i) for i in successor.items])
    assert [len(waiting.answers) for waiting in waits] == [1, 1, 1]


def test_what_a_stopping_worker_refuses_is_still_answered_at_its_deadline() -> None:
    world = World()
    pipe = world.up()
    counter, waiting = world.submit(budget_s=0.1)
    world.loop.tick()
    pipe.answer([Failure(counter, 0, "draining", "")])
    world.loop.advance(0.125)
    assert isinstance(waiting.error, DeadlineExceeded)


def test_what_a_worker_refuses_while_the_server_drains_too_is_refused() -> None:
    world = World()
    pipe = world.up()
    counter, waiting = world.submit()
    world.loop.tick()
    world.hosts.draining = True
    pipe.answer([Failure(counter, 0, "draining", "")])
    assert isinstance(waiting.error, Draining)


def test_a_host_that_left_without_a_word_counts_as_lost() -> None:
    world = World()
    pipe = world.up()
    world.submit()
    world.loop.tick()
    world.hosts.apply(topology(2, up(OTHER_HOST)))
    world.loop.tick()
    assert pipe.closed
    assert len(world.fake.pipes[1].items) == 1


def test_a_failed_runner_answers_what_waits_and_refuses_what_comes() -> None:
    world = World()
    _, waiting = world.submit()
    world.hosts.apply(topology(1, failed=(FailedRunner("net", "crashed 5 times"),)))
    assert isinstance(waiting.error, NoWorker)
    with pytest.raises(NoWorker):
        world.submit()


def test_draining_refuses_new_requests_and_is_not_ready() -> None:
    world = World()
    world.up()
    world.hosts.draining = True
    assert not world.hosts.all_ready()
    with pytest.raises(Draining):
        world.submit()


def test_the_end_of_the_grace_answers_what_is_open_with_draining() -> None:
    world = World()
    world.up()
    _, waiting = world.submit()
    world.hosts.fail_all("stopped")
    assert isinstance(waiting.error, Draining)


def test_a_full_pipe_keeps_the_requests_and_sends_them_later_in_order() -> None:
    world = World()
    pipe = world.up()
    pipe.accepts = False
    for _ in range(3):
        world.submit()
    world.loop.tick()
    pipe.accepts = True
    world.loop.advance(0.1)
    assert [item.counter for item in pipe.items] == [1, 2, 3]


def test_a_cancel_that_the_pipe_refused_is_sent_later() -> None:
    world = World()
    pipe = world.up()
    counter, _ = world.submit()
    world.loop.tick()
    pipe.accepts = False
    world.hosts.cancel(counter)
    world.loop.tick()
    pipe.accepts = True
    world.loop.advance(0.1)
    assert pipe.cancelled == [counter]


def test_the_window_bounds_what_is_sent_and_an_answer_makes_room() -> None:
    world = World(window_requests=2)
    pipe = world.up()
    for _ in range(3):
        world.submit()
    world.loop.tick()
    assert [item.counter for item in pipe.items] == [1, 2]
    pipe.answer([echo(pipe.items[0])])
    world.loop.tick()
    assert [item.counter for item in pipe.items] == [1, 2, 3]


@pytest.mark.parametrize(("dispatch", "sent"), [("central", 6), ("worker", 2)])
def test_the_window_of_a_broker_is_that_of_its_workers(dispatch: str, sent: int) -> None:
    world = World(runner(workers=3, dispatch=dispatch), window_requests=2)
    pipe = world.up()
    for _ in range(9):
        world.submit()
    world.loop.tick()
    assert len(pipe.items) == sent


def test_a_full_queue_says_when_to_come_back_by_the_hosts_own_rate() -> None:
    world = World(window_requests=1, pending_requests=3)
    pipe = world.up()
    pipe.on_message(encode(Forecast(0, 47, 10.0)))
    world.submit()
    world.loop.tick()
    for _ in range(3):
        world.submit()
    with pytest.raises(QueueFull) as refused:
        world.submit()
    assert refused.value.retry_after_s == pytest.approx(5.0)


def test_a_message_that_is_not_one_is_dropped() -> None:
    world = World()
    pipe = world.up()
    _, waiting = world.submit()
    world.loop.tick()
    pipe.on_message([b"garbage"])
    pipe.answer([echo(pipe.items[0])])
    assert len(waiting.answers) == 1
