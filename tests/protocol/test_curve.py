"""Sockets over tcp with CURVE, in one process: who gets in, who does not, and who is put out again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paceline.protocol import curve
from paceline.protocol.channel import Channels, ClientSocket, fresh_incarnation, wait
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import StartError
from paceline.protocol.key_folder import admit, create, revoke
from paceline.protocol.keys import ClientKeys, load_client, load_server

ANY_PORT = "tcp://127.0.0.1:0"


class Door:
    """A server with its key folder, and clients of it in another context, as in another process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        create(folder)
        self.here, self.there = Channels(), Channels()
        self.server = self.here.bind_remote(ANY_PORT, load_server(folder))
        self.heard: list[object] = []

    def keys(self, name: str) -> ClientKeys:
        return load_client(admit(self.folder, name))

    def connect(self, keys: ClientKeys, identity: bytes | None = None, **options: bool) -> ClientSocket:
        identity = identity or fresh_incarnation(remote=True)
        return self.there.connect_remote(self.server.address, identity, keys, **options)

    def hears(self, client: ClientSocket, text: bytes) -> None:
        """Wait until the server hears `text` from `client`, which says it again and again."""

        def is_heard() -> bool:
            client.send([text])
            wait([self.server], 0.02)
            new = [parts[0] for _, parts in self.server.drain()]
            self.heard += new
            return text in new

        until(is_heard)

    def revoke(self, name: str, keys: ClientKeys) -> None:
        """Wait until the gate knows of it."""
        revoke(self.folder, name)
        gate = self.here._gate
        assert gate is not None
        until(lambda: not gate.allows(keys.pair.public))

    def close(self) -> None:
        self.there.close()
        self.here.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path / "keys")
    yield door
    door.close()


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = SystemClock.now() + timeout_s
    pause = threading.Event()
    while not condition():
        assert SystemClock.now() < end, "the condition was not met in time"
        pause.wait(0.005)


def test_an_allowed_client_speaks_both_ways_with_large_parts(door: Door) -> None:
    identity, large = fresh_incarnation(remote=True), bytes(5_000_000)
    client = door.connect(door.keys("alice"), identity)
    assert client.send([b"head", large])
    assert wait([door.server], 5)
    peer, parts = door.server.receive() or (b"", [])
    assert (peer, [bytes(part) for part in parts]) == (identity, [b"head", large])
    assert door.server.send(identity, [b"answer", large])
    assert wait([client], 5)
    assert [bytes(part) for part in client.receive() or []] == [b"answer", large]


def test_a_client_that_is_not_allowed_is_refused_and_logged_once(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    keys = door.keys("alice")
    revoke(door.folder, "alice")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            client = door.connect(keys)
            assert client.send([b"x"])
        until(lambda: caplog.records)
        door.hears(door.connect(door.keys("bob")), b"good")
    (record,) = caplog.records
    assert record.getMessage() == "client key refused"
    assert record.__dict__["key"] == keys.pair.public.decode()
    assert keys.pair.secret.decode() not in str(record.__dict__)
    assert set(door.heard) == {b"good"}


def test_a_client_of_another_server_is_refused(door: Door, tmp_path: Path) -> None:
    create(tmp_path / "other")
    door.connect(load_client(admit(tmp_path / "other", "alice"))).send([b"x"])
    door.hears(door.connect(door.keys("bob")), b"good")
    assert set(door.heard) == {b"good"}


def test_without_curve_nobody_gets_in(door: Door) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.set(zmq.LINGER, 0)
        plain.set(zmq.IDENTITY, fresh_incarnation(remote=True))
        plain.connect(door.server.address)
        plain.send(b"x")
        door.hears(door.connect(door.keys("bob")), b"good")
    assert set(door.heard) == {b"good"}


def test_a_revoked_key_is_not_heard_although_it_is_in(door: Door) -> None:
    keys = door.keys("alice")
    alice, bob = door.connect(keys), door.connect(door.keys("bob"))
    door.hears(alice, b"before")
    door.hears(bob, b"bob")
    door.revoke("alice", keys)
    for _ in range(3):
        assert alice.send([b"after"])
        door.hears(bob, b"bob")
    assert set(door.heard) == {b"before", b"bob"}


def test_a_new_key_under_an_old_name_does_not_keep_the_old_one_in(door: Door) -> None:
    keys = door.keys("alice")
    old = door.connect(keys)
    door.hears(old, b"before")
    door.revoke("alice", keys)
    new = door.connect(door.keys("alice"))
    for _ in range(3):
        assert old.send([b"after"])
        door.hears(new, b"new")
    assert set(door.heard) == {b"before", b"new"}


@pytest.mark.parametrize("identity", [b"\x01" * 16, b"\x02short", b"\x02" * 17])
def test_a_name_that_is_not_a_remote_ones_is_not_heard(door: Door, identity: bytes) -> None:
    odd, good = door.connect(door.keys("alice"), identity, only_connected=True), door.connect(door.keys("bob"))
    until(lambda: odd.send([b"odd"]))
    for _ in range(3):
        door.hears(good, b"good")
    assert set(door.heard) == {b"good"}


def test_a_client_that_comes_again_under_its_name_takes_it_over(door: Door) -> None:
    keys, identity = door.keys("alice"), fresh_incarnation(remote=True)
    door.hears(door.connect(keys, identity), b"first")
    second = door.connect(keys, identity)
    door.hears(second, b"second")
    assert door.server.send(identity, [b"for the second"])
    assert wait([second], 5)


def test_nothing_is_taken_for_a_connection_that_does_not_stand(door: Door) -> None:
    keys = door.keys("alice")
    client = door.connect(keys, only_connected=True)
    until(lambda: client.send([b"x"]))
    door.revoke("alice", keys)
    refused = door.connect(keys, only_connected=True)
    door.hears(door.connect(door.keys("bob")), b"good")
    assert not refused.send([b"x"])


def test_clients_get_in_while_the_servers_thread_is_busy(door: Door) -> None:
    client = door.connect(door.keys("alice"), only_connected=True)
    until(lambda: client.send([b"x"]))  # and nobody has looked at the server's socket


def test_a_closed_gate_lets_nobody_in(door: Door) -> None:
    gate = door.here._gate
    assert gate is not None
    door.here._gate = None
    gate.close()
    client = door.connect(door.keys("alice"), only_connected=True)
    end = SystemClock.now() + 0.3
    while SystemClock.now() < end:
        assert not client.send([b"x"])
        wait([door.server], 0.02)
    assert door.server.receive() is None


def test_two_sockets_share_one_gate(door: Door) -> None:
    keys = door.keys("alice")
    other = door.here.bind_remote("tcp://localhost:0", load_server(door.folder))
    client = door.there.connect_remote(other.address, fresh_incarnation(remote=True), keys)
    client.send([b"x"])
    assert wait([other], 5)
    assert [parts for _, parts in other.drain()] == [[b"x"]]


@pytest.mark.parametrize("address", ["tcp://no.such.host.invalid:0", "tcp://192.0.2.1:7400"])
def test_an_address_that_is_not_ours_is_a_start_error(door: Door, address: str) -> None:
    with pytest.raises(StartError, match=f"cannot listen on {address}"):
        door.here.bind_remote(address, load_server(door.folder))


def test_a_port_that_is_taken_is_a_start_error(door: Door) -> None:
    with pytest.raises(StartError, match="Address already in use"):
        door.here.bind_remote(door.server.address, load_server(door.folder))


def test_plain_sockets_still_refuse_tcp(door: Door) -> None:
    with pytest.raises(StartError, match="tcp needs CURVE keys"):
        door.here.bind(ANY_PORT)
    with pytest.raises(StartError, match="tcp needs CURVE keys"):
        door.here.connect(door.server.address, fresh_incarnation())


def test_a_request_that_is_not_of_curve_is_refused_by_the_gate(door: Door) -> None:
    gate = door.here._gate
    assert gate is not None
    for mechanism, key in ((b"NULL", ()), (b"PLAIN", (b"user", b"password"))):
        answer = gate._answer([b"1.0", b"7", b"paceline", b"127.0.0.1", b"", mechanism, *key])
        assert answer[:3] == [b"1.0", b"7", b"400"]


def test_pairs_are_fresh() -> None:
    assert curve.new_pair().secret != curve.new_pair().secret
