"""Tells a host's peers of its state: the dispatcher's Forecast as the wire's, seldom, and only what is news to them.

Knows neither sockets nor clocks: `send` is the channel's, `now` an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite
from typing import cast

from paceline.protocol import messages
from paceline.protocol.forecast import BacklogPoint, KeyTable
from paceline.protocol.limits import FORECAST_SIZES_MAX, FORECAST_TABLES_MAX, FORECAST_WORKERS_MAX
from paceline.protocol.tensor import Buffer
from paceline.runner.dispatcher import Forecast, KeyForecast

INTERVAL_S = 0.02
IDLE_S = 0.001  # who frees so soon counts as idle: under light load there is then nothing to tell
NEWS = 0.05  # a duration or rate that moves less is none
TIME_NS_MAX = 2**63 - 1  # what no deadline is later than


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
        """Send `forecast(now, keys)` to those of `origins` that have not heard it; one that is gone leaves them."""
        if not self._wanted or now < self._next_at:
            return
        self._wanted = False
        self._next_at = now + INTERVAL_S
        current = to_wire(forecast(now, FORECAST_TABLES_MAX))
        if self._last is None or _is_news(self._last, current):
            self._last = current
            self._told.clear()
        listeners = origins - self._told
        if not listeners:
            return
        message = messages.encode(self._last)
        for origin in listeners:
            if self._send(origin, message):
                self._told.add(origin)
            else:
                origins.discard(origin)


def to_wire(forecast: Forecast) -> messages.Forecast:
    """The message behind a dispatcher's forecast. A worker that is idle, or of unknown end, frees at 0."""
    free_at = sorted([_free_at_ns(worker.free_at, forecast.at) for worker in forecast.workers])
    return messages.Forecast(
        at_ns=_ns(forecast.at),
        rows_queued=forecast.rows_queued,
        rows_per_s=float(forecast.drain_rate),
        free_at_ns=tuple(free_at[:FORECAST_WORKERS_MAX]),
        tables=_tables(forecast.keys),
        backlog=tuple([BacklogPoint(priority, _ns(deadline), rows) for priority, deadline, rows in forecast.backlog]),
    )


def _tables(keys: Iterable[KeyForecast]) -> tuple[KeyTable, ...]:
    """Of each key and length that is known on any kind of worker, on the fastest kind; those with most rows first. A
    given table is that of all keys and lengths, so one of each method will do."""
    fastest: dict[object, KeyForecast] = {}
    for key in keys:
        name = _method(key) if key.known else (key.key, key.length)
        other = fastest.get(name)
        if key.points and (other is None or key.rows_per_s > other.rows_per_s):
            fastest[name] = key
    most_first = sorted(fastest.values(), key=lambda key: -key.rows_queued)
    return tuple([_table(key) for key in most_first[:FORECAST_TABLES_MAX]])


def _method(key: KeyForecast) -> str:
    method, _ = cast("tuple[str, bytes]", key.key)
    return method


def _table(forecast: KeyForecast) -> KeyTable:
    method, key = cast("tuple[str, bytes]", forecast.key)
    points = _thinned(forecast.points)
    return KeyTable(
        method,
        key,
        0 if forecast.known else forecast.length,
        forecast.known,
        forecast.rows_max,
        tuple([rows for rows, _ in points]),
        tuple([float(seconds) for _, seconds in points]),
    )


def _thinned(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    """At most FORECAST_SIZES_MAX of them, the first and the last among them."""
    if len(points) <= FORECAST_SIZES_MAX:
        return points
    last = len(points) - 1
    return tuple([points[last * index // (FORECAST_SIZES_MAX - 1)] for index in range(FORECAST_SIZES_MAX)])


def _free_at_ns(free_at: float, now: float) -> int:
    return _ns(free_at) if isfinite(free_at) and free_at > now + IDLE_S else 0


def _ns(seconds: float) -> int:
    return int(max(0.0, seconds) * 1e9) if seconds < TIME_NS_MAX / 1e9 else TIME_NS_MAX


def _is_news(last: messages.Forecast, current: messages.Forecast) -> bool:
    """Whether anything but the time is different, for somebody who admits requests by it."""
    return (
        last.rows_queued != current.rows_queued
        or last.free_at_ns != current.free_at_ns
        or last.backlog != current.backlog
        or len(last.tables) != len(current.tables)
        or not _alike((last.rows_per_s,), (current.rows_per_s,))
        or not all(map(_same_table, last.tables, current.tables))
    )


def _same_table(last: KeyTable, current: KeyTable) -> bool:
    return (
        (last.key, last.method, last.length, last.known) == (current.key, current.method, current.length, current.known)
        and (last.rows_max, last.sizes) == (current.rows_max, current.sizes)
        and _alike(last.seconds, current.seconds)
    )


def _alike(last: Iterable[float], current: Iterable[float]) -> bool:
    return all(abs(a - b) <= NEWS * a for a, b in zip(last, current, strict=True))
