"""Listening sockets: shared, taken off the port and put back, refused."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from paceline.protocol.errors import StartError
from paceline.supervisor.listeners import open_listeners


def accepted(fd: int) -> int:
    """How many connections wait in the listening socket `fd`; takes them."""
    count = 0
    with socket.socket(fileno=socket.dup(fd)) as listener:
        listener.setblocking(False)
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1


def dial(port: int, times: int) -> None:
    for _ in range(times):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_connections_spread_over_the_api_servers() -> None:
    with open_listeners("127.0.0.1", 0, 2) as listeners:
        dial(listeners.port, 64)
        shares = [accepted(listeners.fds(index)[0]) for index in range(2)]
        assert sum(shares) == 64
        assert min(shares) >= 12


def test_socket_that_is_away_gets_nothing_until_it_is_back() -> None:
    with open_listeners("127.0.0.1", 0, 2) as listeners:
        listeners.set_away(1, True)
        dial(listeners.port, 32)
        assert accepted(listeners.fds(0)[0]) == 32
        listeners.set_away(1, False)
        dial(listeners.port, 64)
        assert accepted(listeners.fds(1)[0]) >= 12


def test_only_socket_never_leaves() -> None:
    with open_listeners("127.0.0.1", 0, 1) as listeners:
        listeners.set_away(0, True)
        dial(listeners.port, 1)
        assert accepted(listeners.fds(0)[0]) == 1


def test_url_is_one_that_this_machine_can_dial() -> None:
    with open_listeners("0.0.0.0", 0, 1) as listeners:
        assert listeners.url == f"http://127.0.0.1:{listeners.port}"
    with open_listeners("::1", 0, 1) as listeners:
        assert listeners.url == f"http://[::1]:{listeners.port}"


def test_taken_port_is_refused_also_when_its_owner_shares_it() -> None:
    with open_listeners("127.0.0.1", 0, 2) as first, pytest.raises(StartError, match=f"port {first.port} .* in use"):
        open_listeners("127.0.0.1", first.port, 2)


def test_owner_of_a_taken_port_is_named_where_its_parent_may_not_be_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed:
        def net_connections(self, kind: str) -> None:
            raise psutil.AccessDenied(1)

    monkeypatch.setattr(psutil.Process, "parent", lambda self: Closed())
    with (
        open_listeners("127.0.0.1", 0, 1) as listeners,
        pytest.raises(StartError, match=f"in use by the process with pid {os.getpid()} "),
        open_listeners("127.0.0.1", listeners.port, 1),
    ):
        pass


def test_host_that_does_not_exist_is_named() -> None:
    with pytest.raises(StartError, match="192\\.0\\.2\\.1"):
        open_listeners("192.0.2.1", 0, 1)
    with pytest.raises(StartError, match=r"no\.such\.host\.invalid"):
        open_listeners("no.such.host.invalid", 0, 1)
