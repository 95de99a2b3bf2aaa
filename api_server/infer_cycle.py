"""One infer request on its connection: what the lean way keeps where uvicorn keeps a RequestResponseCycle."""

from __future__ import annotations

from typing import Protocol

from paceline.api_server.answer import Answer
from paceline.api_server.infer import Exchange, Target


class CycleOwner(Protocol):
    """The connection."""

    def send_answer(self, cycle: InferCycle, answer: Answer) -> None: ...


class _NoEvent:
    """What uvicorn's protocol sets on a cycle at the connection's end; a lean cycle has nobody waiting for it."""

    def set(self) -> None: ...


class InferCycle:
    """`length` is that of the body, -1 if chunked. `active`: the answers before this one are out. `complete`: the body
    is all here. The other names are those that uvicorn's protocol looks at."""

    __slots__ = (
        "_owner",
        "active",
        "body",
        "chunks",
        "complete",
        "disconnected",
        "exchange",
        "expects_continue",
        "headers",
        "keep_alive",
        "length",
        "response_complete",
        "target",
        "upgrade_body",
    )
    message_event = _NoEvent()

    def __init__(
        self, owner: CycleOwner, target: Target, headers: dict[bytes, bytes], length: int, keep_alive: bool
    ) -> None:
        self._owner = owner
        self.target = target
        self.headers = headers
        self.length = length
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.body: bytes | bytearray = b""
        self.chunks = 0
        self.active = self.complete = self.response_complete = self.disconnected = self.upgrade_body = False
        self.exchange: Exchange | None = None

    def send(self, answer: Answer) -> None:
        self._owner.send_answer(self, answer)
