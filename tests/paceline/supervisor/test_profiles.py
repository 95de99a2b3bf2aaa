"""Who is told what of a profile: seats filled by hand, a fake board, no process. And who asks where no server is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from paceline.protocol.channel import fresh_incarnation
from paceline.protocol.control import ControlMessage, ProfileDone, ProfileRequest, State, Trace
from paceline.protocol.errors import ModelNotFound, PacelineError, StartError
from paceline.protocol.slot import Slot
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.supervisor.profile import _sound, fetch_profile
from paceline.supervisor.profiles import Profiles
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.seat import WORKER, Occupant, Seat, seats_of

NET = RunnerSpec("net", "net", "1", "", "pytorch", "/store", (), workers=2, devices=("cpu", "cpu"))
SPEC = ServeSpec((NET,), HttpSpec(), "/run/p")
ASKER, OTHER = fresh_incarnation(), fresh_incarnation()


class Room:
    """Two ready workers, and what each peer was sent. Peers in `gone` cannot be reached."""

    def __init__(self, slots: Path) -> None:
        self.seats = [seat for seat in seats_of(SPEC) if seat.kind == WORKER]
        self.slots = slots
        self.sent: list[tuple[bytes, ControlMessage]] = []
        self.gone: set[bytes] = set()
        self.forgotten: list[Path] = []
        self.profiles = Profiles(SPEC, self.seats, self.send, self)
        for seat in self.seats:
            self.fill(seat)

    def fill(self, seat: Seat) -> bytes:
        occupant = Occupant(cast(Any, None), fresh_incarnation(), self.slots / f"s-{seat.index}", 0.0)
        seat.fill(occupant)
        seat.state = State.READY
        return occupant.incarnation

    def send(self, peer: bytes, message: ControlMessage) -> bool:
        if peer in self.gone:
            return False
        self.sent.append((peer, message))
        return True

    def fresh_trace(self) -> Path:
        return Path("/run/p/t-1.json")

    def forget(self, file: Path) -> None:
        self.forgotten.append(file)

    def worker(self, index: int) -> bytes:
        occupant = self.seats[index].occupant
        assert occupant is not None
        return occupant.incarnation

    def take(self) -> tuple[bytes, Any]:
        (only,), self.sent = self.sent, []
        return only


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def test_a_request_goes_to_the_worker_and_its_answer_back(room: Room) -> None:
    room.profiles.asked(ASKER, ProfileRequest("net", 1, 5.0))
    assert room.take() == (room.worker(1), Trace(5.0, "/run/p/t-1.json"))
    room.profiles.answered(room.worker(1), ProfileDone("/run/p/t-1.json", 5.1, 7))
    assert room.take() == (ASKER, ProfileDone("/run/p/t-1.json", 5.1, 7, worker="net/1"))
    assert room.forgotten == []
    room.profiles.answered(room.worker(1), ProfileDone("/run/p/t-1.json"))
    assert room.sent == []


def test_without_an_index_the_busiest_worker_is_meant(room: Room) -> None:
    Slot(room.slots / "s-1").count(9, 9, 9)
    room.profiles.asked(ASKER, ProfileRequest("net", None, 5.0))
    assert room.take()[0] == room.worker(1)


def test_a_worker_is_profiled_once_at_a_time_and_the_other_one_too(room: Room) -> None:
    room.profiles.asked(ASKER, ProfileRequest("net", 0, 5.0))
    room.take()
    room.profiles.asked(OTHER, ProfileRequest("net", 0, 5.0))
    peer, done = room.take()
    assert (peer, done.worker) == (OTHER, "net/0")
    assert "net/0 is being profiled already" in done.error
    room.profiles.asked(OTHER, ProfileRequest("net", 1, 5.0))
    assert room.take()[0] == room.worker(1)
    room.profiles.answered(room.worker(0), ProfileDone("/run/p/t-1.json"))
    assert room.take()[0] == ASKER


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (ProfileRequest("nte", 0, 5.0), "model_not_found", 'Did you mean "net"?'),
        (ProfileRequest("net", 2, 5.0), "model_not_found", "it has worker 0 to 1"),
        (ProfileRequest("net", 0, 0.01), "invalid_parameter", "expected 0.1 to 60 seconds"),
        (ProfileRequest("net", 0, 61.0), "invalid_parameter", "expected 0.1 to 60 seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_its_code(room: Room, request_: ProfileRequest, code: str, text: str) -> None:
    room.profiles.asked(ASKER, request_)
    peer, done = room.take()
    assert (peer, done.code) == (ASKER, code)
    assert text in done.error


def test_a_worker_that_is_not_ready_is_not_profiled(room: Room) -> None:
    for seat in room.seats:
        seat.state = State.WARMING
    room.profiles.asked(ASKER, ProfileRequest("net", None, 5.0))
    assert room.take()[1].code == "no_worker"


def test_a_worker_that_cannot_be_reached_is_said(room: Room) -> None:
    room.gone = {room.worker(0)}
    room.profiles.asked(ASKER, ProfileRequest("net", 0, 5.0))
    assert room.take()[1].code == "worker_lost"


@pytest.mark.parametrize("has_successor", [False, True])
def test_who_waits_for_a_dead_worker_hears_of_it_at_once(room: Room, has_successor: bool) -> None:
    room.profiles.asked(ASKER, ProfileRequest("net", 0, 5.0))
    room.take()
    room.profiles.bury()
    assert room.sent == []
    seat = room.seats[0]
    seat.empty(State.STOPPED)
    seat.last_death = "killed by SIGSEGV"
    if has_successor:
        room.fill(seat)
    room.profiles.bury()
    peer, done = room.take()
    assert (peer, done.code, done.worker) == (ASKER, "worker_lost", "net/0")
    assert done.error == "net/0 ended while it was being profiled: killed by SIGSEGV"
    assert room.forgotten == [Path("/run/p/t-1.json")]
    room.profiles.bury()
    assert room.sent == []


def test_a_trace_that_nobody_waits_for_any_more_is_removed(room: Room) -> None:
    room.profiles.asked(ASKER, ProfileRequest("net", 0, 5.0))
    room.gone = {ASKER}
    room.profiles.answered(room.worker(0), ProfileDone("/run/p/t-1.json"))
    assert room.forgotten == [Path("/run/p/t-1.json")]


def test_run_directory_removes_traces(run_dir: Path) -> None:
    with RunDir.acquire(run_dir) as mine:
        trace, left = mine.fresh_trace(), mine.fresh_trace()
        trace.touch()
        left.touch()
        mine.forget(trace)
        assert not trace.exists()
    assert not run_dir.exists()


def test_asking_where_no_server_lives_or_answers_is_a_clear_error(run_dir: Path) -> None:
    with pytest.raises(StartError, match="no server runs in"):
        fetch_profile(run_dir, ProfileRequest("net", None, 5.0))
    with RunDir.acquire(run_dir), pytest.raises(StartError, match=r"did not answer within 0\.15 s"):
        fetch_profile(run_dir, ProfileRequest("net", None, 0.1), patience_s=0.05)


def test_refusals_are_raised_as_the_errors_of_their_codes() -> None:
    with pytest.raises(ModelNotFound, match="not served"):
        _sound(ProfileDone(error="not served", code="model_not_found"))
    with pytest.raises(PacelineError, match="being profiled already"):
        _sound(ProfileDone(error="being profiled already"))
    assert _sound(ProfileDone("/run/p/t-1.json")) == ProfileDone("/run/p/t-1.json")
