"""One request's deadline: it cancels the function, and bounds the runner calls that the function makes."""

from __future__ import annotations

import asyncio
import contextvars
import math
from types import TracebackType

from paceline.handle import deadline
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded, InvalidParameter

TIMEOUT = "x-request-timeout-ms"


class RequestDeadline:
    """`async with` it: what is in there is cancelled at `at`, which raises DeadlineExceeded.

    `of_client`: the client named it. Then it holds for a stream to its end, else for a stream's beginning only: how
    long a stream may be, nobody has said.
    """

    def __init__(self, at: float, of_client: bool) -> None:
        self._at = at
        self._of_client = of_client
        self._timeout: asyncio.Timeout
        self._token: contextvars.Token[float | None]

    async def __aenter__(self) -> RequestDeadline:
        self._token = deadline.set(self._at)
        self._timeout = asyncio.timeout(self._at - SystemClock.now())
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline.reset(self._token)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise DeadlineExceeded("the deadline passed before the function had finished") from late

    def answer_begins(self) -> None:
        """The whole answer is there: how long the client takes to read it is the connection's matter."""
        self._timeout.reschedule(None)

    def stream_begins(self) -> None:
        """The first piece of a stream is there."""
        if not self._of_client:
            self._timeout.reschedule(None)
            deadline.set(None)


def seconds_of(header: str) -> float:
    """The time that a client gives its request. Raises InvalidParameter."""
    try:
        given_ms = float(header)
    except ValueError:
        given_ms = math.nan
    if not 0 < given_ms < math.inf:
        raise InvalidParameter(f"{TIMEOUT} is {header[:32]!r}, expected a number of milliseconds > 0")
    return given_ms / 1e3
