"""The data socket of a host that other machines reach too: two sockets as one, told apart by a peer's first byte.

Only where remote clients are let in; without them the host has the one socket itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from paceline.protocol.channel import Channels, RemoteServerSocket, ServerSocket
from paceline.protocol.errors import ConfigError, StartError
from paceline.protocol.keys import load_server
from paceline.protocol.remote import is_remote
from paceline.protocol.spec import ServeSpec
from paceline.protocol.tcp import split_tcp, tcp_address
from paceline.protocol.tensor import Buffer

logger = logging.getLogger(__name__)


class Crossing:
    """A host's Port over both sockets."""

    def __init__(self, local: ServerSocket, remote: ServerSocket) -> None:
        self._local = local
        self._remote = remote

    def drain(self) -> Iterator[tuple[bytes, list[Buffer]]]:
        yield from self._local.drain()
        yield from self._remote.drain()

    def send(self, peer: bytes, parts: Sequence[Buffer]) -> bool:
        return (self._remote if is_remote(peer) else self._local).send(peer, parts)

    def settle(self) -> None:
        self._local.settle()


def open_remote(channels: Channels, serve: ServeSpec, runner: str, index: int) -> RemoteServerSocket | None:
    """The socket of this worker for other machines, None if the server has none.

    A port that is taken or keys that are gone must not take the model out of service on this machine: there is a free
    port, of which clients are told, or no socket, and the log says why.
    """
    if not serve.native.listen:
        return None
    address = serve.native_address(runner, index)
    try:
        keys = load_server(Path(serve.native.keys))
        try:
            return channels.bind_remote(address, keys)
        except StartError as error:
            logger.warning("remote clients get a free port", extra={"address": address, "error": str(error)})
        host, _ = split_tcp(address)
        return channels.bind_remote(tcp_address(host, 0), keys)
    except (ConfigError, StartError) as error:
        logger.error("remote clients are not served", extra={"address": address, "error": str(error)})
        return None
