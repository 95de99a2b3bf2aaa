"""Who is shown what, as workers and brokers come and go: seats filled by hand, no process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from paceline.protocol.control import Host, LostHost, State
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.supervisor.pictures import Pictures
from paceline.supervisor.seat import API_SERVER, BROKER, WORKER, Occupant, Seat, seats_of

NET = RunnerSpec("net", "net", "1", "", "pytorch", "/store", (), workers=2, devices=("cpu",) * 2, dispatch="central")
ADD = RunnerSpec("add", "add", "1", "", "pytorch", "/store", (), workers=2, devices=("cpu",) * 2)
SPEC = ServeSpec((NET, ADD), HttpSpec(), "/run/p")


class Room:
    """Every seat taken and loading; `ready` and `change` tell the pictures as the crew does."""

    def __init__(self) -> None:
        self.seats = seats_of(SPEC)
        self.pictures = Pictures(SPEC, self.seats)
        for number, seat in enumerate(self.seats, 1):
            seat.fill(Occupant(cast(Any, None), bytes([number]) * 16, Path(f"s-{number}"), 0.0))

    def seat(self, kind: str, runner: str = "net", index: int = 0) -> Seat:
        return next(seat for seat in self.seats if (seat.kind, seat.runner, seat.index) == (kind, runner, index))

    def ready(self, kind: str, runner: str = "net", index: int = 0) -> Seat:
        seat = self.seat(kind, runner, index)
        if kind == BROKER:
            seat.address, seat.pool_address, seat.remote_address = (
                "ipc:///run/p/h-1",
                "ipc:///run/p/p-1",
                "tcp://h:7401",
            )
        elif runner == "add":
            seat.address = f"ipc:///run/p/h-add-{index}"
        seat.was_ready = True
        return self.change(seat, State.READY)

    def change(self, seat: Seat, state: State, stalled: str = "") -> Seat:
        seat.state, seat.stalled = state, stalled
        self.pictures.show(seat)
        return seat

    def dies(self, seat: Seat) -> LostHost:
        incarnation = incarnation_of(seat)
        seat.empty(State.STOPPED)
        lost = LostHost(seat.runner, incarnation, "killed", True, seat.kind != BROKER, ((b"o" * 16, 1),))
        self.pictures.lose(seat, lost)
        return lost

    def outside(self) -> list[Host]:
        return list(self.pictures.hosts.take().hosts)

    def pool(self) -> list[Host]:
        return list(self.pictures.pool("net").take().hosts)


def incarnation_of(seat: Seat) -> bytes:
    assert seat.occupant is not None
    return seat.occupant.incarnation


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_broker_is_ready_for_others_once_a_worker_is_too(room: Room) -> None:
    broker = room.ready(BROKER)
    host = Host("net", incarnation_of(broker), "ipc:///run/p/h-1", State.DRAINING)
    assert room.outside() == [host]
    room.ready(WORKER)
    assert [each.state for each in room.outside()] == [State.READY]
    assert [each.address for each in room.pictures.hosts.take_remote(b"c" * 16).hosts] == ["tcp://h:7401"]


def test_a_worker_that_is_ready_before_its_broker_shows_to_nobody_outside(room: Room) -> None:
    room.ready(WORKER)
    assert room.outside() == []
    room.ready(BROKER)
    assert [each.state for each in room.outside()] == [State.READY]


def test_a_broker_drains_for_others_while_no_worker_takes_requests(room: Room) -> None:
    room.ready(BROKER)
    first, second = room.ready(WORKER), room.ready(WORKER, index=1)
    room.change(first, State.READY, stalled="a batch runs for 3.0 s")
    assert [each.state for each in room.outside()] == [State.READY]
    room.dies(second)
    assert [each.state for each in room.outside()] == [State.DRAINING]
    room.change(first, State.READY)
    assert [each.state for each in room.outside()] == [State.READY]


def test_a_workers_departure_in_good_order_leaves_the_broker_without_hands(room: Room) -> None:
    room.ready(BROKER)
    worker = room.ready(WORKER)
    incarnation = incarnation_of(worker)
    worker.empty(State.STOPPED)
    room.pictures.remove(worker, incarnation)
    assert [each.state for each in room.outside()] == [State.DRAINING]
    assert [each.address for each in room.pool()] == ["ipc:///run/p/p-1"]
    assert room.pictures.pool("net").take().lost == ()


def test_the_pool_shows_where_to_join_and_who_is_there(room: Room) -> None:
    broker, worker = room.ready(BROKER), room.ready(WORKER, index=1)
    assert room.pool() == [
        Host("net", incarnation_of(broker), "ipc:///run/p/p-1", State.READY),
        Host("net", incarnation_of(worker), "", State.READY),
    ]
    room.change(worker, State.READY, stalled="a batch runs for 3.0 s")
    assert [each.state for each in room.pool()] == [State.READY, State.DRAINING]


def test_a_workers_death_is_the_business_of_its_pool_alone(room: Room) -> None:
    room.ready(BROKER)
    room.ready(WORKER)
    lost = room.dies(room.ready(WORKER, index=1))
    assert room.pictures.pool("net").take().lost == (lost,)
    assert room.pictures.hosts.take().lost == ()


def test_a_pool_hears_of_the_death_of_a_worker_that_was_never_ready(room: Room) -> None:
    """It joins before it says READY, and may have been given work when its word was still on the way."""
    lost = room.dies(room.seat(WORKER))
    assert room.pictures.pool("net").take().lost == (lost,)


def test_a_brokers_death_is_the_business_of_those_who_sent_to_it(room: Room) -> None:
    broker, worker = room.ready(BROKER), room.ready(WORKER)
    lost = room.dies(broker)
    assert (room.outside(), room.pictures.hosts.take().lost) == ([], (lost,))
    assert [each.incarnation for each in room.pool()] == [incarnation_of(worker)]
    assert room.pictures.pool("net").take().lost == ()
    room.dies(worker)
    assert room.outside() == []


def test_workers_with_queues_of_their_own_are_hosts_and_see_nobody(room: Room) -> None:
    worker = room.ready(WORKER, "add", 1)
    assert room.outside() == [Host("add", incarnation_of(worker), "ipc:///run/p/h-add-1", State.READY)]
    assert room.pictures.seen_by(worker) is None
    lost = room.dies(worker)
    assert (room.outside(), room.pictures.hosts.take().lost) == ([], (lost,))


def test_each_process_sees_its_own_picture(room: Room) -> None:
    pool = room.pictures.pool("net")
    assert room.pictures.seen_by(room.seat(API_SERVER, "")) is room.pictures.hosts
    assert room.pictures.seen_by(room.seat(BROKER)) is room.pictures.seen_by(room.seat(WORKER, index=1)) is pool


def test_only_what_changed_is_to_be_published(room: Room) -> None:
    hosts, pool = room.pictures.hosts, room.pictures.pool("net")
    for picture in room.pictures.changed():
        picture.told()
    assert room.pictures.changed() == []
    room.ready(WORKER)
    assert room.pictures.changed() == [pool]
    room.ready(WORKER, "add")
    assert room.pictures.changed() == [hosts, pool]


def test_an_api_server_is_in_no_picture(room: Room) -> None:
    before = [picture.take() for picture in (room.pictures.hosts, room.pictures.pool("net"))]
    server = room.ready(API_SERVER, "")
    room.dies(server)
    assert [picture.take() for picture in (room.pictures.hosts, room.pictures.pool("net"))] == before
