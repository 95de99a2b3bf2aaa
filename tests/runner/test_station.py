"""A worker of a pool, on fakes and a virtual clock: joining, running what it is sent, brokers that die, leaving."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

import numpy as np
import pytest

from paceline.protocol import messages, pool
from paceline.protocol.control import Host, State, Topology
from paceline.protocol.errors import StartError
from paceline.protocol.messages import Answers, Infer
from paceline.protocol.pool import Done, Join, Leave, Observation, PoolMessage, Refused, Released, Work
from paceline.protocol.tensor import Buffer, Tensor
from paceline.runner import parcels
from paceline.runner.calls import DeviceBroken
from paceline.runner.station import Station
from tests.runner.host_fakes import ALICE, BOB, FakeEngine, FakeHand, Peers

JOIN = Join("cpu", "ab" * 32, (Observation("__call__", b"k", 1, 0.01),))
FIRST, SECOND = b"\x01" + b"1" * 15, b"\x01" + b"2" * 15  # brokers


class FakePipe:
    """The connection to one broker: what it sent waits in `inbound`."""

    def __init__(self) -> None:
        self.inbound: list[list[Buffer]] = []
        self.sent: list[PoolMessage] = []
        self.closed = False

    def drain(self) -> Iterator[list[Buffer]]:
        inbound, self.inbound = self.inbound, []
        yield from inbound

    def send(self, parts: Sequence[Buffer]) -> bool:
        self.sent.append(pool.decode(parts))
        return True

    def close(self) -> None:
        self.closed = True


class Bench(Peers):
    """A station with its fakes, and the brokers' and the supervisor's side of the conversation."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = FakeEngine(self.clock)
        self.hand = FakeHand()
        self.pipes: dict[str, FakePipe] = {}
        self.gone: set[str] = set()
        self.station: Station[FakePipe] = Station(
            self._connect, lambda address: address not in self.gone, JOIN, self.engine, self.hand, self.clock
        )
        self._version = 0

    def picture(self, *brokers: bytes, state: State = State.READY) -> None:
        """The supervisor shows the pool: these brokers and a worker."""
        self._version += 1
        shown = [Host("net", broker, address_of(broker), state) for broker in brokers]
        self.station.look(Topology(self._version, False, (*shown, Host("net", ALICE, "", State.READY)), (), ()))

    def work(self, batch_id: int, *infers: Infer, broker: bytes = FIRST, final: bool = True) -> None:
        rows = sum(item.rows for infer in infers for item in infer.items)
        self.say(Work(batch_id, final, rows, infers), broker)

    def say(self, message: PoolMessage, broker: bytes = FIRST) -> None:
        self.pipes[address_of(broker)].inbound.append(pool.encode(message))

    def settle(self) -> None:
        self.station.turn()
        while not self.station.finished and self.station.wake_at() <= self.clock.now():
            self.station.turn()

    def heard(self, broker: bytes = FIRST) -> list[PoolMessage]:
        """What this broker was sent."""
        return self.pipes[address_of(broker)].sent

    def dones(self, broker: bytes = FIRST) -> list[Done]:
        return [message for message in self.heard(broker) if isinstance(message, Done)]

    def _connect(self, address: str) -> FakePipe:
        self.pipes[address] = FakePipe()
        return self.pipes[address]


def address_of(broker: bytes) -> str:
    return f"ipc:///run/p-{broker.hex()}"


def joined() -> Bench:
    bench = Bench()
    bench.picture(FIRST)
    return bench


def answers_of(done: Done) -> dict[tuple[bytes, int], object]:
    """(origin, counter) -> first number of the result, or code of the failure."""
    got: dict[tuple[bytes, int], object] = {}
    for addressed in done.answers:
        answers = messages.decode(addressed.parts)
        assert isinstance(answers, Answers)
        assert answers.origin == addressed.origin
        for result in answers.results:
            tree = result.tree()
            assert isinstance(tree, Tensor)
            got[answers.origin, result.counter] = float(tree.numpy().flat[0])
        for failure in answers.failures:
            got[answers.origin, failure.counter] = failure.code
    return got


def test_worker_joins_the_ready_broker_of_the_picture_once() -> None:
    bench = Bench()
    assert bench.station.pipe is None
    bench.picture(FIRST, state=State.DRAINING)
    assert bench.pipes == {}
    for _ in range(2):
        bench.picture(FIRST)
    assert list(bench.pipes) == [address_of(FIRST)]
    assert bench.heard() == [JOIN]
    assert bench.station.pipe is bench.pipes[address_of(FIRST)]


def test_batch_runs_at_once_and_its_answers_go_back_together() -> None:
    bench = joined()
    bench.work(7, Infer(ALICE, (bench.item(1, 1.0), bench.item(2, -1.0))), Infer(BOB, (bench.item(1, 5.0),)))
    bench.settle()
    assert bench.engine.batches == [["r1", "r2", "r1"]]
    (done,) = bench.dones()
    assert (done.batch_id, done.final, done.learn, done.cap_rows) == (7, True, False, None)
    assert answers_of(done) == {(ALICE, 1): 2.0, (ALICE, 2): "model_rejected_input", (BOB, 1): 10.0}
    assert bench.hand.counters == (3, 1, 3)
    assert bench.hand.held == []


def test_result_says_how_large_the_batch_was_and_how_long_its_request_waited() -> None:
    bench = joined()
    item = bench.item(1)
    bench.clock.advance(0.25)
    bench.engine.seconds = lambda rows: 0.125
    bench.work(1, Infer(ALICE, (item,)))
    bench.settle()
    answers = messages.decode(bench.dones()[0].answers[0].parts)
    assert isinstance(answers, Answers)
    (result,) = answers.results
    assert (result.batch_rows, result.queue_us, result.run_us) == (1, 250_000, 125_000)


def test_batch_in_several_messages_runs_when_the_last_is_there() -> None:
    bench = joined()
    bench.work(1, Infer(ALICE, (bench.item(1),)), final=False)
    bench.settle()
    assert bench.engine.batches == []
    bench.work(1, Infer(ALICE, (bench.item(2),)))
    bench.settle()
    assert bench.engine.batches == [["r1", "r2"]]


def test_answers_that_one_message_does_not_hold_are_several_of_which_the_last_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parcels, "PARCEL_BYTES_CUT", 60)
    bench = joined()
    bench.work(1, *[Infer(origin, (bench.item(1, np.float32(1.0)),)) for origin in (ALICE, BOB)])
    bench.settle()
    assert [(done.final, len(done.answers)) for done in bench.dones()] == [(False, 1), (True, 1)]


def test_duration_counts_from_the_arrival_of_the_batch_or_the_end_of_the_one_before() -> None:
    bench = joined()
    bench.engine.seconds = lambda rows: 0.5
    bench.clock.advance(3.0)
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    bench.work(2, Infer(ALICE, (bench.item(2),)))
    bench.settle()
    bench.clock.advance(3.0)
    bench.work(3, Infer(ALICE, (bench.item(3),)))
    bench.settle()
    assert [done.duration_s for done in bench.dones()] == pytest.approx([0.5, 0.5, 0.5])


def test_batch_is_in_hand_before_its_brokers_socket_is_looked_for_and_until_its_answers_left() -> None:
    bench = joined()
    seen: list[tuple[str, list[tuple[bytes, int]]]] = []

    def exists(address: str) -> bool:
        seen.append((address, bench.hand.held))
        return True

    bench.station._exists = exists
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    bench.settle()
    assert seen == [(address_of(FIRST), [(ALICE, 1)])]


def test_bound_batch_does_not_run_when_the_brokers_socket_is_gone() -> None:
    bench = joined()
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    bench.work(2, Infer(ALICE, (bench.item(2),)))
    bench.engine.while_running = lambda: bench.gone.add(address_of(FIRST))
    bench.settle()
    assert bench.engine.batches == [["r1"]]
    assert bench.hand.held == []
    assert bench.pipes[address_of(FIRST)].closed
    assert bench.station.pipe is None


def test_successor_of_a_dead_broker_is_joined_and_nothing_of_the_old_one_runs() -> None:
    bench = joined()
    bench.work(1, Infer(ALICE, (bench.item(1),)), final=False)
    bench.settle()
    bench.work(2, Infer(ALICE, (bench.item(2),)))
    bench.picture()
    assert bench.station.pipe is None
    bench.picture(SECOND)
    assert bench.heard(SECOND) == [JOIN]
    bench.work(1, Infer(ALICE, (bench.item(3),)), broker=SECOND)
    bench.settle()
    assert bench.engine.batches == [["r3"]]
    assert len(bench.dones(SECOND)) == 1


def test_draining_broker_is_served_to_the_end() -> None:
    bench = joined()
    bench.picture(FIRST, state=State.DRAINING)
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    bench.settle()
    assert len(bench.dones()) == 1


def test_refused_worker_ends_with_the_brokers_reason() -> None:
    bench = joined()
    bench.say(Refused("it loaded the digest cd, the runner serves ab"))
    with pytest.raises(StartError, match="digest cd, the runner serves ab"):
        bench.settle()


def test_what_the_broker_sent_and_nobody_can_read_ends_the_worker() -> None:
    bench = joined()
    bench.pipes[address_of(FIRST)].inbound.append([b"\xc1"])
    with pytest.raises(StartError, match="cannot be read"):
        bench.settle()


def test_lost_device_answers_nothing_and_leaves_the_batch_in_hand() -> None:
    bench = joined()
    bench.engine.raises = DeviceBroken("device-side assert")
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    with pytest.raises(DeviceBroken):
        bench.settle()
    assert bench.dones() == []
    assert bench.hand.held == [(ALICE, 1)]


def test_leaving_worker_finishes_what_it_has_and_goes_when_released() -> None:
    bench = joined()
    bench.work(1, Infer(ALICE, (bench.item(1),)))
    bench.station.drain(10.0)
    bench.settle()
    assert [type(message) for message in bench.heard()] == [Join, Leave, Done]
    assert not bench.station.finished
    bench.work(2, Infer(ALICE, (bench.item(2),)))
    bench.say(Released())
    bench.settle()
    assert len(bench.dones()) == 2
    assert bench.station.finished


def test_leaving_worker_goes_when_its_broker_dies_and_joins_no_other() -> None:
    bench = joined()
    bench.station.drain(10.0)
    bench.settle()
    bench.picture(SECOND)
    bench.settle()
    assert bench.station.finished
    assert list(bench.pipes) == [address_of(FIRST)]


def test_worker_that_joined_nobody_goes_at_once() -> None:
    bench = Bench()
    bench.station.drain(10.0)
    assert bench.station.wake_at() == -inf
    bench.settle()
    assert bench.station.finished


def test_worker_that_is_never_released_goes_at_the_end_of_its_grace() -> None:
    bench = joined()
    bench.station.drain(1.0)
    bench.settle()
    assert bench.station.wake_at() == bench.clock.now() + 1.0
    bench.clock.advance(1.0)
    bench.settle()
    assert bench.station.finished


def test_idle_worker_sleeps() -> None:
    bench = joined()
    bench.settle()
    assert bench.station.wake_at() == inf
