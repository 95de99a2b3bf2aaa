"""The listening TCP sockets of a server, opened before anything is spawned and kept open through every child's death.

One socket per API server, all on one port (SO_REUSEPORT): the kernel spreads connections evenly by hash, where a shared
accept queue gave one of two processes 53 to 64 of 64 connections. A dead API server's connections wait in its socket
for the successor; while none is due soon its socket leaves the port, and the others get all.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from types import TracebackType
from typing import Self

import psutil

from paceline.protocol.errors import StartError

BACKLOG = 2048
_COMMAND_CHARS_MAX = 120


class Listeners:
    """Sockets by API server index. Leaving the `with` closes them."""

    def __init__(self, sockets: list[socket.socket], host: str) -> None:
        self._sockets = sockets
        self._away: set[int] = set()
        self.port: int = sockets[0].getsockname()[1]
        self.url = f"http://{_shown_host(host)}:{self.port}"

    def fds(self, index: int) -> tuple[int, ...]:
        """The descriptors that API server `index` inherits."""
        return (self._sockets[index].fileno(),)

    def set_away(self, index: int, away: bool) -> None:
        """Take the socket of API server `index` off the port, or put it back. What waits in it is reset."""
        if away == (index in self._away) or len(self._sockets) < 2:
            return
        # Linux: a listening socket that is shut down stays bound and may listen again.
        with contextlib.suppress(OSError):
            if away:
                self._sockets[index].shutdown(socket.SHUT_RD)
                self._away.add(index)
            else:
                self._sockets[index].listen(BACKLOG)
                self._away.discard(index)

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_listeners(host: str, port: int, count: int) -> Listeners:
    """`count` listening sockets on `host`:`port` (0 = a free port).

    Raises StartError: in use (names the owner where visible), no permission, no such address.
    """
    family, address = _resolve(host, port)
    # The first binds without SO_REUSEPORT: with it, a second server of the same user would share our port unnoticed.
    sockets = [_bound(family, address, host, reuse_port=False)]
    try:
        if count > 1:
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            address = sockets[0].getsockname()
            sockets += [_bound(family, address, host, reuse_port=True) for _ in range(count - 1)]
        for each in sockets:
            each.listen(BACKLOG)
    except OSError as error:
        for each in sockets:
            each.close()
        raise StartError(_refusal(host, sockets[0].getsockname()[1], error)) from error
    return Listeners(sockets, host)


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, object]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(f"cannot listen on {host!r}: {error.strerror or error}") from error
    family, _, _, _, address = found[0]
    return family, address


def _bound(family: socket.AddressFamily, address: object, host: str, reuse_port: bool) -> socket.socket:
    each = socket.socket(family, socket.SOCK_STREAM)
    try:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(address)  # type: ignore[arg-type]  # as getaddrinfo gave it
    except OSError as error:
        each.close()
        port = address[1] if isinstance(address, tuple) else 0
        raise StartError(_refusal(host, port, error)) from error
    return each


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use by {_owner(port)}; stop it, or choose another (--port; 0 = a free one)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no permission to listen on port {port} of {host}; choose a port from 1024 on (--port)"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def _owner(port: int) -> str:
    """The process that listens on `port`, in words."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.pid is not None and _listens(connection.status, connection.laddr, port):
                owner = _eldest(psutil.Process(connection.pid), port)
                command = " ".join(owner.cmdline()) or owner.name()
                return f"the process with pid {owner.pid} ({command[:_COMMAND_CHARS_MAX]})"
    return "another process (not visible to this user)"


def _eldest(process: psutil.Process, port: int) -> psutil.Process:
    """Whoever handed the socket down to `process`: psutil names any one of those who hold it."""
    try:
        parent = process.parent()
        held = parent is not None and any(
            _listens(each.status, each.laddr, port) for each in parent.net_connections("tcp")
        )
    except psutil.Error:  # the parent, often an init process, may not be looked into
        return process
    return _eldest(parent, port) if parent is not None and held else process


def _listens(status: str, local: object, port: int) -> bool:
    return status == psutil.CONN_LISTEN and getattr(local, "port", 0) == port


def _shown_host(host: str) -> str:
    """`host` as a client on this machine may dial it."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
