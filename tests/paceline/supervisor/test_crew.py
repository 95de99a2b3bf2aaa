"""The crew on seats that are filled by hand: what it makes of what children say. No process is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paceline.protocol.control import ChildState, State
from paceline.protocol.slot import SlotView
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.supervisor.crew import AWAY_S, STOPPED_WITH_RUNNER, TORN_READS_MAX, Crew
from paceline.supervisor.events import ChildDied, ChildReady, Event, GivenUp, Recovered, Restarting, Served
from paceline.supervisor.options import Programs
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Occupant, Seat

NOW = 100.0
NET = RunnerSpec("net", "net", "1", "", "pytorch", "/store", ())
SPEC = ServeSpec((NET,), HttpSpec(api_workers=2), "/run/p")
POOLED = replace(SPEC, runners=(replace(NET, workers=2, devices=("cpu", "cpu"), dispatch="central"),))
RUN_DIR = Path("/run/p")


class FakeListeners:
    def __init__(self) -> None:
        self.away: set[int] = set()

    def set_away(self, index: int, away: bool) -> None:
        (self.away.add if away else self.away.discard)(index)


class FakeChild:
    pid = 1

    def __init__(self) -> None:
        self.output = SimpleNamespace(last_lines=(), read_rest=list)
        self.returncode: int | None = None

    def kill(self) -> None:
        if self.returncode is None:
            self.returncode = -9

    def has_exited(self) -> bool:
        return self.returncode is not None

    def bury(self) -> int:
        assert self.returncode is not None
        return self.returncode


class Room:
    """A crew whose seats are filled by hand. `log`: what it did to files and whom it told, in order; `slots`: what it
    reads, by the name of the file, one after the other."""

    def __init__(self, spec: ServeSpec) -> None:
        self.listeners = FakeListeners()
        self.events: list[Event] = []
        self.log: list[str] = []
        self.slots: dict[str, list[SlotView]] = {}
        run_dir = SimpleNamespace(path=RUN_DIR, forget=lambda file: self.log.append(f"remove {file.name}"))
        self.crew = Crew(
            spec,
            cast(Any, run_dir),
            cast(Any, self.listeners),
            Programs(),
            self.events.append,
            lambda: self.log.append("publish"),
        )

    def seat(self, kind: str, index: int = 0) -> Seat:
        return next(seat for seat in self.crew.seats if (seat.kind, seat.index) == (kind, index))

    def filled(self, kind: str, index: int = 0) -> Seat:
        seat = self.seat(kind, index)
        slot = RUN_DIR / f"s-{kind}-{index}"
        seat.fill(Occupant(cast(Any, FakeChild()), kind.encode() + bytes([index]), slot, NOW))
        return seat

    def says(self, seat: Seat, state: State, address: str = "", pool_address: str = "", detail: str = "") -> None:
        assert seat.occupant is not None
        said = ChildState(seat.occupant.incarnation, state, detail, address, pool_address=pool_address)
        self.crew.heard(said, NOW)

    def sees(self, server: Seat) -> None:
        """The API server goes by the present picture."""
        assert server.occupant is not None
        self.crew.seen(server.occupant.incarnation, self.crew.pictures.hosts.version)

    def broker(self) -> Seat:
        seat = self.filled(BROKER)
        self.says(seat, State.READY, "ipc:///run/p/h-1", "ipc:///run/p/p-1")
        return seat

    def worker(self, index: int) -> Seat:
        seat = self.filled(WORKER, index)
        self.says(seat, State.READY)
        return seat

    def dies(self, seat: Seat, returncode: int = -9) -> None:
        child_of(seat).returncode = returncode
        self.crew.bury(NOW)

    def reads(self, path: Path) -> SlotView | None:
        self.log.append(f"read {path.name}")
        views = self.slots.get(path.name)
        return None if not views else views.pop(0) if len(views) > 1 else views[0]


def child_of(seat: Seat) -> FakeChild:
    assert seat.occupant is not None
    return cast(FakeChild, seat.occupant.child)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return a_room(SPEC, monkeypatch)


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Room:
    """One runner with a broker and two workers."""
    return a_room(POOLED, monkeypatch)


def a_room(spec: ServeSpec, monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room(spec)
    monkeypatch.setattr("paceline.supervisor.crew.read_slot", room.reads)
    return room


@pytest.mark.parametrize(
    ("given_up", "due_in_s", "away"), [("5 deaths", None, {0}), ("", AWAY_S, {0}), ("", 0.1, set()), ("", None, set())]
)
def test_connections_of_a_server_that_died_while_none_was_ready_go_to_the_next_that_is(
    room: Room, given_up: str, due_in_s: float | None, away: set[int]
) -> None:
    dead, other = room.seat(API_SERVER, 0), room.filled(API_SERVER, 1)
    dead.given_up, dead.start_at = given_up, None if due_in_s is None else NOW + due_in_s
    room.says(other, State.READY)
    assert room.listeners.away == away


def test_a_stalled_worker_that_leaves_has_not_recovered(room: Room) -> None:
    worker = room.filled(WORKER)
    room.says(worker, State.READY, "ipc:///run/p/h-1")
    worker.stalled = "a batch runs for 3.0 s"
    room.says(worker, State.DRAINING)
    room.crew.watch(NOW + 1.0)
    assert not any(isinstance(event, Recovered) for event in room.events)
    assert [host.state for host in room.crew.pictures.hosts.take().hosts] == ["draining"]


def test_who_looks_for_hangs_reads_no_ids(pooled: Room) -> None:
    pooled.broker()
    pooled.worker(0)
    pooled.log.clear()
    pooled.crew.watch(NOW + 1.0)
    assert not [line for line in pooled.log if line.startswith("read")]


def test_what_an_earlier_process_of_the_seat_says_is_dropped(room: Room) -> None:
    worker = room.filled(WORKER)
    room.crew.heard(ChildState(b"an earlier one", State.READY, address="ipc:///run/p/h-0"), NOW)
    assert (worker.state, room.crew.pictures.hosts.take().hosts) == (State.STARTING, ())


BEGUN, RUNNING = (b"o" * 16, 1), (b"o" * 16, 2)


def slot(*started: tuple[bytes, int], known: bool = True) -> SlotView:
    return SlotView(1, 0, 0, 0, 1, 0, known, started[-1:], started)


def test_a_broker_is_started_and_told_of_like_others(pooled: Room) -> None:
    assert [seat.name for seat in pooled.crew.seats] == ["api/0", "api/1", "net/broker", "net/0", "net/1"]
    broker = pooled.broker()
    assert pooled.events == [ChildReady("broker", "net/broker", 1, "", 0.0)]
    pooled.dies(broker)
    assert [type(event) for event in pooled.events[1:]] == [ChildDied, Restarting]
    assert (broker.start_at, broker.restarts) == (NOW + 0.1, 1)


def test_at_a_brokers_burial_its_pool_socket_goes_before_slots_are_read_and_others_told(pooled: Room) -> None:
    broker = pooled.broker()
    pooled.worker(0), pooled.worker(1)
    pooled.slots = {"s-worker-0": [slot(BEGUN)], "s-worker-1": [slot(RUNNING)]}
    pooled.log.clear()
    pooled.dies(broker)
    at = [pooled.log.index(each) for each in ("remove p-1", "read s-worker-0", "read s-worker-1", "publish")]
    assert at == sorted(at)
    assert "remove h-1" in pooled.log
    (lost,) = pooled.crew.pictures.hosts.take().lost
    assert (lost.known, lost.suspects, lost.started) == (True, False, (BEGUN, RUNNING))


def test_a_slot_that_is_just_being_written_is_read_again(pooled: Room) -> None:
    broker = pooled.broker()
    pooled.worker(0)
    pooled.slots = {"s-worker-0": [slot(known=False), slot(known=False), slot(BEGUN)]}
    pooled.dies(broker)
    (lost,) = pooled.crew.pictures.hosts.take().lost
    assert (lost.known, lost.started) == (True, (BEGUN,))


def test_a_slot_that_stays_torn_leaves_everything_open(pooled: Room) -> None:
    broker = pooled.broker()
    pooled.worker(0)
    pooled.slots = {"s-worker-0": [slot(known=False)]}
    pooled.dies(broker)
    assert pooled.log.count("read s-worker-0") == TORN_READS_MAX
    (lost,) = pooled.crew.pictures.hosts.take().lost
    assert (lost.known, lost.started) == (False, ())


def test_what_a_worker_lost_before_the_broker_had_begun_is_begun(pooled: Room) -> None:
    broker = pooled.broker()
    pooled.slots = {"s-worker-0": [slot(BEGUN, RUNNING)]}
    pooled.dies(pooled.worker(0))
    (lost,) = pooled.crew.pictures.pool("net").take().lost
    assert (lost.suspects, lost.started) == (True, (BEGUN, RUNNING))
    pooled.dies(broker)
    (lost,) = pooled.crew.pictures.hosts.take().lost
    assert lost.started == (BEGUN, RUNNING)


def test_a_runner_is_up_with_its_broker_and_one_worker(pooled: Room) -> None:
    server = pooled.filled(API_SERVER)
    pooled.says(server, State.READY)
    pooled.worker(1)
    assert (pooled.crew.settled(), pooled.crew.served()) == (False, ())
    pooled.broker()
    pooled.sees(server)
    assert pooled.crew.settled()
    assert pooled.crew.served() == (Served("net", 2, 1, "central"),)


def test_a_server_is_up_when_every_ready_api_server_knows_of_its_runners(pooled: Room) -> None:
    server = pooled.filled(API_SERVER)
    pooled.says(server, State.READY)
    pooled.sees(server)
    pooled.worker(0)
    pooled.broker()
    assert not pooled.crew.settled()  # the picture with the broker in it is on its way
    pooled.sees(server)
    assert pooled.crew.settled()
    pooled.dies(server, returncode=-9)
    pooled.says(pooled.filled(API_SERVER), State.READY)
    assert not pooled.crew.settled()  # the successor has seen nothing


def test_without_its_broker_a_runner_is_lost_and_its_workers_end(pooled: Room) -> None:
    worker, waiting = pooled.worker(0), pooled.seat(WORKER, 1)
    child = child_of(worker)
    for _ in range(5):
        pooled.dies(pooled.broker(), returncode=1)
    assert [event.name for event in pooled.events if isinstance(event, GivenUp)] == ["net/broker"]
    pooled.crew.bury(NOW)
    assert child.returncode == -9
    assert (worker.dismissed, waiting.dismissed, waiting.start_at) == (True, True, None)
    assert (worker.occupant, worker.start_at, worker.last_death) == (None, None, STOPPED_WITH_RUNNER)
    assert not any(isinstance(event, ChildDied) and event.kind == WORKER for event in pooled.events)
    (failed,) = pooled.crew.pictures.hosts.take().failed
    assert "5 deaths" in failed.reason
    assert "net: 5 deaths" in pooled.crew.nothing_left()


def test_without_workers_a_runner_is_lost_and_its_broker_ends(pooled: Room) -> None:
    """So what it still holds is answered with the reason at once, not at its deadline."""
    broker = pooled.broker()
    for index in (0, 1):
        for _ in range(3):
            worker = pooled.filled(WORKER, index)
            pooled.says(worker, State.FAILED, detail="weights are missing")
            pooled.dies(worker, returncode=3)
    assert child_of(broker).returncode == -9
    assert [each.runner for each in pooled.crew.pictures.hosts.take().failed] == ["net"]
    assert pooled.crew.pictures.hosts.take().lost == ()
    pooled.crew.bury(NOW)
    assert len(pooled.crew.pictures.hosts.take().lost) == 1
    assert broker.start_at is None
    assert "weights are missing" in pooled.crew.nothing_left()


def test_a_service_without_runners_can_be_served() -> None:
    room = Room(ServeSpec((), HttpSpec(), str(RUN_DIR)))
    assert room.crew.nothing_left() == ""
    assert not room.crew.settled()
    server = room.filled(API_SERVER)
    room.says(server, State.READY)
    room.sees(server)
    assert room.crew.settled()
    assert room.crew.served() == ()
