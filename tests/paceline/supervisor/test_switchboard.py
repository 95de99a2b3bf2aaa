"""Who is told what: peers of this machine and of others, on fake sockets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paceline.protocol import control
from paceline.protocol.channel import fresh_incarnation
from paceline.protocol.control import (
    ChildState,
    ControlMessage,
    Hello,
    Host,
    State,
    StatusRequest,
    Topology,
    Welcome,
)
from paceline.protocol.spec import HttpSpec, NativeSpec, RunnerSpec, ServeSpec, decode_serve
from paceline.supervisor import switchboard
from paceline.supervisor.switchboard import Switchboard
from paceline.supervisor.topology import Picture

RUNNER = RunnerSpec("net", "net", "1", "", "pytorch", "/store", ())
SPEC = ServeSpec((RUNNER,), HttpSpec(), "/run/p", NativeSpec("tcp://0.0.0.0:7400", "/keys"))
WORKER = fresh_incarnation()
HERE, THERE = fresh_incarnation(), fresh_incarnation(remote=True)


class FakeSocket:
    address = "tcp://0.0.0.0:7400"

    def __init__(self) -> None:
        self.inbound: list[tuple[bytes, Any]] = []
        self.sent: list[tuple[bytes, ControlMessage]] = []
        self.gone: set[bytes] = set()

    def drain(self) -> list[tuple[bytes, Any]]:
        inbound, self.inbound = self.inbound, []
        return inbound

    def send(self, peer: bytes, parts: Any) -> bool:
        if peer in self.gone:
            return False
        self.sent.append((peer, control.decode(parts)))
        return True


class Room:
    """A switchboard on two fake sockets, and a picture with one host that both kinds of peers reach."""

    def __init__(self) -> None:
        self.local, self.remote = FakeSocket(), FakeSocket()
        self.board = Switchboard(self.local, self.remote)  # type: ignore[arg-type]  # all that it needs
        self.board.renew(SPEC)
        self.picture = Picture()
        self.picture.put(Host("net", WORKER, "ipc:///run/p/h-1", State.READY), "tcp://0.0.0.0:7401")


@pytest.fixture
def room() -> Room:
    return Room()


def said(socket: FakeSocket, *messages: tuple[bytes, ControlMessage]) -> None:
    socket.inbound += [(peer, control.encode(message)) for peer, message in messages]


def hello(peer: bytes, kind: str = "client") -> Hello:
    return Hello(kind, "", 0, peer, 1)


def test_each_client_gets_the_welcome_and_the_picture_of_its_side(room: Room) -> None:
    room.board.subscribe(HERE, True, room.picture)
    room.board.subscribe(THERE, True, room.picture)
    for socket, peer, serve, address in (
        (room.local, HERE, SPEC, "ipc:///run/p/h-1"),
        (room.remote, THERE, SPEC.for_remote(), "tcp://0.0.0.0:7401"),
    ):
        (to, welcome), (also_to, topology) = socket.sent
        assert to == also_to == peer
        assert isinstance(welcome, Welcome)
        assert decode_serve(welcome.serve) == serve
        assert isinstance(topology, Topology)
        assert [host.address for host in topology.hosts] == [address]


def test_news_go_to_all_who_are_there(room: Room) -> None:
    for peer in (HERE, THERE):
        room.board.subscribe(peer, True, room.picture)
    room.picture.drain()
    room.board.publish(room.picture)
    room.remote.gone = {THERE}
    room.board.publish(room.picture)
    room.remote.gone.clear()
    room.board.publish(room.picture)
    assert (len(room.local.sent), len(room.remote.sent)) == (2 + 3, 2 + 1)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("newcomer_remote", [False, True], ids=["local newcomer", "remote newcomer"])
def test_a_newcomer_does_not_take_the_news_from_those_who_were_there(
    room: Room, remote: bool, newcomer_remote: bool
) -> None:
    earlier, socket = fresh_incarnation(remote=remote), room.remote if remote else room.local
    room.board.subscribe(earlier, True, room.picture)
    room.board.publish(room.picture)
    socket.sent.clear()
    # In one pass of the loop: a worker says READY, then somebody else Hello.
    room.picture.put(Host("net", fresh_incarnation(), "ipc:///run/p/h-2", State.READY), "tcp://0.0.0.0:7402")
    room.board.subscribe(fresh_incarnation(remote=newcomer_remote), True, room.picture)
    assert room.picture.changed
    room.board.publish(room.picture)
    (news,) = [message for peer, message in socket.sent if peer == earlier]
    assert isinstance(news, Topology)
    assert (news.version, len(news.hosts)) == (room.picture.take().version, 2)
    assert not room.picture.changed


def test_what_changes_after_a_newcomers_snapshot_has_a_version_that_it_does_not_know(room: Room) -> None:
    room.board.subscribe(HERE, True, room.picture)
    room.picture.put(Host("net", fresh_incarnation(), "ipc:///run/p/h-2", State.READY))
    room.board.publish(room.picture)
    first, second = [message for _, message in room.local.sent if isinstance(message, Topology)]
    assert (second.version > first.version, len(second.hosts)) == (True, 2)


@pytest.mark.parametrize(
    "message",
    [
        hello(THERE, "worker"),
        hello(THERE, "api_server"),
        ChildState(THERE, State.READY, address="tcp://evil:1"),
        StatusRequest(),
        Topology(99, False, (), (), ()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_another_machine_may_say_hello_as_a_client_and_nothing_else(room: Room, message: ControlMessage) -> None:
    said(room.remote, (THERE, message), (THERE, hello(THERE)))
    assert list(room.board.messages()) == [(THERE, hello(THERE))]
    said(room.local, (HERE, StatusRequest()))
    assert list(room.board.messages()) == [(HERE, StatusRequest())]


def test_clients_are_bounded_wherever_they_are(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switchboard, "CLIENTS_MAX", 2)
    peers = [fresh_incarnation(remote=bool(number % 2)) for number in range(4)]
    for peer in peers:
        room.board.subscribe(peer, True, room.picture)
    room.local.sent.clear()
    room.remote.sent.clear()
    room.board.publish(room.picture)
    assert [peer for peer, _ in room.local.sent + room.remote.sent] == peers[2:]


def test_without_the_second_socket_there_is_no_remote_address() -> None:
    local = FakeSocket()
    board = Switchboard(local)  # type: ignore[arg-type]
    board.renew(SPEC)
    assert (board.remote_address, len(board.sockets)) == ("", 1)
    assert Room().board.remote_address == "tcp://0.0.0.0:7400"


def test_a_picture_goes_to_its_own_subscribers_only(room: Room) -> None:
    pool, worker = Picture(), fresh_incarnation()
    room.board.subscribe(HERE, True, room.picture)
    room.board.subscribe(worker, False, pool)
    room.local.sent.clear()
    pool.put(Host("net", WORKER, "", State.READY))
    room.board.publish(pool)
    assert [peer for peer, _ in room.local.sent] == [worker]
    room.board.publish(room.picture)
    assert [peer for peer, _ in room.local.sent] == [worker, HERE]


def test_what_is_served_anew_is_told_to_clients_alone(room: Room) -> None:
    child = fresh_incarnation()
    for peer, is_client in ((HERE, True), (child, False), (THERE, True)):
        room.board.subscribe(peer, is_client, room.picture)
    room.local.sent.clear()
    room.remote.sent.clear()
    other, picture = replace(SPEC, runners=()), Picture()
    room.board.renew(other)
    room.board.welcome_again(picture)
    for socket, peer, serve in ((room.local, HERE, other), (room.remote, THERE, other.for_remote())):
        (to, welcome), (also_to, topology) = socket.sent
        assert to == also_to == peer
        assert isinstance(welcome, Welcome)
        assert decode_serve(welcome.serve) == serve
        assert isinstance(topology, Topology)
        assert topology.hosts == ()
