"""Sockets: beside curve.py the only module that imports zmq. Blocking for workers and the supervisor, asyncio for the
others.

A `Channels` owns one ZeroMQ context; `bind` gives a ServerSocket (many peers, by identity), `connect` a ClientSocket
(one server). Both send and receive whole multipart messages without ever blocking: a full pipe or an unreachable peer
is a `False`, which the ledger handles. `wait` blocks on several of them; `AsyncSocket` puts one into an event loop
through its edge-triggered descriptor, so it looks at EVENTS after every send and receive.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from socket import gethostbyname
from types import TracebackType
from typing import Any, ClassVar, Self

import zmq

from paceline.protocol import curve, limits
from paceline.protocol.errors import StartError
from paceline.protocol.keys import AllowList, ClientKeys, ServerKeys
from paceline.protocol.messages import ORIGIN_BYTES
from paceline.protocol.remote import LOCAL_FIRST, REMOTE_FIRST, is_remote
from paceline.protocol.tcp import split_tcp
from paceline.protocol.tensor import Buffer

_REFUSED = (errno.EAGAIN, errno.EHOSTUNREACH)
_SETTLE_S = 0.02
_RECEIVE_BURST = 64
_DROPPED_MAX = 1024


def fresh_incarnation(*, remote: bool = False) -> bytes:
    """A new random identity for one start of one process; ZeroMQ reserves a first byte of 0."""
    return (REMOTE_FIRST if remote else LOCAL_FIRST) + os.urandom(ORIGIN_BYTES - 1)


def ipc_address(path: Path) -> str:
    """`ipc://` of `path`; raises StartError if the kernel's limit on socket paths would cut it."""
    if len(os.fsencode(path)) > limits.IPC_PATH_BYTES_MAX:
        raise StartError(
            f"socket path {path} has {len(os.fsencode(path))} bytes, over the limit of {limits.IPC_PATH_BYTES_MAX}; "
            f"choose a shorter run directory (--run-dir)"
        )
    return f"ipc://{path}"


class Channels:
    """The sockets of one process; leaving the `with` closes what is still open, lingering at most 0.2 s."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 4096)
        self._gate: curve.Gate | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        self._context.destroy(linger=limits.SOCKET_LINGER_MS)

    def bind(self, address: str) -> ServerSocket:
        """A server socket on `address` (ipc://...; the file is made 0600). Raises StartError if it cannot be bound."""
        _local(address)
        socket = self._socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        mask = os.umask(0o077)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(0)
            raise StartError(f"cannot bind {address}: {error}") from error
        finally:
            os.umask(mask)
        return ServerSocket(socket)

    def connect(self, address: str, identity: bytes) -> ClientSocket:
        """A socket to the server at `address`, known there as `identity` (a fresh incarnation). Raises StartError."""
        _local(address)
        socket = self._socket(zmq.DEALER)
        socket.set(zmq.IDENTITY, identity)
        socket.connect(address)
        return ClientSocket(socket)

    def bind_remote(self, address: str, keys: ServerKeys) -> RemoteServerSocket:
        """A server socket on `address` (tcp://host:port, port 0 = a free one) for clients that `keys` let in.

        Raises StartError if it cannot be bound. All of one process have the same keys.
        """
        host, port = split_tcp(address)
        if self._gate is None:
            self._gate = curve.Gate(self._context, AllowList(keys.clients))
        socket = self._socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        curve.guard_server(socket, keys)
        try:
            socket.bind(f"tcp://{_ipv4(host)}:{port or '*'}")
        except (zmq.ZMQError, OSError) as error:
            socket.close(0)
            raise StartError(f"cannot listen on {address}: {error.strerror or error}") from error
        return RemoteServerSocket(socket, self._gate)

    def connect_remote(
        self, address: str, identity: bytes, keys: ClientKeys, *, only_connected: bool = False
    ) -> ClientSocket:
        """As `connect`, to a server on another machine. `only_connected`: nothing is taken for a connection that does
        not stand yet, and what a broken one did not deliver is dropped."""
        socket = self._socket(zmq.DEALER)
        socket.set(zmq.IDENTITY, identity)
        socket.set(zmq.IMMEDIATE, int(only_connected))
        curve.guard_client(socket, keys)
        socket.connect(address)
        return ClientSocket(socket)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.LINGER, limits.SOCKET_LINGER_MS)
        socket.set(zmq.SNDHWM, limits.SOCKET_HWM)
        socket.set(zmq.RCVHWM, limits.SOCKET_HWM)
        socket.set(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
        socket.set(zmq.HANDSHAKE_IVL, 5000)
        socket.set(zmq.RECONNECT_IVL, 20)
        socket.set(zmq.RECONNECT_IVL_MAX, 1000)
        socket.copy_threshold = limits.COPY_THRESHOLD_BYTES
        return socket


def _local(address: str) -> None:
    """Refuse what leaves the host: without keys anyone who reaches the port could run the models and read requests."""
    if not address.startswith(("ipc://", "inproc://")):
        raise StartError(f"address {address} is not on this host; expected ipc://PATH, since tcp needs CURVE keys")


def _ipv4(host: str) -> str:
    """The address of `host`: ZeroMQ binds to no names. Raises OSError if it has none."""
    return gethostbyname(host)


class _Socket:
    """What both kinds share: non-blocking receive of whole messages, readiness, close."""

    _copied: ClassVar[int]  # leading parts that are copied when received

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.zmq = socket
        endpoint: Any = socket.get(zmq.LAST_ENDPOINT)
        self.address = bytes(endpoint).rstrip(b"\0").decode()

    def fileno(self) -> int:
        """The edge-triggered descriptor of the socket."""
        fd: Any = self.zmq.get(zmq.FD)  # typed int | bytes, as for every option
        return int(fd)

    def readable(self) -> bool:
        """Whether a whole message waits."""
        events: Any = self.zmq.get(zmq.EVENTS)
        return bool(events & zmq.POLLIN)

    def close(self) -> None:
        self.zmq.close(limits.SOCKET_LINGER_MS)

    def _receive_parts(self) -> list[Buffer] | None:
        """One multipart message, None if none waits. Identity and head are copied: they are small and parsed at once;
        large buffers stay in ZeroMQ's memory and are viewed."""
        try:
            first = self.zmq.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return self._receive_after(first)

    def _receive_after(self, first: Buffer) -> list[Buffer]:
        """The message that begins with `first`."""
        socket, copied = self.zmq, self._copied
        parts: list[Buffer] = [first]
        while socket.get(zmq.RCVMORE):
            parts.append(socket.recv() if len(parts) < copied else socket.recv(copy=False).buffer)
        return parts

    def _send_parts(self, parts: Sequence[Buffer]) -> bool:
        try:
            self.zmq.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno in _REFUSED:
                return False
            raise
        return True


class ServerSocket(_Socket):
    """Many peers, each known by the identity it connected with."""

    _copied = 2

    def receive(self) -> tuple[bytes, list[Buffer]] | None:
        """(peer, parts) of the next message, None if none waits."""
        parts = self._receive_parts()
        return None if parts is None else (bytes(parts[0]), parts[1:])

    def drain(self, messages_max: int = 1024) -> Iterator[tuple[bytes, list[Buffer]]]:
        """Messages that wait, up to `messages_max`."""
        for _ in range(messages_max):
            message = self.receive()
            if message is None:
                return
            yield message

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool:
        """Hand `parts` to ZeroMQ for `peer`; False if its pipe is full or it is not connected."""
        return self._send_parts([peer, *parts])

    def settle(self) -> None:
        """Give ZeroMQ's own thread time to send what it was handed: before something that may end this process."""
        wait((), _SETTLE_S)


class RemoteServerSocket(ServerSocket):
    """Peers on other machines. What comes from a client whose key is no longer allowed, or under a name that is not a
    remote one's, is dropped."""

    def __init__(self, socket: zmq.Socket[bytes], gate: curve.Gate) -> None:
        super().__init__(socket)
        self._gate = gate

    def receive(self) -> tuple[bytes, list[Buffer]] | None:
        """As ServerSocket.receive, without what is dropped; that counts as one that waits no more."""
        for _ in range(_DROPPED_MAX):
            try:
                first = self.zmq.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            peer = first.bytes
            parts = self._receive_after(peer)
            if len(peer) == ORIGIN_BYTES and is_remote(peer) and self._gate.allows(curve.user_of(first)):
                return peer, parts[1:]
        return None


class ClientSocket(_Socket):
    """One server."""

    _copied = 1

    def receive(self) -> list[Buffer] | None:
        """The parts of the next message, None if none waits."""
        return self._receive_parts()

    def drain(self, messages_max: int = 1024) -> Iterator[list[Buffer]]:
        """Messages that wait, up to `messages_max`."""
        for _ in range(messages_max):
            parts = self.receive()
            if parts is None:
                return
            yield parts

    def send(self, parts: Sequence[Buffer]) -> bool:
        """Hand `parts` to ZeroMQ; False if the pipe is full."""
        return self._send_parts(parts)


def wait(sockets: Iterable[_Socket], timeout_s: float | None, fds: Iterable[int] = ()) -> bool:
    """Block until one of `sockets` has a message, one of `fds` is readable, or `timeout_s` passed (None = for ever).

    True if something is ready. A signal's Python handler runs at once, but only one that raises ends the wait: pass the
    descriptor of a `signals.SignalPipe` in `fds` to be woken by it.
    """
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket.zmq, zmq.POLLIN)
    for fd in fds:
        poller.register(fd, zmq.POLLIN)
    # Rounded up: waking a fraction of a millisecond early would spin until the time is reached.
    timeout_ms = None if timeout_s is None else max(0, int(-(-timeout_s * 1000 // 1)))
    return bool(poller.poll(timeout_ms))


class AsyncSocket:
    """A ClientSocket in an asyncio loop: `on_message(parts)` for each message, `send` at any time from the loop."""

    def __init__(
        self,
        socket: ClientSocket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[list[Buffer]], None],
    ) -> None:
        self._socket = socket
        self._loop = loop
        self._on_message = on_message
        self._fd = socket.fileno()
        self._closed = False
        self._scheduled = False
        loop.add_reader(self._fd, self._readable)
        self._look_again()

    def send(self, parts: Sequence[Buffer]) -> bool:
        """As ClientSocket.send. A send consumes the descriptor's edge, so what arrived meanwhile is looked for."""
        sent = self._socket.send(parts)
        if not self._scheduled and self._socket.readable():
            self._look_again()
        return sent

    def deliver(self) -> None:
        """Deliver what has arrived, all of it and now: the peer is gone, and the socket is about to be closed.

        What the peer had sent may still be on its way through ZeroMQ's own thread: the loop stands still until nothing
        has come for 20 ms. Rare, and an answer that is lost here costs its request a start.
        """
        while not self._closed:
            for parts in self._socket.drain(limits.SOCKET_HWM):
                self._on_message(parts)
            if self._closed or not wait((self._socket,), _SETTLE_S):
                return

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close()

    def _readable(self) -> None:
        """Deliver what waits, a burst at a time. However it ends, the descriptor's edge is gone: EVENTS decide."""
        try:
            for parts in self._socket.drain(_RECEIVE_BURST) if not self._closed else ():
                self._on_message(parts)
                if self._closed:
                    return
        finally:
            if not self._closed and not self._scheduled and self._socket.readable():
                self._look_again()

    def _look_again(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._looked_again)

    def _looked_again(self) -> None:
        self._scheduled = False
        self._readable()
