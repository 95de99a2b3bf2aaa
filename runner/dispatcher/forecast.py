"""What a dispatcher publishes of its state, for those who decide whether to send it a request at all."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice

from paceline.runner.dispatcher.backlog import Backlog, KeyState
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.fleet import Fleet
from paceline.runner.dispatcher.queue import Lane
from paceline.runner.dispatcher.table_book import TableBook

RATE_KEYS_MAX = 16  # the drain rate is that of the keys with most rows: a queue of a thousand keys must not cost more
KEYS_SEEN_MAX = 512  # and those are looked for among so many that wait, for the same reason
BACKLOG_POINTS = 8
SAMPLES_MAX = 64  # of the queue, to find these points


@dataclass(frozen=True, slots=True)
class WorkerForecast:
    """`free_at`: absolute time in seconds at which all that the worker holds is predicted to be done; inf = unknown,
    a time up to `Forecast.at` = idle or due any moment. A worker that drains is not listed."""

    worker_id: Hashable
    profile: str
    free_at: float


@dataclass(frozen=True, slots=True)
class KeyForecast:
    """One key and length on one profile. Between `points` (rows, seconds) of its latency table draw straight lines, be
    flat below the first, and go on with the last slope beyond; no points = nothing is known, refuse nothing. Only on
    the word of a `known` (given) table may a request be called infeasible for good. `rows_max`: cap of one batch.
    `rows_per_s`: of one worker at the best batch size, 0.0 = unknown."""

    key: Hashable
    profile: str
    rows_queued: int
    rows_max: int
    points: tuple[tuple[int, float], ...]
    known: bool
    rows_per_s: float
    length: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """The state at the time `at`. `rows_queued`: all rows that wait for a worker. `drain_rate`: rows per second of all
    workers together for the mix that waits, 0.0 = unknown. `keys`: the keys that wait, or the last one that did, as
    many as were asked for.

    `backlog`: who goes before whom, over all keys, as up to 8 points (priority, deadline, rows), most urgent first:
    `rows` of what waits are at least as urgent as this priority and deadline. The last point counts all that waits;
    nothing waits = no points. A request that sorts between two points waits for the rows of the one before it (0 if it
    sorts before all) for certain, and at most for those of the one after it. Exact for one key of equal rows, else
    rounded: the rows of a request are taken to be its class's mean."""

    at: float
    workers: tuple[WorkerForecast, ...]
    rows_queued: int
    rows_queued_max: int
    drain_rate: float
    keys: tuple[KeyForecast, ...]
    backlog: tuple[tuple[int, float, int], ...] = ()


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
        for state in (backlog.states() if keys_max is None else _largest(backlog, keys_max))
        for profile in fleet.profiles
    )
    rate = drain_rate(backlog, fleet, tables, config)
    return Forecast(now, workers, backlog.rows, config.queue_rows_max, rate, keys, _backlog_points(backlog))


def drain_rate(backlog: Backlog, fleet: Fleet, tables: TableBook, config: DispatcherConfig) -> float:
    """Rows per second of all workers that are not draining, for the mix of keys that waits; 0.0 = unknown."""
    states = _largest(backlog, RATE_KEYS_MAX)
    rates = {
        profile: _mixed_rate([(state.queue.rows, _rate(state, profile, tables, config)) for state in states])
        for profile in fleet.profiles
    }
    return sum(rates[worker.profile] for worker in fleet if not worker.draining)


def _backlog_points(backlog: Backlog) -> tuple[tuple[int, float, int], ...]:
    """A few requests of each class and key stand for those before them: neither lanes nor keys are walked."""
    lanes = [lane for state in _largest(backlog, RATE_KEYS_MAX) for lane in state.queue.lanes]
    lanes = lanes[:: 1 + len(lanes) // SAMPLES_MAX]
    each = min(BACKLOG_POINTS, 1 + SAMPLES_MAX // max(1, len(lanes)))
    samples = sorted([sample for lane in lanes for sample in _samples(lane, each)])
    scale = backlog.rows / max(1, sum([lane.rows for lane in lanes]))  # what was not looked at is taken to be like this
    points: list[tuple[int, float, int]] = []
    rows, step = 0.0, backlog.rows / BACKLOG_POINTS
    for number, (priority, deadline, share) in enumerate(samples, start=1):
        rows += share * scale
        if rows + 0.5 >= step * (len(points) + 1) or number == len(samples):
            points.append((priority, deadline, round(rows)))
    return tuple(points)


def _samples(lane: Lane, count: int) -> Iterator[tuple[int, float, float]]:
    """(priority, deadline, rows from the sample before to this one), the last of the lane among them."""
    entries = lane.entries
    before, rows_each = 0, lane.rows / len(entries)
    for number in range(1, count + 1):
        end = len(entries) * number // count
        if end > before:
            yield lane.priority, entries[end - 1].deadline, (end - before) * rows_each
            before = end


def _largest(backlog: Backlog, keys_max: int) -> list[KeyState]:
    """The `keys_max` keys with most rows, of those that have waited longest; the last that waited if none does."""
    states = list(islice(backlog.waiting.values(), KEYS_SEEN_MAX)) or backlog.states()
    return states if len(states) <= keys_max else nlargest(keys_max, states, key=_rows)


def _rows(state: KeyState) -> int:
    return state.queue.rows


def _mixed_rate(parts: list[tuple[int, float]]) -> float:
    """Of (rows, rows per second); parts whose rate is unknown say nothing."""
    parts = [(max(1, rows), rate) for rows, rate in parts if rate > 0]
    return sum(rows for rows, _ in parts) / sum(rows / rate for rows, rate in parts) if parts else 0.0


def _rate(state: KeyState, profile: str, tables: TableBook, config: DispatcherConfig) -> float:
    table = tables.peek(profile, state.key, state.length)
    if table is None or table.curve is None:
        return 0.0
    return table.curve.rate(table.curve.best_rows(int(min(config.max_batch_size, table.rows_allowed))))


def _key_forecast(state: KeyState, profile: str, rows_max: int, tables: TableBook) -> KeyForecast:
    table = tables.peek(profile, state.key, state.length)
    curve = None if table is None else table.curve
    return KeyForecast(
        key=state.key,
        profile=profile,
        rows_queued=state.queue.rows,
        rows_max=rows_max,
        points=() if curve is None else curve.points,
        known=table is not None and table.known,
        rows_per_s=0.0 if curve is None else curve.rate(curve.best_rows(rows_max)),
        length=state.length,
    )
