"""Client and AsyncClient on tcp:// against a fake server behind real CURVE sockets: what differs from ipc://."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paceline.client import Client, ServerUnreachable, native_link
from paceline.protocol.channel import ServerSocket
from paceline.protocol.errors import ConfigError, DeadlineExceeded
from paceline.protocol.key_folder import admit, create
from paceline.protocol.keys import load_server
from tests.paceline.async_face import OneByOne
from tests.paceline.fake_native import FakeNative

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


class FakeRemote(FakeNative):
    """FakeNative, its sockets on tcp with CURVE."""

    def __init__(self, folder: Path, **options: object) -> None:
        super().__init__(folder, **options)  # type: ignore[arg-type]  # passed on
        self.keys = folder / "keys"
        create(self.keys)
        self.key_file = admit(self.keys, "alice")

    def bind(self, name: str) -> ServerSocket:
        socket = self._channels.bind_remote("tcp://127.0.0.1:0", load_server(self.keys))
        if name == "control.sock":
            self.url = socket.address
        return socket


@pytest.fixture(params=[Client, OneByOne], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type[Client]:
    made: type[Client] = request.param
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeRemote]:
    with FakeRemote(tmp_path) as server:
        yield server


def test_a_request_carries_its_age_and_the_time_left(kind: type[Client], server: FakeRemote) -> None:
    with kind(server.url, key_file=server.key_file) as client:
        np.testing.assert_array_equal(np.asarray(client.predict("echo", ROWS, timeout_s=2.0)), ROWS)
        client.predict("echo", ROWS, method="typed")
    first, second = server.hosts[0].requests
    assert first.arrival_ns < 1_000_000
    assert 1_000_000 < first.deadline_ns <= 2_000_000
    assert 0 < second.deadline_ns <= 100_000
    assert server.hellos[0].incarnation[0] == 2
    assert set(server.hosts[0].origins) == {server.hellos[0].incarnation}


def test_a_lost_hosts_requests_go_to_the_next_one(kind: type[Client], server: FakeRemote) -> None:
    with kind(server.url, key_file=server.key_file) as client:
        client.predict("echo", ROWS)
        first = server.hosts[0]
        server.do(lambda: server.kill_host(first), server.add_host)
        np.testing.assert_array_equal(np.asarray(client.predict("echo", ROWS)), ROWS)
    assert len(server.hosts[0].requests) == 1


def test_the_host_that_was_given_counts_and_of_a_workers_address_the_port(
    kind: type[Client], server: FakeRemote
) -> None:
    server.hosts[0].address = server.hosts[0].address.replace("127.0.0.1", "0.0.0.0")
    with kind(server.url.replace("127.0.0.1", "localhost"), key_file=server.key_file) as client:
        np.testing.assert_array_equal(np.asarray(client.predict("echo", ROWS)), ROWS)


def test_nobody_at_the_address_is_a_clear_error(kind: type[Client], server: FakeRemote) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with kind(url, key_file=server.key_file) as client:
            with pytest.raises(ServerUnreachable, match=f"no server at {url} .*native_listen"):
                client.predict("echo", ROWS)
            assert client.ready() is False
    with (
        kind("tcp://no.such.host.invalid:1", key_file=server.key_file) as client,
        pytest.raises(ServerUnreachable, match=r"no server at tcp://no\.such\.host\.invalid:1"),
    ):
        client.predict("echo", ROWS)


def test_a_key_that_is_not_let_in_is_a_clear_error(
    kind: type[Client], server: FakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "LOST_S", 0.3)
    create(tmp_path / "other")
    with kind(server.url, key_file=admit(tmp_path / "other", "alice")) as client:
        with pytest.raises(ServerUnreachable, match=r"does not let this client's key in .*another server"):
            client.predict("echo", ROWS)
        with pytest.raises((ServerUnreachable, DeadlineExceeded)):
            client.predict("echo", ROWS, timeout_s=0.1)
    assert not server.hellos


def test_keys_belong_to_tcp_and_are_read_at_once(kind: type[Client], tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "ipc:///run/p"):
        with pytest.raises(ConfigError, match="key_file= belongs to tcp"):
            kind(url, key_file="x")
    with pytest.raises(ConfigError, match="cannot read the key file"):
        kind("tcp://127.0.0.1:1", key_file=tmp_path / "none")
    with pytest.raises(ConfigError, match="CURVE keys"):
        kind("tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="needs a port"):
        kind("tcp://127.0.0.1:0", key_file=tmp_path / "none")
