"""The control sockets: who is connected, what they say, and the picture that each subscriber is sent.

Subscribers are API servers, native clients, and brokers with their workers; all may vanish without a word, which shows
when they are sent to. On the socket for other machines are only clients: they may say Hello and no more, and they see
the picture as theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from paceline.protocol import control
from paceline.protocol.channel import ServerSocket
from paceline.protocol.control import ControlMessage, Hello, Welcome
from paceline.protocol.errors import ProtocolError
from paceline.protocol.remote import is_remote
from paceline.protocol.spec import ServeSpec, encode_serve
from paceline.supervisor.topology import Picture

logger = logging.getLogger(__name__)

CLIENTS_MAX = 1024


class _Subscription(NamedTuple):
    picture: Picture
    is_client: bool


class Switchboard:
    """`remote`: the socket for other machines, if there is one. Speaks from the first `renew` on."""

    _welcome: Welcome
    _remote_welcome: Welcome

    def __init__(self, local: ServerSocket, remote: ServerSocket | None = None) -> None:
        self.sockets = (local,) if remote is None else (local, remote)
        self._local = local
        self._remote = remote
        # By incarnation, oldest first.
        self._subscribers: dict[bytes, _Subscription] = {}

    def renew(self, serve: ServeSpec) -> None:
        """From now on this is served, and clients are welcomed with it; the children of what was before are gone."""
        self._welcome = Welcome(encode_serve(serve))
        self._remote_welcome = Welcome(encode_serve(serve.for_remote()))
        self._subscribers = {peer: each for peer, each in self._subscribers.items() if each.is_client}

    def welcome_again(self, picture: Picture) -> None:
        """Every client starts anew: with what is served now, and `picture`."""
        for peer in list(self._subscribers):
            self.subscribe(peer, True, picture)

    @property
    def remote_address(self) -> str:
        """Where clients on other machines connect, empty if they cannot."""
        return "" if self._remote is None else self._remote.address

    def messages(self) -> Iterator[tuple[bytes, ControlMessage]]:
        """(peer, message) of all that waits; what is not a message, or not allowed, is logged and dropped."""
        for socket in self.sockets:
            for peer, parts in socket.drain():
                try:
                    message = control.decode(parts)
                    if socket is self._remote and not (isinstance(message, Hello) and message.kind == "client"):
                        raise ProtocolError(f"{type(message).__name__} from another machine")
                except ProtocolError as error:
                    logger.warning("control message refused", extra={"peer": peer.hex(), "error": str(error)})
                    continue
                yield peer, message

    def subscribe(self, peer: bytes, is_client: bool, picture: Picture) -> None:
        """`peer` said Hello: it gets `picture` as it is now and every later one of it."""
        self._subscribers.pop(peer, None)
        clients = [each for each, subscription in self._subscribers.items() if subscription.is_client]
        if is_client and len(clients) >= CLIENTS_MAX:
            del self._subscribers[clients[0]]
        self._subscribers[peer] = _Subscription(picture, is_client)
        if is_client:
            self.send(peer, self._remote_welcome if is_remote(peer) else self._welcome)
        self.send(peer, picture.take_remote(peer) if is_remote(peer) else picture.take())

    def publish(self, picture: Picture) -> None:
        """Every subscriber of `picture` gets it as it is now."""
        picture.told()
        parts = control.encode(picture.take())
        for peer in [peer for peer, subscription in self._subscribers.items() if subscription.picture is picture]:
            if is_remote(peer):
                sent = self.send(peer, picture.take_remote(peer))
            else:
                sent = self._local.send(peer, parts)
            if not sent:
                del self._subscribers[peer]

    def send(self, peer: bytes, message: ControlMessage) -> bool:
        socket = self._remote if self._remote is not None and is_remote(peer) else self._local
        return socket.send(peer, control.encode(message))
