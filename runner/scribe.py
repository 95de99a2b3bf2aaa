"""Writes down the calls of one dispatcher, in the form of recording.py. Pure: calls in, lines out.

Called once per decision on the request path, so it is written to be cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, fields
from hashlib import blake2b
from itertools import count
from typing import Any, NamedTuple

import orjson

from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Cancelled,
    Dispatch,
    DispatcherConfig,
    Event,
    Reject,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.recording import ACTIONS, COLUMNS, EVENTS, FORMAT, VERSION, Header

NOBODY = -1  # the number of a request or worker that was never seen to come
DIGEST_BYTES = 6
_KEYS_MAX = 4096  # digests remembered
_CODES: dict[type[Event | Action], str] = {cls: code for code, cls in (*EVENTS.items(), *ACTIONS.items())}


def header_line(header: Header) -> bytes:
    plain = {f.name: getattr(header, f.name) for f in fields(header)} | {"config": _config_plain(header.config)}
    return _line({"format": FORMAT, "version": VERSION, **plain})


class Scribe:
    """Writes the calls of one dispatcher, in order. Bounded: whoever is done is forgotten, as in the dispatcher."""

    def __init__(self) -> None:
        self._requests: dict[Hashable, int] = {}
        self._workers: dict[Hashable, int] = {}
        self._draining: set[Hashable] = set()
        self._batches: dict[int, _Members] = {}
        self._request_numbers = count()
        self._worker_numbers = count()
        self._keys: dict[Hashable, str] = {}
        self._writers: dict[str, Callable[[Any], object]] = {
            "request_id": self._request,
            "request_ids": self._requests_of,
            "worker_id": self._worker,
            "key": self._key,
            "started": sorted,
        }
        self._columns = {cls: self._columns_of(cls) for cls in _CODES}

    def line(self, now: float, events: Iterable[Event], actions: Iterable[Action], refused: bool = False) -> bytes:
        """One call and its answer."""
        done: list[Hashable] = []
        again: set[Hashable] = set()
        plain: dict[str, object] = {
            "t": now,
            "e": [self._told(event, done, again) for event in events],
            "a": [self._answered(action, done) for action in actions],
        }
        if refused:
            # Nobody is forgotten: the call kept answers back, which the next one gives.
            plain["x"] = True
        else:
            # At the end, because a request may come, be cancelled and be rejected in one call. Who comes a second time
            # in it may still be there.
            for request_id in done:
                if request_id not in again:
                    self._requests.pop(request_id, None)
        return _line(plain)

    def _told(self, event: Event, done: list[Hashable], again: set[Hashable]) -> dict[str, object]:
        if isinstance(event, Arrived):
            self._come(event.request_id, again)
        elif isinstance(event, Cancelled):
            done.append(event.request_id)
        elif isinstance(event, WorkerJoined) and event.worker_id not in self._workers:
            self._workers[event.worker_id] = next(self._worker_numbers)
        plain = self._plain(event)
        # Who goes has its number until this is written.
        if isinstance(event, BatchDone):
            self._finish(event, done)
        elif isinstance(event, WorkerDraining):
            self._draining.add(event.worker_id)
            self._part(event.worker_id)
        elif isinstance(event, WorkerLost):
            self._batches = {n: batch for n, batch in self._batches.items() if batch.worker_id != event.worker_id}
            self._draining.add(event.worker_id)
            self._part(event.worker_id)
        return plain

    def _come(self, request_id: Hashable, again: set[Hashable]) -> None:
        if request_id in self._requests:
            again.add(request_id)
        else:
            self._requests[request_id] = next(self._request_numbers)

    def _finish(self, event: BatchDone, done: list[Hashable]) -> None:
        batch = self._batches.get(event.batch_id)
        if batch is None or batch.worker_id != event.worker_id:
            return
        del self._batches[event.batch_id]
        done += [one for one, number in batch.requests if self._requests.get(one) == number]
        if event.worker_id in self._draining:
            self._part(event.worker_id)

    def _part(self, worker_id: Hashable) -> None:
        """Forget a worker that leaves, unless it still holds a batch."""
        if all(batch.worker_id != worker_id for batch in self._batches.values()):
            self._workers.pop(worker_id, None)
            self._draining.discard(worker_id)

    def _answered(self, action: Action, done: list[Hashable]) -> dict[str, object]:
        if isinstance(action, Dispatch):
            requests = [(one, self._requests.get(one, NOBODY)) for one in action.request_ids]
            self._batches[action.batch_id] = _Members(action.worker_id, requests)
        elif isinstance(action, Reject):
            done.append(action.request_id)
        return self._plain(action)

    def _plain(self, record: Event | Action) -> dict[str, object]:
        """A record by short names, without what is at its default."""
        cls = type(record)
        plain: dict[str, object] = {"e": _CODES[cls]}
        for name, short, default, write in self._columns[cls]:
            value = getattr(record, name)
            if value != default:
                plain[short] = value if write is None else write(value)
        return plain

    def _columns_of(self, cls: type) -> list[_Column]:
        return [
            _Column(f.name, COLUMNS[f.name].short, MISSING if f.name == "key" else f.default, self._writers.get(f.name))
            for f in fields(cls)
        ]

    def _request(self, request_id: Hashable) -> int:
        return self._requests.get(request_id, NOBODY)

    def _requests_of(self, request_ids: Iterable[Hashable]) -> list[int]:
        return [self._requests.get(request_id, NOBODY) for request_id in request_ids]

    def _worker(self, worker_id: Hashable) -> int:
        return self._workers.get(worker_id, NOBODY)

    def _key(self, key: Hashable) -> str:
        text = self._keys.get(key)
        if text is None:
            if len(self._keys) >= _KEYS_MAX:
                self._keys.clear()
            text = self._keys[key] = key_text(key)
        return text


class _Members(NamedTuple):
    """Who holds a batch, and its requests with their numbers: an id that was cancelled may have come again since."""

    worker_id: Hashable
    requests: list[tuple[Hashable, int]]


class _Column(NamedTuple):
    name: str
    short: str
    default: object
    write: Callable[[Any], object] | None


def key_text(key: Hashable) -> str:
    """`method/digest` of a key with a method in front; a text stays as it is, anything else is a digest."""
    if isinstance(key, tuple) and key:
        return f"{_name(key[0])}/{_digest(key[1:])}"
    return _name(key)


def _name(value: object) -> str:
    return value if isinstance(value, str) and "/" not in value else _digest(value)


def _digest(value: object) -> str:
    return blake2b(repr(value).encode(), digest_size=DIGEST_BYTES).hexdigest()


def _line(plain: dict[str, object]) -> bytes:
    line = orjson.dumps(plain, option=orjson.OPT_APPEND_NEWLINE)
    # JSON has no infinity: orjson writes null, which stands nowhere else. Floats are exact otherwise.
    return orjson.dumps(_finite(plain), option=orjson.OPT_APPEND_NEWLINE) if b"null" in line else line


def _finite(value: object) -> object:
    """Infinite numbers as texts."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and value - value != 0 else value


def _config_plain(config: DispatcherConfig) -> dict[str, object]:
    """By field; a table as a list of [rows, seconds]. What is None is left out."""
    plain = {f.name: getattr(config, f.name) for f in fields(config)}
    if config.latency_table is not None:
        plain["latency_table"] = _points(config.latency_table)
    if config.latency_tables is not None:
        plain["latency_tables"] = {name: _points(table) for name, table in config.latency_tables.items()}
    return {name: value for name, value in plain.items() if value is not None}


def _points(table: Mapping[int, float]) -> list[list[float]]:
    return [[rows, seconds] for rows, seconds in table.items()]
