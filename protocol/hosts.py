"""The asyncio shell around the request ledger: sends what it hands out, feeds it answers, host changes and time.

One for each process that owns requests: an API server or a native client. Requests of one loop tick leave together, one
Infer per host (cut at 64 requests, 1 MB or the frame bound). One timer answers deadlines, whatever the workers do.
Everything runs in the loop; knows nothing of HTTP, of a model's inputs, or of who waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from paceline.protocol.admission import Gate
from paceline.protocol.clock import Clock, SystemClock
from paceline.protocol.control import Host, LostHost, State, Topology
from paceline.protocol.errors import (
    DeadlineExceeded,
    Draining,
    InfeasibleNow,
    Internal,
    InvalidInput,
    ProtocolError,
    QueueFull,
    RequestError,
    error_from_code,
)
from paceline.protocol.host_pipe import AsSent, Connect, Pipe, infer_messages
from paceline.protocol.ledger import Entry, Ledger, LedgerLimits
from paceline.protocol.measure import Measure
from paceline.protocol.messages import (
    CANCELLED,
    Answers,
    Cancel,
    Failure,
    Forecast,
    InferItem,
    Result,
    decode,
    encode,
    pack_call,
)
from paceline.protocol.remote import forecast_as_received, is_remote
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import ServeSpec
from paceline.protocol.tensor import Buffer
from paceline.protocol.tree import Tree

logger = logging.getLogger(__name__)

CANCELS_PER_MESSAGE = 1024
RESEND_S = 0.005
_NEVER = float("inf")


class Waiter(Protocol):
    """Who gets the one terminal answer of a request."""

    def answered(self, result: Result) -> None: ...

    def failed(self, error: RequestError) -> None: ...


@dataclass(slots=True)
class _Peer:
    """A connected host. `cancels` waits for the end of the tick."""

    runner: str
    pipe: Pipe
    cancels: list[int]


@dataclass(slots=True)
class Counters:
    """Totals since start. `refused`: by admission, which let `probes` through."""

    accepted: int = 0
    refused: int = 0
    probes: int = 0
    answered: int = 0
    cancelled: int = 0
    late: int = 0


class Hosts:
    """All open requests of this process, and its connections to the dispatch hosts."""

    def __init__(
        self,
        serve: ServeSpec,
        incarnation: bytes,
        loop: asyncio.AbstractEventLoop,
        connect: Connect,
        clock: Clock | type[SystemClock] = SystemClock,
        as_sent: AsSent = tuple,
    ) -> None:
        http = serve.http
        self._origin = incarnation
        self._loop = loop
        self._connect = connect
        self._as_sent = as_sent
        self._now_ns = clock.now_ns
        self._now = clock.now
        self._runners = tuple(runner.name for runner in serve.runners)
        bounds = LedgerLimits(window_requests=http.window_requests, pending_requests=http.pending_requests)
        behind_host = {runner.name: runner.workers if runner.is_central else 1 for runner in serve.runners}
        self._ledger = Ledger(behind_host, bounds)
        self._gates = {runner.name: Gate(runner) for runner in serve.runners}
        self._peers: dict[bytes, _Peer] = {}
        self._dirty: set[str] = set()
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._counter = 0
        self._topology_version = -1
        self.draining = False
        self.failed: dict[str, str] = {}
        self.counters = Counters()

    def __len__(self) -> int:
        """Requests that wait for an answer."""
        return len(self._ledger)

    def ready(self, runner: str) -> bool:
        """Whether `runner` has a host that takes requests and this process takes them too."""
        return not self.draining and self._ledger.ready(runner)

    def all_ready(self) -> bool:
        return all(self.ready(runner) for runner in self._runners)

    def submit(
        self,
        runner: str,
        method: MethodSpec,
        args: tuple[Tree, ...],
        kwargs: dict[str, Tree],
        *,
        measured: Measure,
        nbytes: int,
        budget_s: float,
        priority: int,
        request_id: str,
        traceparent: str,
        waiter: Waiter,
        begun: bool = False,
    ) -> int:
        """Accept a call; `waiter` gets its answer within `budget_s`. Returns the counter for `cancel`. `begun`: it is
        part of something that was accepted already, and so runs in a drain too.

        Raises Draining, QueueFull, NoWorker, InfeasibleNow, InvalidParameter (a budget that cannot work), InvalidInput
        (arguments too large to travel).
        """
        if self.draining and not begun:
            raise Draining("the server is draining; send the request to another one", retry_after_s=1.0)
        self._gates[runner].check_budget(budget_s, measured.rows)
        self._counter = counter = self._counter + 1
        try:
            packed, frames = pack_call(args, kwargs)
        except ValueError as error:
            raise InvalidInput(str(error)) from error
        now_ns = self._now_ns()
        deadline_ns = now_ns + int(budget_s * 1e9)
        item = InferItem(
            counter,
            0,
            0,
            False,
            now_ns,
            deadline_ns,
            priority,
            measured.rows,
            measured.length,
            method.name,
            measured.key,
            request_id,
            traceparent,
            packed,
            frames,
        )
        self._admit(runner, item, waiter, nbytes, method.idempotent)
        self.counters.accepted += 1
        self._dirty.add(runner)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if deadline_ns / 1e9 < self._timer_at:
            self._arm()
        return counter

    def _admit(self, runner: str, item: InferItem, waiter: Waiter, nbytes: int, idempotent: bool) -> None:
        gate = self._gates[runner]
        pending_rows = self._ledger.pending_rows(runner)
        try:
            self.counters.probes += gate.check(item, pending_rows, item.arrival_ns / 1e9)
            self._ledger.submit(runner, item, waiter, nbytes, idempotent)
        except InfeasibleNow:
            self.counters.refused += 1
            raise
        except QueueFull as error:
            error.retry_after_s = gate.drain_s(pending_rows)
            raise

    def cancel(self, counter: int) -> None:
        """Nobody waits for `counter` any more."""
        cancelled = self._ledger.cancel(counter)
        if cancelled is not None:
            self.counters.cancelled += 1
            self._tell_cancelled((cancelled[0],))

    def fail_all(self, reason: str, kind: type[RequestError] = Draining) -> None:
        """No answer is to come: fail all that is still open."""
        for entry in self._ledger.expire(_NEVER):
            self._fail(entry, kind(reason, retry_after_s=1.0))

    def close(self) -> None:
        for peer in self._peers.values():
            peer.pipe.close()
        self._peers.clear()
        if self._timer is not None:
            self._timer.cancel()

    def restart(self) -> None:
        """Another supervisor with the same ServeSpec took over: its snapshots count from the start again."""
        self._topology_version = -1
        self.draining = False

    def apply(self, topology: Topology) -> None:
        """Take over a newer snapshot: deaths first (their requests go to whoever is up), then hosts, then failures."""
        if topology.version <= self._topology_version:
            return
        self._topology_version = topology.version
        self.draining = self.draining or topology.draining
        for lost in topology.lost:
            self._host_lost(lost)
        for host in topology.hosts:
            self._host_seen(host)
        present = {host.incarnation for host in topology.hosts}
        for incarnation in [known for known in self._peers if known not in present]:
            self._drop(incarnation, None, True)
        self.failed = {failed.runner: failed.reason for failed in topology.failed}
        for runner, reason in self.failed.items():
            for entry, error in self._ledger.runner_failed(runner, reason):
                self._fail(entry, error)
        self._dirty.update(self._runners)
        self._flush_soon()

    def _host_seen(self, host: Host) -> None:
        known = host.incarnation in self._peers
        if host.state == State.READY and not known:
            incarnation = host.incarnation
            pipe = self._connect(host.address, lambda parts: self._message(incarnation, parts))
            self._peers[incarnation] = _Peer(host.runner, pipe, [])
            self._ledger.host_up(host.runner, incarnation)
            self._gates[host.runner].open(incarnation)
            logger.info("host up", extra={"runner": host.runner, "host": incarnation.hex()})
        elif host.state == State.READY:
            self._ledger.host_up(host.runner, host.incarnation)  # its stall is over
            self._gates[host.runner].open(host.incarnation)
        elif host.state == State.DRAINING and known:
            self._ledger.host_leaving(host.incarnation)
            self._gates[host.runner].close(host.incarnation)

    def _host_lost(self, lost: LostHost) -> None:
        if lost.incarnation in self._peers:
            started = frozenset(counter for origin, counter in lost.started if origin == self._origin)
            self._drop(lost.incarnation, started if lost.known else None, lost.suspects)
            logger.warning("host lost", extra={"runner": lost.runner, "host": lost.incarnation.hex()})

    def _drop(self, incarnation: bytes, started: frozenset[int] | None, suspects: bool) -> None:
        # What it answered before it died is done, and must not be run again.
        self._peers[incarnation].pipe.deliver()
        peer = self._peers.pop(incarnation)
        peer.pipe.close()
        self._gates[peer.runner].close(incarnation)
        for entry, error in self._ledger.host_down(incarnation, started, self._now(), suspects):
            self._fail(entry, error)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """The end of a tick: all that may be sent leaves, one message per host where it fits."""
        self._flushing = False
        refused = False
        now = self._now()
        dirty, self._dirty = self._dirty, set()
        for runner in dirty:
            for incarnation, items in self._ledger.take(runner):
                for part, message in infer_messages(self._origin, items, self._as_sent):
                    if self._peers[incarnation].pipe.send(message):
                        self._gates[runner].note_sent(incarnation, part, now)
                    else:
                        self._ledger.unsent(incarnation, part)
                        self._dirty.add(runner)
                        refused = True
        for peer in self._peers.values():
            if peer.cancels:
                refused |= not self._send_cancels(peer)
        if refused:
            self._flushing = True
            self._loop.call_later(RESEND_S, self._flush)

    def _send_cancels(self, peer: _Peer) -> bool:
        while peer.cancels:
            counters = tuple(peer.cancels[:CANCELS_PER_MESSAGE])
            if not peer.pipe.send(encode(Cancel(self._origin, counters))):
                return False
            del peer.cancels[:CANCELS_PER_MESSAGE]
        return True

    def _message(self, incarnation: bytes, parts: list[Buffer]) -> None:
        try:
            message = decode(parts)
        except ProtocolError as error:
            logger.error("message from a host is not readable: %s", error, extra={"host": incarnation.hex()})
            return
        peer = self._peers.get(incarnation)
        if peer is None:
            return
        if type(message) is Answers and message.origin == self._origin:
            self._answers(incarnation, message)
            if self._ledger.pending(peer.runner):
                self._dirty.add(peer.runner)
                self._flush_soon()
        elif type(message) is Forecast:
            if is_remote(self._origin):
                message = forecast_as_received(message, self._now_ns())
            self._gates[peer.runner].hear(incarnation, message)

    def _answers(self, incarnation: bytes, answers: Answers) -> None:
        settle = self._ledger.settle
        for result in answers.results:
            entry = settle(incarnation, result.counter, result.attempt)
            if entry is None:
                self.counters.late += 1
                continue
            self.counters.answered += 1
            entry.token.answered(result)  # type: ignore[attr-defined]  # the token is our own Waiter
        refused: list[tuple[int, int]] = []
        for failure in answers.failures:
            if failure.code == Draining.code and not self.draining:
                refused.append((failure.counter, failure.attempt))
                continue
            entry = settle(incarnation, failure.counter, failure.attempt)
            if entry is not None:
                self._fail(entry, _error_of(failure))
        if refused:
            self._give_back(incarnation, refused)

    def _give_back(self, incarnation: bytes, refused: list[tuple[int, int]]) -> None:
        """One worker stops, not the server: what it did not start is for the others or its successor."""
        self._ledger.host_leaving(incarnation)
        self._gates[self._peers[incarnation].runner].close(incarnation)
        for entry, error in self._ledger.give_back(incarnation, refused, self._now()):
            self._fail(entry, error)

    def _fail(self, entry: Entry, error: RequestError) -> None:
        entry.token.failed(error)  # type: ignore[attr-defined]  # the token is our own Waiter

    def _arm(self) -> None:
        """Set the one timer to the next deadline, if that is earlier than it stands."""
        at = self._ledger.next_deadline()
        if at is None or at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._expire)

    def _expire(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        expired = self._ledger.expire(self._now())
        self._tell_cancelled(expired)
        for entry in expired:
            item = entry.item
            budget_ms = (item.deadline_ns - item.arrival_ns) / 1e6
            self._fail(entry, DeadlineExceeded(f"no answer within the request's budget of {budget_ms:g} ms"))
        self._arm()

    def _tell_cancelled(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            peer = self._peers.get(entry.host) if entry.host is not None else None
            if peer is not None:
                peer.cancels.append(entry.item.counter)
                self._flush_soon()


def _error_of(failure: Failure) -> RequestError:
    if failure.code == CANCELLED:
        return Internal("the worker dropped a request that is still waited for")
    return error_from_code(failure.code, failure.message, failure.retry_after_s)
