"""Reads the rest of one large body straight from the socket into its buffer: no copy between kernel and request.

Stands in for the connection's protocol while the body comes in, then hands the connection back.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class BodyOwner(Protocol):
    """The connection's own protocol."""

    def body_progress(self, nbytes: int) -> None: ...

    def body_complete(self, body: bytearray) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class BodyReader(asyncio.BufferedProtocol):
    """`total_bytes` of body, of which `received` came already."""

    def __init__(self, owner: BodyOwner, received: bytes | bytearray, total_bytes: int) -> None:
        self._owner = owner
        self._body = bytearray(total_bytes)
        self._body[: len(received)] = received
        self._view = memoryview(self._body)
        self._at = len(received)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at == len(self._body):
            self._owner.body_complete(self._body)
        else:
            self._owner.body_progress(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
