"""Sockets: real ones, on ipc and inproc, in one process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from paceline.protocol import channel, limits
from paceline.protocol.channel import AsyncSocket, Channels, ClientSocket, ServerSocket, fresh_incarnation, wait
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import StartError
from paceline.protocol.signals import SignalPipe
from paceline.protocol.tensor import Buffer


@pytest.fixture
def channels() -> Iterator[Channels]:
    with Channels() as opened:
        yield opened


@pytest.fixture
def address(tmp_path: Path) -> str:
    return channel.ipc_address(Path(os.path.relpath(tmp_path / "s")))


def pair(channels: Channels, address: str) -> tuple[ServerSocket, ClientSocket, bytes]:
    """A server and a client that the server has heard of."""
    identity = fresh_incarnation()
    server, client = channels.bind(address), channels.connect(address, identity)
    assert client.send([b"hello"])
    assert wait([server], 5)
    assert server.receive() == (identity, [b"hello"])
    return server, client, identity


def test_incarnations_are_fresh_and_16_bytes() -> None:
    one, other = fresh_incarnation(), fresh_incarnation()
    assert (len(one), one[0], one != other) == (16, 1, True)


def test_messages_pass_both_ways_in_order(channels: Channels, address: str) -> None:
    server, client, identity = pair(channels, address)
    for number in range(100):
        assert client.send([b"%d" % number, b"", b"x"])
        assert server.send(identity, [b"%d" % number])
    got_by_server: list[Any] = []
    got_by_client: list[Any] = []
    while len(got_by_server) < 100 or len(got_by_client) < 100:
        assert wait([server, client], 5)
        got_by_server += server.drain()
        got_by_client += client.drain()
    assert got_by_server == [(identity, [b"%d" % number, b"", b"x"]) for number in range(100)]
    assert got_by_client == [[b"%d" % number] for number in range(100)]


def test_receive_and_drain_do_not_block(channels: Channels, address: str) -> None:
    server, client, _ = pair(channels, address)
    assert (server.receive(), client.receive(), list(server.drain()), list(client.drain())) == (None, None, [], [])
    assert not wait([server, client], 0)


def test_drain_stops_at_its_bound(channels: Channels, address: str) -> None:
    server, client, _ = pair(channels, address)
    for _ in range(5):
        client.send([b"x"])
    assert wait([server], 5)
    assert wait_for(lambda: len(list(server.drain(2))) == 2)


def wait_for(true: Any, timeout_s: float = 5.0) -> bool:
    end = SystemClock.now() + timeout_s
    while not true():
        if SystemClock.now() > end:
            return False
        wait([], 0.005)
    return True


@pytest.mark.parametrize("direction", ["to client", "to server"])
def test_frames_behind_the_head_are_viewed_where_they_were_received(
    channels: Channels, address: str, direction: str
) -> None:
    server, client, identity = pair(channels, address)
    large = bytes(range(256)) * 4096 * 2
    if direction == "to client":
        assert server.send(identity, [b"head", large, b"small"])
        assert wait([client], 5)
        parts = client.receive()
    else:
        assert client.send([b"head", large, b"small"])
        assert wait([server], 5)
        _, parts = server.receive() or (b"", None)
    assert parts is not None
    assert [type(part) for part in parts] == [bytes, memoryview, memoryview]
    assert (parts[1], parts[2]) == (large, b"small")


def test_views_outlive_their_sockets(address: str) -> None:
    with Channels() as channels:
        server, client, identity = pair(channels, address)
        assert server.send(identity, [b"head", b"z" * 200_000])
        assert wait([client], 5)
        parts = client.receive()
    assert parts is not None
    assert bytes(parts[1]) == b"z" * 200_000


def test_sending_to_a_peer_that_is_not_there_is_false(channels: Channels, address: str) -> None:
    server, client, identity = pair(channels, address)
    assert not server.send(fresh_incarnation(), [b"x"])
    client.close()
    assert wait_for(lambda: not server.send(identity, [b"x"]))


def test_full_pipe_is_false_and_has_room_again_after_reading(
    channels: Channels, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SOCKET_HWM", 4)
    server, client, _ = pair(channels, address)
    big = bytes(1024 * 1024)
    sent = 0
    while client.send([b"head", big]):
        sent += 1
        assert sent < 1000
    read = 0
    while read < sent:
        assert wait([server], 5)
        read += len(list(server.drain()))
    assert read == sent
    assert wait_for(lambda: client.send([b"head"]))


def test_socket_file_is_private(channels: Channels, tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "s"))
    socket = channels.bind(channel.ipc_address(path))
    assert socket.address == f"ipc://{path}"
    assert path.stat().st_mode & 0o077 == 0


def test_path_that_the_kernel_would_cut_is_refused() -> None:
    assert channel.ipc_address(Path("x" * limits.IPC_PATH_BYTES_MAX)) == "ipc://" + "x" * limits.IPC_PATH_BYTES_MAX
    with pytest.raises(StartError, match=r"101 bytes, over the limit of 100; choose a shorter run directory"):
        channel.ipc_address(Path("x" * (limits.IPC_PATH_BYTES_MAX + 1)))


def test_address_that_cannot_be_bound_is_a_start_error(channels: Channels) -> None:
    with pytest.raises(StartError, match="cannot bind ipc:///nowhere/at/all"):
        channels.bind("ipc:///nowhere/at/all")


def test_address_beyond_this_host_is_refused_without_keys(channels: Channels) -> None:
    with pytest.raises(StartError, match="tcp needs CURVE keys"):
        channels.bind("tcp://0.0.0.0:7400")
    with pytest.raises(StartError, match="tcp needs CURVE keys"):
        channels.connect("tcp://127.0.0.1:7400", fresh_incarnation())


def test_wait_ends_with_the_time_and_with_a_readable_descriptor(channels: Channels, address: str) -> None:
    server, _, _ = pair(channels, address)
    start = SystemClock.now()
    assert not wait([server], 0.0205)
    assert SystemClock.now() - start >= 0.0205
    reader, writer = os.pipe()
    os.write(writer, b"x")
    assert wait([server], 5, fds=[reader])
    os.close(reader)
    os.close(writer)


def test_signal_wakes_a_wait_through_its_pipe(channels: Channels, address: str) -> None:
    server, _, _ = pair(channels, address)
    came: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: came.append(number))
    try:
        with SignalPipe() as pipe:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert wait([server], 10, fds=[pipe.fileno()])
            assert came == [signal.SIGALRM]
            pipe.drain()
            assert not wait([server], 0.001, fds=[pipe.fileno()])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert signal.set_wakeup_fd(-1) == -1


class Echo:
    """A server that answers each message of one client, in a loop of its own thread, until told `stop`."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self) -> None:
        with Channels() as channels:
            server = channels.bind(self._address)
            while True:
                wait([server], 10)
                for peer, parts in server.drain():
                    if parts[0] == b"stop":
                        return
                    assert server.send(peer, parts)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_thousands_of_messages_both_ways_lose_no_wake_up(address: str, new_loop: Any) -> None:
    total, in_flight_max = 20_000, 50
    got: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        echo = loop.run_in_executor(None, Echo(address).run)
        done = loop.create_future()
        sent = 0

        def send_more() -> None:
            nonlocal sent
            # Sent from inside the callback, in bursts and one by one: each send may eat the edge of an arrival.
            while sent < total and sent - len(got) < in_flight_max:
                assert socket.send([b"%d" % sent])
                sent += 1

        def on_message(parts: list[Buffer]) -> None:
            got.append(bytes(parts[0]))
            if len(got) % 7 == 0:
                loop.call_soon(send_more)
            else:
                send_more()
            if len(got) == total and not done.done():
                done.set_result(None)

        with Channels() as channels:
            socket = AsyncSocket(channels.connect(address, fresh_incarnation()), loop, on_message)
            send_more()
            await asyncio.wait_for(done, 30)
            socket.send([b"stop"])
            await echo
            socket.close()
            socket.close()

    loop = new_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert got == [b"%d" % number for number in range(total)]


def test_error_in_a_callback_loses_no_later_message(address: str) -> None:
    got: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        raised: list[object] = []
        loop.set_exception_handler(lambda _, context: raised.append(context.get("exception")))
        done = loop.create_future()

        def on_message(parts: list[Buffer]) -> None:
            got.append(bytes(parts[0]))
            if len(got) == 10:
                done.set_result(None)
            raise LookupError

        with Channels() as channels:
            server, client, identity = pair(channels, address)
            for number in range(10):
                server.send(identity, [b"%d" % number])
            socket = AsyncSocket(client, loop, on_message)
            with suppress(TimeoutError):
                await asyncio.wait_for(done, 5)
            await asyncio.sleep(0)
            socket.close()
        assert [type(error) for error in raised] == [LookupError] * 10

    asyncio.run(main())
    assert got == [b"%d" % number for number in range(10)]


def test_send_that_eats_the_edge_of_an_arrival_still_delivers_it(address: str) -> None:
    rounds = 20
    got: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def on_message(parts: list[Buffer]) -> None:
            got.append(bytes(parts[0]))
            arrived.set()

        with Channels() as channels:
            server, client, identity = pair(channels, address)
            socket = AsyncSocket(client, loop, on_message)
            for number in range(rounds):
                await asyncio.sleep(0)
                arrived.clear()
                assert server.send(identity, [b"%d" % number])
                wait([], 0.005)  # the loop is busy while the answer arrives, and then sends before it looks
                assert socket.send([b"x"])
                await asyncio.wait_for(arrived.wait(), 5)
            socket.close()

    asyncio.run(main())
    assert got == [b"%d" % number for number in range(rounds)]


def test_what_had_arrived_is_delivered_at_once_though_the_peer_is_gone(address: str) -> None:
    got: list[bytes] = []

    async def main() -> None:
        with Channels() as channels:
            server, client, identity = pair(channels, address)
            for number in range(200):
                server.send(identity, [b"%d" % number])
            wait([client], 5)
            server.close()
            wait([], 0.1)
            socket = AsyncSocket(client, asyncio.get_running_loop(), lambda parts: got.append(bytes(parts[0])))
            ends = SystemClock.now() + 5
            while len(got) < 200 and SystemClock.now() < ends:  # on a busy machine one look may come too early
                socket.deliver()
            assert got == [b"%d" % number for number in range(200)]
            socket.close()
            socket.deliver()

    asyncio.run(main())
