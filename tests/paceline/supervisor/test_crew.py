"""The crew on seats that are filled by hand: what it makes of what children say. No process is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from paceline.protocol.control import ChildState, State
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.supervisor.crew import AWAY_S, Crew
from paceline.supervisor.events import Event, Recovered
from paceline.supervisor.options import Programs
from paceline.supervisor.seat import API_SERVER, WORKER, Occupant, Seat

NOW = 100.0
SPEC = ServeSpec((RunnerSpec("net", "net", "1", "", "pytorch", "/store", ()),), HttpSpec(api_workers=2), "/run/p")


class FakeListeners:
    def __init__(self) -> None:
        self.away: set[int] = set()

    def set_away(self, index: int, away: bool) -> None:
        (self.away.add if away else self.away.discard)(index)


class FakeChild:
    pid = 1


class Room:
    def __init__(self) -> None:
        self.listeners = FakeListeners()
        self.events: list[Event] = []
        self.crew = Crew(
            SPEC,
            cast(Any, None),
            cast(Any, self.listeners),
            Programs(),
            self.events.append,
            lambda: None,
        )

    def seat(self, kind: str, index: int = 0) -> Seat:
        return next(seat for seat in self.crew.seats if (seat.kind, seat.index) == (kind, index))

    def filled(self, kind: str, index: int = 0) -> Seat:
        seat = self.seat(kind, index)
        seat.fill(Occupant(cast(Any, FakeChild()), kind.encode() + bytes([index]), Path("/run/p/s-1"), NOW))
        return seat

    def says(self, seat: Seat, state: State, address: str = "") -> None:
        assert seat.occupant is not None
        self.crew.heard(ChildState(seat.occupant.incarnation, state, address=address), NOW)


@pytest.fixture
def room() -> Room:
    return Room()


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
    assert [host.state for host in room.crew.picture.take().hosts] == ["draining"]


def test_what_an_earlier_process_of_the_seat_says_is_dropped(room: Room) -> None:
    worker = room.filled(WORKER)
    room.crew.heard(ChildState(b"an earlier one", State.READY, address="ipc:///run/p/h-0"), NOW)
    assert (worker.state, room.crew.picture.take().hosts) == (State.STARTING, ())
