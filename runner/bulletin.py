"""Tells a host's peers of its state: the dispatcher's Forecast as the wire's, seldom, and only what is news to them.

Knows neither sockets nor clocks: `send` is the channel's, `now` an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite

from paceline.protocol import messages
from paceline.protocol.tensor import Buffer
from paceline.runner.dispatcher import Forecast, KeyForecast

INTERVAL_S = 0.02
KEYS_MAX = 1  # the wire has the table of one key


class Bulletin:
    """`want` after each decision, `publish` in each turn: at most one in INTERVAL_S goes out, the last one surely."""

    def __init__(self, send: Callable[[bytes, Sequence[Buffer]], bool]) -> None:
        self._send = send
        self._next_at = -inf
        self._wanted = False
        self._last: messages.Forecast | None = None
        self._told: set[bytes] = set()

    @property
    def wanted_at(self) -> float:
        """When `publish` has something to do (seconds), inf = nothing."""
        return self._next_at if self._wanted else inf

    def want(self) -> None:
        """The state may have changed."""
        self._wanted = True

    def publish(self, forecast: Callable[[float, int], Forecast], origins: set[bytes], now: float) -> None:
        """Send `forecast(now, KEYS_MAX)` to those of `origins` that have not heard it; one that is gone leaves them."""
        if not self._wanted or now < self._next_at:
            return
        self._wanted = False
        self._next_at = now + INTERVAL_S
        current = to_wire(forecast(now, KEYS_MAX))
        if current != self._last:
            self._last = current
            self._told.clear()
        listeners = origins - self._told
        if not listeners:
            return
        message = messages.encode(current)
        for origin in listeners:
            if self._send(origin, message):
                self._told.add(origin)
            else:
                origins.discard(origin)


def to_wire(forecast: Forecast) -> messages.Forecast:
    """The message behind a dispatcher's forecast. The wire has one latency table: that of the key that waits most. A
    worker that is idle, or whose batch nothing is known of, frees at 0."""
    key: KeyForecast | None = max(forecast.keys, key=lambda key: key.rows_queued, default=None)
    points = key.points if key is not None else ()
    return messages.Forecast(
        rows_queued=forecast.rows_queued,
        rows_per_s=float(forecast.drain_rate),
        free_at_ns=tuple([_free_at_ns(worker.free_at, forecast.at) for worker in forecast.workers]),
        sizes=tuple([rows for rows, _ in points]),
        seconds=tuple([float(seconds) for _, seconds in points]),
    )


def _free_at_ns(free_at: float, now: float) -> int:
    return int(free_at * 1e9) if isfinite(free_at) and free_at > now else 0
