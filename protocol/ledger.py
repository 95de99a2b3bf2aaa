"""The request ledger: who owes an answer to whom, until when, and what fits into each host's window. Pure.

One `Ledger` per API server process or native client: it owns every open request from `submit` to its one terminal
answer, whatever happens to hosts. The shell around it (hosts.py) sends what `take` hands out, feeds in answers,
host changes and time, and delivers what comes back. Knows no socket, clock or future: `token` is the caller's own.

Life of an entry: pending -> sent (take) -> closed, once: settle, expire, cancel or fail. A host's death, or its refusal
because it drains, puts it back to pending with a new attempt if starts and deadline allow. A host's window counts what
was sent and not yet answered, also requests that nobody waits for any more: their bytes are still in its pipe.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from paceline.protocol import limits
from paceline.protocol.errors import (
    DeadlineExceeded,
    NoWorker,
    QueueFull,
    RequestError,
    WorkerLost,
)
from paceline.protocol.messages import InferItem

_BUCKET_NS = 4_000_000


@dataclass(frozen=True, slots=True)
class LedgerLimits:
    """Bounds: per host what may be unanswered (requests for each of its workers), per runner what may wait for a place,
    in requests and bytes."""

    window_requests: int = limits.WINDOW_REQUESTS
    window_bytes: int = limits.WINDOW_BYTES
    pending_requests: int = limits.PENDING_REQUESTS_MAX
    pending_bytes: int = limits.PENDING_BYTES_MAX
    starts_max: int = limits.STARTS_MAX


@dataclass(slots=True, eq=False)
class Entry:
    """One open request. Only the ledger writes to it. `host` is the incarnation it was last sent to, None = pending."""

    runner: str
    item: InferItem
    token: object
    deadline_s: float
    nbytes: int
    idempotent: bool
    host: bytes | None = None
    closed: bool = False


@dataclass(slots=True, eq=False)
class _Host:
    """A host's window: `owed` is everything sent to it that it has not answered. `suspect`: the last request that it
    got that may have killed another one, answered or not."""

    incarnation: bytes
    runner: str
    nbytes: int = 0
    owed: dict[int, Entry] = field(default_factory=dict)
    suspect: int | None = None


@dataclass(slots=True, eq=False)
class _Runner:
    """What waits for a runner: `again` (resends) goes before `pending`; both by counter, in order of arrival.

    OrderedDict, because the first of a dict is found by scanning past all that were deleted before it. `workers`: how
    many there are behind one host.
    """

    workers: int = 1
    again: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    pending: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    pending_bytes: int = 0
    pending_rows: int = 0
    hosts: list[_Host] = field(default_factory=list)
    turn: int = 0
    failed: str = ""


class Ledger:
    """See the module. All times are float seconds of one monotonic clock, passed in as `now`."""

    def __init__(self, runners: Mapping[str, int], bounds: LedgerLimits | None = None) -> None:
        """`runners`: by name, how many workers there are behind one host: all for a broker, else one."""
        self._bounds = bounds or LedgerLimits()
        self._runners = {name: _Runner(workers) for name, workers in runners.items()}
        self._hosts: dict[bytes, _Host] = {}
        self._open: dict[int, Entry] = {}
        self._buckets: dict[int, dict[int, Entry]] = {}
        self._bucket_heap: list[int] = []

    def __len__(self) -> int:
        """Open requests: accepted and not yet answered."""
        return len(self._open)

    def submit(self, runner: str, item: InferItem, token: object, nbytes: int, idempotent: bool = True) -> Entry:
        """Accept a request of `nbytes` payload; it waits until `take` hands it out.

        Raises QueueFull (bounds reached; one alone may be over the bytes) or NoWorker (the runner was given up).
        """
        assert item.counter not in self._open, f"counter {item.counter} is open already"
        state = self._runners[runner]
        if state.failed:
            raise NoWorker(f"runner {runner!r} has no worker: {state.failed}")
        waiting = len(state.pending) + len(state.again)
        bounds = self._bounds
        too_many_bytes = waiting and state.pending_bytes + nbytes > bounds.pending_bytes
        if waiting >= bounds.pending_requests or too_many_bytes:
            raise QueueFull(
                f"runner {runner!r} has {waiting} requests ({state.pending_bytes} bytes) waiting in this process, "
                f"its limit; retry later",
                retry_after_s=1.0,
            )
        entry = Entry(runner, item, token, item.deadline_ns / 1e9, nbytes, idempotent)
        self._open[item.counter] = entry
        self._watch(entry)
        state.pending[item.counter] = entry
        state.pending_bytes += nbytes
        state.pending_rows += item.rows
        return entry

    def take(self, runner: str) -> list[tuple[bytes, list[InferItem]]]:
        """What may be sent now: (host incarnation, items in order of arrival) per host with room, hosts in turn.

        Suspects, which were started before and whose worker died, go to a host one at a time: the next one may kill it
        too, and by then the answer of the one before is here, not lost inside a dead process with its last start.
        """
        state = self._runners[runner]
        sent: dict[bytes, list[InferItem]] = {}
        for entry in list(state.again.values()):
            if entry.item.suspect and all(host.suspect in host.owed for host in state.hosts):
                continue
            if not self._hand_over(state, state.again, entry, sent):
                return list(sent.items())
        while state.pending:
            if not self._hand_over(state, state.pending, next(iter(state.pending.values())), sent):
                break
        return list(sent.items())

    def unsent(self, incarnation: bytes, items: Iterable[InferItem]) -> None:
        """The channel refused these (pipe full, peer unreachable): they wait again, in front, as never sent."""
        host = self._hosts.get(incarnation)
        if host is None:
            return
        again: list[Entry] = []
        for item in items:
            entry = host.owed.pop(item.counter, None)
            if entry is None:
                continue
            host.nbytes -= entry.nbytes
            if not entry.closed:
                again.append(entry)
        self._wait_again(self._runners[host.runner], again)

    def settle(self, incarnation: bytes, counter: int, attempt: int) -> Entry | None:
        """An answer came: the entry it closes, or None if it is late, cancelled or of an older attempt."""
        host = self._hosts.get(incarnation)
        entry = host.owed.get(counter) if host is not None else None
        if host is None or entry is None or entry.item.attempt != attempt:
            return None
        del host.owed[counter]
        host.nbytes -= entry.nbytes
        return None if entry.closed else self._close(entry)

    def cancel(self, counter: int) -> tuple[Entry, bytes | None] | None:
        """Nobody waits any more: the entry and the host to tell, or None if it was answered already."""
        entry = self._open.get(counter)
        if entry is None:
            return None
        self._close(entry)
        return entry, entry.host

    def expire(self, now: float) -> list[Entry]:
        """Close and return all whose deadline passed, at most 4 ms late; `entry.host` says whom to tell."""
        expired: list[Entry] = []
        while self._bucket_heap and _bucket_end_s(self._bucket_heap[0]) <= now:
            bucket = self._buckets[self._bucket_heap[0]]
            expired.extend(self._close(entry) for entry in list(bucket.values()))
            del self._buckets[heapq.heappop(self._bucket_heap)]
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` should be asked next (seconds), None if nothing is open."""
        while self._bucket_heap:
            first = self._bucket_heap[0]
            if self._buckets[first]:
                return _bucket_end_s(first)
            del self._buckets[heapq.heappop(self._bucket_heap)]
        return None

    def host_up(self, runner: str, incarnation: bytes) -> None:
        """A host is ready for `runner`, for the first time or again; one that takes requests is left as it is."""
        host = self._hosts.setdefault(incarnation, _Host(incarnation, runner))
        state = self._runners[runner]
        if host not in state.hosts:
            state.hosts.append(host)
            state.failed = ""

    def host_down(
        self, incarnation: bytes, started: frozenset[int] | None, now: float, suspects: bool = True
    ) -> list[tuple[Entry, RequestError]]:
        """A host died. Its requests wait again, in front; those out of starts or time are closed and returned.

        `started`: counters of this origin that the host had begun, answered ones too; None = any may have started.
        `suspects`: whether one of them may have been its death; False for a broker, which runs no model.
        """
        host = self._hosts.pop(incarnation, None)
        if host is None:
            return []
        state = self._runners[host.runner]
        if host in state.hosts:
            state.hosts.remove(host)
        again: list[Entry] = []
        lost: list[tuple[Entry, RequestError]] = []
        for counter, entry in host.owed.items():
            if entry.closed:
                continue
            error = self._reopen(entry, started is None or counter in started, suspects, now)
            if error is None:
                again.append(entry)
            else:
                lost.append((self._close(entry), error))
        self._wait_again(state, again)
        return lost

    def host_leaving(self, incarnation: bytes) -> None:
        """A host drains: it gets nothing new and still answers what it has."""
        host = self._hosts.get(incarnation)
        if host is not None and host in self._runners[host.runner].hosts:
            self._runners[host.runner].hosts.remove(host)

    def give_back(
        self, incarnation: bytes, refused: Iterable[tuple[int, int]], now: float
    ) -> list[tuple[Entry, RequestError]]:
        """A host refused these (counter, attempt) without a start, since it drains. They wait again, in front, for
        another one; those out of time are closed and returned.
        """
        host = self._hosts.get(incarnation)
        if host is None:
            return []
        again: list[Entry] = []
        lost: list[tuple[Entry, RequestError]] = []
        for counter, attempt in refused:
            entry = host.owed.get(counter)
            if entry is None or entry.item.attempt != attempt:
                continue
            del host.owed[counter]
            host.nbytes -= entry.nbytes
            if entry.closed:
                continue
            error = self._reopen(entry, False, False, now)
            if error is None:
                again.append(entry)
            else:
                lost.append((self._close(entry), error))
        self._wait_again(self._runners[host.runner], again)
        return lost

    def runner_failed(self, runner: str, reason: str) -> list[tuple[Entry, RequestError]]:
        """The runner was given up: close and return all that wait for it, refuse new ones until a host is up."""
        state = self._runners[runner]
        state.failed = reason
        waiting = [*state.again.values(), *state.pending.values()]
        return [(self._close(entry), NoWorker(f"runner {runner!r} has no worker: {reason}")) for entry in waiting]

    def ready(self, runner: str) -> bool:
        """Whether `runner` has a host that takes requests."""
        return bool(self._runners[runner].hosts)

    def pending(self, runner: str) -> int:
        """Requests of `runner` that wait for a place in a window."""
        return len(self._runners[runner].pending) + len(self._runners[runner].again)

    def pending_rows(self, runner: str) -> int:
        """Their rows."""
        return self._runners[runner].pending_rows

    def _reopen(self, entry: Entry, started: bool, suspects: bool, now: float) -> RequestError | None:
        """Make `entry`, whose host died or leaves, ready for another attempt; or the error that ends it."""
        item = entry.item
        starts = item.starts + started
        if started and (not entry.idempotent or starts >= self._bounds.starts_max):
            return WorkerLost(
                f"the worker died while it ran this request; it was started {starts} time(s), as often as allowed",
                retry_after_s=1.0,
            )
        if entry.deadline_s <= now:
            return DeadlineExceeded("the deadline passed while the worker was being replaced")
        failed = self._runners[entry.runner].failed
        if failed:
            return NoWorker(f"runner {entry.runner!r} has no worker: {failed}")
        suspect = item.suspect or (started and suspects)
        entry.item = replace(item, attempt=item.attempt + 1, starts=starts, suspect=suspect)
        return None

    def _wait_again(self, state: _Runner, entries: list[Entry]) -> None:
        if not entries:
            return
        for entry in entries:
            entry.host = None
            state.again[entry.item.counter] = entry
            state.pending_bytes += entry.nbytes
            state.pending_rows += entry.item.rows
        state.again = OrderedDict(sorted(state.again.items()))

    def _hand_over(
        self, state: _Runner, waiting: dict[int, Entry], entry: Entry, sent: dict[bytes, list[InferItem]]
    ) -> bool:
        """Move `entry` from `waiting` to a host and into `sent`; False if none has room for it."""
        host = self._next_host(state, entry)
        if host is None:
            return False
        counter = entry.item.counter
        del waiting[counter]
        state.pending_bytes -= entry.nbytes
        state.pending_rows -= entry.item.rows
        entry.host = host.incarnation
        host.nbytes += entry.nbytes
        host.owed[counter] = entry
        if entry.item.suspect:
            host.suspect = counter
        sent.setdefault(host.incarnation, []).append(entry.item)
        return True

    def _next_host(self, state: _Runner, entry: Entry) -> _Host | None:
        bounds = self._bounds
        for step in range(len(state.hosts)):
            host = state.hosts[(state.turn + step) % len(state.hosts)]
            fits = host.nbytes + entry.nbytes <= bounds.window_bytes or not host.owed
            if entry.item.suspect and host.suspect in host.owed:
                continue
            if fits and len(host.owed) < bounds.window_requests * state.workers:
                state.turn = (state.turn + step + 1) % len(state.hosts)
                return host
        return None

    def _close(self, entry: Entry) -> Entry:
        counter = entry.item.counter
        entry.closed = True
        del self._open[counter]
        del self._buckets[entry.item.deadline_ns // _BUCKET_NS][counter]
        if entry.host is None:
            state = self._runners[entry.runner]
            if state.again.pop(counter, None) is None:
                del state.pending[counter]
            state.pending_bytes -= entry.nbytes
            state.pending_rows -= entry.item.rows
        return entry

    def _watch(self, entry: Entry) -> None:
        number = entry.item.deadline_ns // _BUCKET_NS
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heapq.heappush(self._bucket_heap, number)
        bucket[entry.item.counter] = entry


def _bucket_end_s(number: int) -> float:
    return (number + 1) * _BUCKET_NS / 1e9
