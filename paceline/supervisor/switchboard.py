"""The control socket: who is connected, what they say, and the picture that subscribers are sent.

Subscribers are API servers and native clients; both may vanish without a word, which shows when they are sent to.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from paceline.protocol import control
from paceline.protocol.channel import ServerSocket
from paceline.protocol.control import ControlMessage, Topology, Welcome
from paceline.protocol.errors import ProtocolError

logger = logging.getLogger(__name__)

CLIENTS_MAX = 1024


class Switchboard:
    """`serve`: the ServeSpec as native clients get it."""

    def __init__(self, socket: ServerSocket, serve: bytes) -> None:
        self.socket = socket
        self._serve = serve
        # By incarnation, oldest first; True for clients.
        self._subscribers: dict[bytes, bool] = {}

    def messages(self) -> Iterator[tuple[bytes, ControlMessage]]:
        """(peer, message) of all that waits; what is not a message is logged and dropped."""
        for peer, parts in self.socket.drain():
            try:
                message = control.decode(parts)
            except ProtocolError as error:
                logger.warning("control message refused", extra={"peer": peer.hex(), "error": str(error)})
                continue
            yield peer, message

    def subscribe(self, peer: bytes, is_client: bool, topology: Topology) -> None:
        """`peer` said Hello: it gets the present picture now and every later one."""
        self._subscribers.pop(peer, None)
        clients = [each for each, client in self._subscribers.items() if client]
        if is_client and len(clients) >= CLIENTS_MAX:
            del self._subscribers[clients[0]]
        self._subscribers[peer] = is_client
        if is_client:
            self.send(peer, Welcome(self._serve))
        self.send(peer, topology)

    def publish(self, topology: Topology) -> None:
        parts = control.encode(topology)
        for peer in [each for each in self._subscribers if not self.socket.send(each, parts)]:
            del self._subscribers[peer]

    def send(self, peer: bytes, message: ControlMessage) -> bool:
        return self.socket.send(peer, control.encode(message))
