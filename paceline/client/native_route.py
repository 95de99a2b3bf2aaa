"""The way from a native client to one server: its run directory on this machine, or tcp with keys to another one.

A link asks its route for sockets and names; that there are two clocks at the ends of tcp is known here, too.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paceline.client.address import RemoteAddress, RunDirAddress
from paceline.client.errors import ServerUnreachable
from paceline.protocol.channel import Channels, ClientSocket, fresh_incarnation, ipc_address
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ProtocolError
from paceline.protocol.keys import ClientKeys, load_client
from paceline.protocol.messages import InferItem
from paceline.protocol.remote import as_sent
from paceline.protocol.tcp import split_tcp, tcp_address

CONTROL_SOCKET = "control.sock"
PROBE_S = 5.0


class Route(Protocol):
    """Seam: how a NativeLink reaches its server. `server` names it in errors."""

    @property
    def server(self) -> str: ...

    def fresh_incarnation(self) -> bytes: ...

    async def probe(self, timeout_s: float) -> None:
        """Raise ServerUnreachable unless somebody listens: ZeroMQ itself would wait for ever."""
        ...

    def connect_control(self, channels: Channels, incarnation: bytes) -> ClientSocket: ...

    def connect_host(self, channels: Channels, address: str, incarnation: bytes) -> ClientSocket:
        """Raises ProtocolError if `address`, which the server named, is none."""
        ...

    def as_sent(self, items: list[InferItem]) -> tuple[InferItem, ...]:
        """Requests as they travel on this route."""
        ...

    def no_answer(self, timeout_s: float) -> str:
        """What to say of a server that does not answer a Hello."""
        ...


@dataclass(frozen=True, slots=True)
class LocalRoute:
    """Over ipc, to the server of a run directory."""

    run_dir: Path

    @property
    def server(self) -> str:
        return f"the server of {self.run_dir}"

    def fresh_incarnation(self) -> bytes:
        return fresh_incarnation()

    async def probe(self, timeout_s: float) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(PROBE_S)
                probe.connect(str(self.run_dir / CONTROL_SOCKET))
        except OSError as error:
            raise ServerUnreachable(
                f"no server in {self.run_dir} ({error.strerror or error}). Is it running (paceline status), and is its "
                f"run directory the right one?"
            ) from error

    def connect_control(self, channels: Channels, incarnation: bytes) -> ClientSocket:
        return channels.connect(ipc_address(self.run_dir / CONTROL_SOCKET), incarnation)

    def connect_host(self, channels: Channels, address: str, incarnation: bytes) -> ClientSocket:
        return channels.connect(address, incarnation)

    def as_sent(self, items: list[InferItem]) -> tuple[InferItem, ...]:
        return tuple(items)

    def no_answer(self, timeout_s: float) -> str:
        return f"{self.server} did not answer within {timeout_s:.1f} s; see: paceline status"


@dataclass(frozen=True, slots=True)
class RemoteRoute:
    """Over tcp with CURVE, to the server at `host`. Of a worker's address only the port counts: the server may know
    itself by another name."""

    host: str
    port: int
    keys: ClientKeys

    @property
    def server(self) -> str:
        return f"the server at {tcp_address(self.host, self.port)}"

    def fresh_incarnation(self) -> bytes:
        return fresh_incarnation(remote=True)

    async def probe(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(min(timeout_s, PROBE_S)):
                _, writer = await asyncio.open_connection(self.host, self.port, family=socket.AF_INET)
        except OSError as error:  # TimeoutError is one
            why = "it did not answer in time" if isinstance(error, TimeoutError) else error.strerror or error
            raise ServerUnreachable(
                f"no server at {tcp_address(self.host, self.port)} ({why}). Is it running with native_listen, and are "
                f"its ports open to this machine?"
            ) from error
        writer.close()

    def connect_control(self, channels: Channels, incarnation: bytes) -> ClientSocket:
        return channels.connect_remote(tcp_address(self.host, self.port), incarnation, self.keys)

    def connect_host(self, channels: Channels, address: str, incarnation: bytes) -> ClientSocket:
        try:
            _, port = split_tcp(address)
        except ValueError as error:
            raise ProtocolError(f"{self.server} named a worker's address that is none: {error}") from error
        return channels.connect_remote(tcp_address(self.host, port), incarnation, self.keys, only_connected=True)

    def as_sent(self, items: list[InferItem]) -> tuple[InferItem, ...]:
        return as_sent(items, SystemClock.now_ns())

    def no_answer(self, timeout_s: float) -> str:
        return (
            f"{self.server} took the connection and did not answer within {timeout_s:.1f} s. Most likely it does not "
            f"let this client's key in (revoked, or never allowed: paceline keys list DIR), or the key file was made "
            f"for another server"
        )


def route_to(address: RunDirAddress | RemoteAddress) -> Route:
    """The route to `address`. Raises ConfigError if its key file is not one, or others can read it."""
    if isinstance(address, RunDirAddress):
        return LocalRoute(address.run_dir)
    return RemoteRoute(address.host, address.port, load_client(address.key_file))
