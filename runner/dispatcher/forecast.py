"""What a dispatcher publishes of its state, for those who decide whether to send it a request at all."""

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import nlargest

from paceline.runner.dispatcher.backlog import Backlog, KeyState
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.fleet import Fleet
from paceline.runner.dispatcher.table_book import TableBook

RATE_KEYS_MAX = 16  # the drain rate is that of the keys with most rows: a queue of a thousand keys must not cost more


@dataclass(frozen=True, slots=True)
class WorkerForecast:
    """`free_at`: absolute time in seconds at which all that the worker holds is predicted to be done; inf = unknown,
    a time up to `Forecast.at` = idle or due any moment. A worker that drains is not listed."""

    worker_id: Hashable
    profile: str
    free_at: float


@dataclass(frozen=True, slots=True)
class KeyForecast:
    """One key on one profile. Between `points` (rows, seconds) of its latency table draw straight lines, be flat below
    the first, and go on with the last slope beyond; no points = nothing is known, refuse nothing. Only on the word of
    a `known` (given) table may a request be called infeasible for good. `rows_max`: cap of one batch. `rows_per_s`: of
    one worker at the best batch size, 0.0 = unknown."""

    key: Hashable
    profile: str
    rows_queued: int
    rows_max: int
    points: tuple[tuple[int, float], ...]
    known: bool
    rows_per_s: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The state at the time `at`. `rows_queued`: all rows that wait for a worker. `drain_rate`: rows per second of all
    workers together for the mix that waits, 0.0 = unknown. `keys`: the keys that wait, or the last one that did, as
    many as were asked for."""

    at: float
    workers: tuple[WorkerForecast, ...]
    rows_queued: int
    rows_queued_max: int
    drain_rate: float
    keys: tuple[KeyForecast, ...]


def read_forecast(
    backlog: Backlog,
    fleet: Fleet,
    tables: TableBook,
    config: DispatcherConfig,
    now: float,
    keys_max: int | None = None,
) -> Forecast:
    """A pure read."""
    workers = tuple(
        WorkerForecast(w.worker_id, w.profile, max(w.free_at, now) if w.batches else now)
        for w in fleet
        if not w.draining
    )
    keys = tuple(
        _key_forecast(state, profile, backlog.cap(state.key, config.max_batch_size, now), tables)
        for state in _largest(backlog, keys_max)
        for profile in fleet.profiles
    )
    rate = drain_rate(backlog, fleet, tables, config)
    return Forecast(now, workers, backlog.rows, config.queue_rows_max, rate, keys)


def drain_rate(backlog: Backlog, fleet: Fleet, tables: TableBook, config: DispatcherConfig) -> float:
    """Rows per second of all workers that are not draining, for the mix of keys that waits; 0.0 = unknown."""
    states = _largest(backlog, RATE_KEYS_MAX)
    rates = {
        profile: _mixed_rate([(state.queue.rows, _rate(state, profile, tables, config)) for state in states])
        for profile in fleet.profiles
    }
    return sum(rates[worker.profile] for worker in fleet if not worker.draining)


def _largest(backlog: Backlog, keys_max: int | None) -> list[KeyState]:
    """The `keys_max` keys with most rows, all if there are no more or None."""
    states = backlog.states()
    if keys_max is None or len(states) <= keys_max:
        return states
    return nlargest(keys_max, states, key=_rows)


def _rows(state: KeyState) -> int:
    return state.queue.rows


def _mixed_rate(parts: list[tuple[int, float]]) -> float:
    """Of (rows, rows per second); parts whose rate is unknown say nothing."""
    parts = [(max(1, rows), rate) for rows, rate in parts if rate > 0]
    return sum(rows for rows, _ in parts) / sum(rows / rate for rows, rate in parts) if parts else 0.0


def _rate(state: KeyState, profile: str, tables: TableBook, config: DispatcherConfig) -> float:
    table = tables.peek(profile, state.key)
    if table is None or table.curve is None:
        return 0.0
    return table.curve.rate(table.curve.best_rows(int(min(config.max_batch_size, table.rows_allowed))))


def _key_forecast(state: KeyState, profile: str, rows_max: int, tables: TableBook) -> KeyForecast:
    table = tables.peek(profile, state.key)
    curve = None if table is None else table.curve
    return KeyForecast(
        key=state.key,
        profile=profile,
        rows_queued=state.queue.rows,
        rows_max=rows_max,
        points=() if curve is None else curve.points,
        known=table is not None and table.known,
        rows_per_s=0.0 if curve is None else curve.rate(curve.best_rows(rows_max)),
    )
