"""What a desk owes its peers: outcomes gathered per origin, sent as one message each, kept for a while if refused.

Knows neither sockets nor clocks: `send` is the channel's, `now` an argument. A peer whose pipe is full gets its answers
a little later; one that is gone loses them: the bound in count, bytes and time is the same for both.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from paceline.protocol.errors import RequestError
from paceline.protocol.messages import Failure, Result
from paceline.protocol.tensor import Buffer
from paceline.runner.answers import answer_messages
from paceline.runner.inbox import Held

logger = logging.getLogger(__name__)

BACKLOG_MESSAGES_MAX = 256
BACKLOG_BYTES_MAX = 64 * 1024 * 1024
BACKLOG_S = 1.0
RETRY_S = 0.01
MESSAGE_CHARS_MAX = 2000


@dataclass(slots=True, eq=False)
class _Due:
    """What one origin gets at the next flush."""

    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Backlog:
    """Messages that one peer's pipe refused, oldest first; all are dropped at `until`."""

    until: float
    messages: deque[list[Buffer]] = field(default_factory=deque)
    nbytes: int = 0


class Outbox:
    """Gather with `result` and `fail`, send with `flush`; `retry` what was refused until it is too old."""

    def __init__(self, send: Callable[[bytes, Sequence[Buffer]], bool]) -> None:
        self.messages_dropped = 0
        self._send = send
        self._due: dict[bytes, _Due] = {}
        self._backlogs: dict[bytes, _Backlog] = {}
        self._retry_at = inf

    def __bool__(self) -> bool:
        """Whether anything is still to be sent."""
        return bool(self._due or self._backlogs)

    def result(self, origin: bytes, result: Result) -> None:
        self._due_to(origin).results.append(result)

    def fail(self, held: Held, error: RequestError) -> None:
        """Answer `held` with `error`."""
        item = held.item
        self.refuse(held.key[0], item.counter, item.attempt, error.code, error.message, error.retry_after_s)

    def refuse(
        self,
        origin: bytes,
        counter: int,
        attempt: int,
        code: str,
        message: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        """Answer a request with an error code; a long message is cut."""
        failure = Failure(counter, attempt, code, message[:MESSAGE_CHARS_MAX], retry_after_s)
        self._due_to(origin).failures.append(failure)

    def forward(self, origin: bytes, message: list[Buffer], now: float) -> None:
        """Send an Answers message as it is, at once."""
        if origin in self._backlogs or not self._send(origin, message):
            self._keep(origin, message, now)

    def flush(self, now: float) -> None:
        """Send what was gathered, after what waits already for the same peer."""
        if self._backlogs:
            self.retry(now)
        for origin, due in self._due.items():
            for message in answer_messages(origin, due.results, due.failures):
                self.forward(origin, message, now)
        self._due.clear()

    def retry(self, now: float) -> None:
        """Try again what was refused, drop what is too old."""
        self._retry_at = now + RETRY_S
        for peer, backlog in list(self._backlogs.items()):
            while backlog.messages and self._send(peer, backlog.messages[0]):
                backlog.nbytes -= _nbytes(backlog.messages.popleft())
            if not backlog.messages or now >= backlog.until:
                del self._backlogs[peer]
                self._dropped(peer, len(backlog.messages))

    def retry_at(self) -> float:
        """When to call `retry` next (seconds), inf if nothing waits."""
        return self._retry_at if self._backlogs else inf

    def _due_to(self, origin: bytes) -> _Due:
        due = self._due.get(origin)
        if due is None:
            due = self._due[origin] = _Due()
        return due

    def _keep(self, peer: bytes, message: list[Buffer], now: float) -> None:
        backlog = self._backlogs.get(peer)
        if backlog is None:
            backlog = self._backlogs[peer] = _Backlog(now + BACKLOG_S)
            self._retry_at = now + RETRY_S
        nbytes = _nbytes(message)
        full = len(backlog.messages) >= BACKLOG_MESSAGES_MAX or backlog.nbytes + nbytes > BACKLOG_BYTES_MAX
        if full and backlog.messages:
            self._dropped(peer, 1)
            return
        backlog.messages.append(message)
        backlog.nbytes += nbytes

    def _dropped(self, peer: bytes, count: int) -> None:
        if not count:
            return
        self.messages_dropped += count
        logger.debug("answers dropped: peer unreachable", extra={"peer": peer.hex(), "messages": count})


def _nbytes(message: Sequence[Buffer]) -> int:
    return sum(map(len, message))
