"""CURVE for sockets that leave the host: encryption, and a gate that lets in clients whose keys are allowed.

Beside channel.py, its only caller for sockets, the one module that imports zmq. libzmq asks the `Gate` (ZAP, RFC 27) at
each handshake; where no gate answers, nobody gets in. Whoever is in carries its public key in each message, so that a
key which is revoked later is noticed too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from typing import Any

import zmq
from zmq.utils import z85

from paceline.protocol import limits
from paceline.protocol.keys import AllowList, ClientKeys, KeyPair, ServerKeys

logger = logging.getLogger(__name__)

REFRESH_S = 1.0
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_FIELDS = 7
_DOMAIN = b"paceline"
_BLAMED_MAX = 1024

Socket = zmq.Socket[bytes]


def new_pair() -> KeyPair:
    """A fresh key pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public, secret)


def guard_server(socket: Socket, keys: ServerKeys) -> None:
    """Before it is bound: only CURVE clients that a Gate lets in; a client that reconnects takes its name over."""
    _harden(socket)
    # A client's network may break without our noticing it; its fresh identity is known to nobody else.
    socket.set(zmq.ROUTER_HANDOVER, 1)
    socket.set(zmq.ZAP_DOMAIN, _DOMAIN)
    socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.set(zmq.CURVE_SERVER, 1)
    socket.set(zmq.CURVE_SECRETKEY, keys.pair.secret)


def guard_client(socket: Socket, keys: ClientKeys) -> None:
    """Before it is connected: speak to the server that has the known key, and to no other."""
    _harden(socket)
    socket.set(zmq.CURVE_SERVERKEY, keys.server)
    socket.set(zmq.CURVE_PUBLICKEY, keys.pair.public)
    socket.set(zmq.CURVE_SECRETKEY, keys.pair.secret)


def user_of(frame: zmq.Frame) -> bytes:
    """The public key of the client that sent `frame`, empty if it has none."""
    try:
        return str(frame.get("User-Id")).encode()
    except zmq.ZMQError:
        return b""


class Gate:
    """Answers whether a client's key is allowed; `allows` asks again for one that is in, REFRESH_S old at most.

    A thread of its own: the worker's one may be inside a batch while a client waits at the door.
    """

    def __init__(self, context: zmq.Context[Socket], clients: AllowList) -> None:
        self._clients = clients
        self._allowed = clients.read()
        self._blamed: set[bytes] = set()
        self._socket = context.socket(zmq.REP)
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(_ZAP_ADDRESS)
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def allows(self, key: bytes) -> bool:
        return key in self._allowed

    def close(self) -> None:
        """Nobody gets in from now on."""
        os.close(self._stop_writer)
        self._thread.join()
        os.close(self._stop_reader)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stop_reader, zmq.POLLIN)
        with contextlib.closing(self._socket):
            while True:
                ready = dict(poller.poll(int(REFRESH_S * 1000)))
                if self._stop_reader in ready:
                    return
                self._allowed = self._clients.read()
                if self._socket in ready:
                    self._socket.send_multipart(self._answer(self._socket.recv_multipart()))

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """The reply to one ZAP request: version, id, domain, address, identity, mechanism, key."""
        version, request_id, *rest = request
        key = z85.encode(request[6]) if len(request) == _ZAP_FIELDS and rest[3] == b"CURVE" else b""
        if key in self._allowed:
            return [version, request_id, b"200", b"OK", key, b""]
        self._blame(key, rest[1].decode("ascii", "replace"))
        return [version, request_id, b"400", b"this key is not allowed", b"", b""]

    def _blame(self, key: bytes, address: str) -> None:
        if key not in self._blamed and len(self._blamed) < _BLAMED_MAX:
            self._blamed.add(key)
            logger.warning("client key refused", extra={"key": key.decode(), "address": address})


def _harden(socket: Socket) -> None:
    """What a network asks for: a peer that is gone is noticed, and cannot make us hold what it never reads."""
    options: dict[int, Any] = {
        zmq.SNDHWM: limits.REMOTE_HWM,
        zmq.RCVHWM: limits.REMOTE_HWM,
        # libzmq takes only whole parts for a sign of life: with 3 s, 20 MB over a link of 4 MB/s never arrived. TCP
        # notices a broken path, since its acknowledgements go on during a part, and the supervisor a dead process.
        zmq.HEARTBEAT_IVL: limits.REMOTE_HEARTBEAT_MS,
        zmq.HEARTBEAT_TIMEOUT: limits.REMOTE_PART_MS_MAX,
        zmq.HEARTBEAT_TTL: limits.REMOTE_PART_MS_MAX,
        zmq.TCP_MAXRT: limits.REMOTE_BROKEN_MS,
        zmq.TCP_KEEPALIVE: 1,
    }
    for option, value in options.items():
        socket.set(option, value)
