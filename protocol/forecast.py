"""The Forecast: what a host can do and what waits there, for those who decide whether to send it a request at all.

A message of the data plane (messages.py), in a file of its own: built by runner/bulletin.py, read by admission.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from paceline.protocol.errors import ProtocolError
from paceline.protocol.limits import (
    FORECAST_POINTS_MAX,
    FORECAST_SIZES_MAX,
    FORECAST_TABLES_MAX,
    FORECAST_WORKERS_MAX,
    ID_CHARS_MAX,
    KEY_BYTES_MAX,
)


@dataclass(frozen=True, slots=True)
class KeyTable:
    """How long a batch of requests with this method, key and length (0 = any) takes: `seconds[i]` for `sizes[i]` rows,
    rising; straight lines between, flat below, the last slope beyond. `known`: given, not learned. `rows_max`: of one
    batch."""

    method: str
    key: bytes
    length: int
    known: bool
    rows_max: int
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BacklogPoint:
    """`rows` of what waits are at least as urgent as this priority and deadline."""

    priority: int
    deadline_ns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """The state of a host at `at_ns`. Times are CLOCK_MONOTONIC nanoseconds of its machine.

    `free_at_ns`: when all that each worker holds is done; 0 = it is idle, or nothing is known. `rows_per_s`: of all
    workers together for the mix that waits, 0.0 = unknown. `tables`: of the keys with most rows, the most first.
    `backlog`: who goes before whom, most urgent first; the last point counts all that waits.
    """

    at_ns: int
    rows_queued: int = 0
    rows_per_s: float = 0.0
    free_at_ns: tuple[int, ...] = ()
    tables: tuple[KeyTable, ...] = ()
    backlog: tuple[BacklogPoint, ...] = ()


def forecast_fields(forecast: Forecast) -> tuple[object, ...]:
    """As they stand in a head."""
    f = forecast
    tables = [
        (t.method, t.key, t.length, t.known, t.rows_max, t.sizes, [float(duration_s) for duration_s in t.seconds])
        for t in f.tables
    ]
    backlog = [(point.priority, point.deadline_ns, point.rows) for point in f.backlog]
    return f.at_ns, f.rows_queued, float(f.rows_per_s), f.free_at_ns, tables, backlog


def forecast_of(fields: list[Any]) -> Forecast:
    """What `forecast_fields` wrote. Raises ProtocolError."""
    if len(fields) != 6 or list(map(type, fields)) != [int, int, float, list, list, list]:
        raise ProtocolError("Forecast does not have its 6 fields")
    at_ns, rows_queued, rows_per_s, free_at, tables, backlog = fields
    if not all(type(value) is int and value >= 0 for value in [at_ns, rows_queued, *free_at]):
        raise ProtocolError("Forecast has rows or times that are not integers >= 0")
    if not 0 <= rows_per_s < math.inf:
        raise ProtocolError("Forecast has a rate that is not a finite float >= 0")
    for what, found, most in (
        ("workers", free_at, FORECAST_WORKERS_MAX),
        ("tables", tables, FORECAST_TABLES_MAX),
        ("points", backlog, FORECAST_POINTS_MAX),
    ):
        if len(found) > most:
            raise ProtocolError(f"Forecast has {len(found)} {what}, over the limit of {most}")
    return Forecast(
        at_ns,
        rows_queued,
        rows_per_s,
        tuple(free_at),
        tuple([_table(row) for row in tables]),
        tuple([_point(row) for row in backlog]),
    )


def _table(row: object) -> KeyTable:
    if type(row) is not list or list(map(type, row)) != [str, bytes, int, bool, int, list, list]:
        raise ProtocolError("Forecast has a table that is not its 7 fields")
    method, key, length, known, rows_max, sizes, seconds = row
    if len(method) > ID_CHARS_MAX or len(key) > KEY_BYTES_MAX or length < 0 or rows_max < 1:
        raise ProtocolError(
            f"Forecast has a table of a method over {ID_CHARS_MAX} characters, of a key over {KEY_BYTES_MAX} bytes, of "
            "a negative length or of batches of less than 1 row"
        )
    if not 1 <= len(sizes) <= FORECAST_SIZES_MAX or len(sizes) != len(seconds):
        raise ProtocolError(
            f"Forecast has a table of {len(sizes)} sizes and {len(seconds)} durations, expected 1 to "
            f"{FORECAST_SIZES_MAX} and as many"
        )
    if not all(type(size) is int for size in sizes) or not all(a < b for a, b in zip([0, *sizes], sizes)):
        raise ProtocolError("Forecast has a table whose sizes are not integers >= 1, each larger than the last")
    if not all(type(value) is float and 0 <= value < math.inf for value in seconds):
        raise ProtocolError("Forecast has a table with durations that are not finite floats >= 0")
    return KeyTable(method, key, length, known, rows_max, tuple(sizes), tuple(seconds))


def _point(row: object) -> BacklogPoint:
    if type(row) is not list or list(map(type, row)) != [int, int, int] or min(row[1:]) < 0:
        raise ProtocolError("Forecast has a point that is not a priority, a time and a count >= 0")
    return BacklogPoint(*row)
