"""What all connections of one API server process share, and the bounds they keep."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from paceline.api_server.infer import InferRoute, RequestIds
from paceline.api_server.unsent import UnsentAnswers
from paceline.protocol import limits
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import QueueFull


@dataclass(frozen=True, slots=True)
class HttpBounds:
    """The bounds of one connection; times in seconds, each kept by a sweep and so up to a second late.

    `bodies_bytes` and `answers_bytes` bound what all connections together hold: of bodies that are still coming in,
    and of answers that their clients do not read. `body_bytes_per_s` holds for every `body_grace_s` of a body's way.
    """

    body_bytes: int = limits.BODY_BYTES_MAX
    json_bytes: int = limits.JSON_BYTES_MAX
    headers_bytes: int = limits.HEADERS_BYTES_MAX
    headers_count: int = limits.HEADERS_COUNT_MAX
    target_bytes: int = limits.TARGET_BYTES_MAX
    chunks: int = limits.BODY_CHUNKS_MAX
    bodies_bytes: int = 256 * 1024 * 1024
    answers_bytes: int = 256 * 1024 * 1024
    pipelined: int = 128
    connections: int = 10_000
    headers_s: float = limits.HEADERS_READ_S
    body_idle_s: float = 30.0
    body_grace_s: float = 10.0
    body_bytes_per_s: float = 1000.0
    body_s: float = limits.TIMEOUT_MAX_MS / 1e3
    keep_alive_s: float = 75.0
    linger_s: float = 2.0
    write_stall_s: float = 60.0


class Connection(Protocol):
    def end_if_stalled(self, now: float) -> None: ...


class Front:
    """The infer route, bounds, request ids, open connections, and each second's status lines. `draining`: connections
    end with their next answer."""

    def __init__(self, route: InferRoute, ids: RequestIds, bounds: HttpBounds) -> None:
        self.route = route
        self.ids = ids
        self.bounds = bounds
        self.now = SystemClock.now()
        self.connections: set[Connection] = set()
        self.draining = False
        self.unsent = UnsentAnswers(bounds.answers_bytes)
        self._bodies_bytes = 0
        self._status_lines: dict[int, bytes] = {}

    def reserve(self, nbytes: int) -> None:
        """Room for a body that comes in. Raises QueueFull."""
        if self._bodies_bytes + nbytes > self.bounds.bodies_bytes:
            raise QueueFull(
                f"the server is receiving {self._bodies_bytes} bytes of requests, its limit; retry later",
                retry_after_s=1.0,
            )
        self._bodies_bytes += nbytes

    def release(self, nbytes: int) -> None:
        self._bodies_bytes -= nbytes

    def status_line(self, status: int) -> bytes:
        """Status line and date, made once a second."""
        line = self._status_lines.get(status)
        if line is None:
            line = self._status_lines[status] = b"%sdate: %s\r\n" % (STATUS_LINE[status], self.date())
        return line

    def date(self) -> bytes:
        return formatdate(time.time(), usegmt=True).encode()

    def sweep(self, now: float) -> None:
        """To be called about once a second: ends what waits too long, renews the date."""
        self.now = now
        self._status_lines.clear()
        for connection in list(self.connections):
            connection.end_if_stalled(now)
