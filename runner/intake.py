"""Messages from API servers and native clients become the dispatcher's events; what cannot be queued is refused here.

Pure: bytes in, events out, refusals into the outbox. Checks what must hold before anything runs (form, method, rows,
bytes held); arguments stay packed until their batch runs. Called by the desk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from paceline.protocol import limits
from paceline.protocol.errors import (
    DeadlineExceeded,
    Draining,
    InvalidParameter,
    ProtocolError,
    QueueFull,
    RequestError,
    TooLarge,
    did_you_mean,
)
from paceline.protocol.messages import CANCELLED, Cancel, Infer, InferItem, decode
from paceline.protocol.remote import as_received, is_remote
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import RunnerSpec, ServeSpec
from paceline.protocol.tensor import Buffer
from paceline.runner.dispatcher import Arrived, Cancelled, Event
from paceline.runner.inbox import Held, Inbox, RequestKey
from paceline.runner.outbox import Outbox

logger = logging.getLogger(__name__)

PEERS_BLAMED_MAX = 1024
_NAME_CHARS_SHOWN = 100


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """`queue_timeout_s`: longest wait before a start, None = until the deadline. `rows_max`: of one request.
    `remote_budget_s`: the most time that a client on another machine may leave for a request."""

    queue_timeout_s: float | None = None
    rows_max: int = limits.REQUEST_ROWS_MAX
    remote_budget_s: float = limits.TIMEOUT_MAX_MS / 1000
    queue_bytes_max: int = limits.QUEUE_BYTES_MAX


def limits_for(serve: ServeSpec, runner: RunnerSpec) -> IntakeLimits:
    """The bounds of `runner`, as the server's spec sets them."""
    timeout_ms = runner.queue_timeout_ms
    return IntakeLimits(
        queue_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
        rows_max=serve.http.rows_max,
        remote_budget_s=serve.http.timeout_max_ms / 1000,
    )


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a method means to the dispatcher: most rows of a batch (None = the runner's cap), most starts."""

    batch_limit: int | None
    starts_max: int


class Intake:
    """What came in and is not answered yet. `origins`: who sent requests and was reachable since."""

    def __init__(self, methods: Iterable[MethodSpec], outbox: Outbox, bounds: IntakeLimits | None = None) -> None:
        bounds = bounds or IntakeLimits()
        self.inbox = Inbox(bounds.queue_timeout_s, bounds.queue_bytes_max)
        self.origins: set[bytes] = set()
        self.malformed = 0
        self.duplicates = 0
        self.draining = False
        self._rows_max = bounds.rows_max
        self._remote_budget_ns = round(bounds.remote_budget_s * 1e9)
        self._terms = {method.name: _terms(method) for method in methods}
        self._outbox = outbox
        self._blamed: set[bytes] = set()

    def receive(self, peer: bytes, parts: list[Buffer], events: list[Event], now_ns: int) -> None:
        """Append what the message of `peer` means to `events`. One that nobody can read is counted and dropped: it has
        no request to answer. One from another machine has its times set by our clock, `now_ns`."""
        try:
            message = decode(parts)
            if not isinstance(message, (Infer, Cancel)):
                raise ProtocolError(f"a dispatch host takes no {type(message).__name__}")
            if message.origin != peer:
                raise ProtocolError(f"the message claims to be of {message.origin.hex()}")
        except ProtocolError as error:
            self._blame(peer, error)
            return
        if isinstance(message, Infer):
            if is_remote(peer):
                message = as_received(message, now_ns, self._remote_budget_ns)
            self._take(message, len(parts[0]), events)
        else:
            self._cancel(message, events)

    def drop_overdue(self, now_ns: int, events: list[Event]) -> None:
        """Answer those that waited longer than queue_timeout_ms for a start."""
        for held in self.inbox.remove_overdue(now_ns):
            events.append(Cancelled(held.key))
            self._outbox.fail(held, DeadlineExceeded("the request waited longer than queue_timeout_ms for its start"))

    def drop_queued(self, events: list[Event]) -> None:
        """The grace of a drain is over: answer everything that no batch has."""
        for held in self.inbox.remove_all_queued():
            events.append(Cancelled(held.key))
            self._outbox.fail(held, Draining("the worker shut down before the request's turn", retry_after_s=1.0))

    def _blame(self, peer: bytes, error: ProtocolError) -> None:
        self.malformed += 1
        if peer not in self._blamed and len(self._blamed) < PEERS_BLAMED_MAX:
            self._blamed.add(peer)
            logger.warning("malformed message dropped", extra={"peer": peer.hex(), "error": str(error)})

    def _take(self, message: Infer, head_bytes: int, events: list[Event]) -> None:
        origin, items, inbox = message.origin, message.items, self.inbox
        self.origins.add(origin)
        share_bytes = head_bytes // len(items) if items else 0
        for item in items:
            key = (origin, item.counter)
            if key in inbox:
                # The one that is held gets the answer; a second answer would be the wrong one's.
                self.duplicates += 1
                continue
            held = Held(key, item, share_bytes + sum(map(len, item.frames)) if item.frames else share_bytes)
            refusal = self._refusal(held)
            if refusal is None:
                inbox.add(held)
                events.append(self._arrived(key, item))
            else:
                self._outbox.fail(held, refusal)

    def _refusal(self, held: Held) -> RequestError | None:
        """Why this request is not even queued; None if it is."""
        item = held.item
        if self.draining:
            return Draining("the worker is shutting down; send the request again", retry_after_s=1.0)
        if item.method not in self._terms:
            name = item.method[:_NAME_CHARS_SHOWN]
            return InvalidParameter(
                f"method {name!r} is unknown.{did_you_mean(name, self._terms)} "
                f"Expected one of {', '.join(self._terms)}."
            )
        if item.rows > self._rows_max:
            return TooLarge(f"request has {item.rows} rows, over the limit of {self._rows_max} rows; send it in parts")
        if not self.inbox.has_room(held.nbytes):
            return QueueFull(f"the queue holds {self.inbox.nbytes} bytes, its limit; retry later", retry_after_s=1.0)
        return None

    def _arrived(self, key: RequestKey, item: InferItem) -> Arrived:
        terms = self._terms[item.method]
        return Arrived(
            request_id=key,
            key=(item.method, item.key),
            rows=item.rows,
            deadline=item.deadline_ns / 1e9,
            priority=item.priority,
            arrived_at=item.arrival_ns / 1e9,
            batch_limit=1 if item.suspect else terms.batch_limit,
            starts=item.starts,
            starts_max=terms.starts_max,
            length=item.length,
        )

    def _cancel(self, message: Cancel, events: list[Event]) -> None:
        """Queued ones are answered, which gives their window back. A batch's members get their answer anyway; only if
        the batch is lost, they are not run again."""
        for counter in message.counters:
            held = self.inbox.get((message.origin, counter))
            if held is None or held.cancelled:
                continue
            events.append(Cancelled(held.key))
            if held.started:
                held.cancelled = True
            else:
                self.drop_cancelled(held)

    def drop_cancelled(self, held: Held) -> None:
        """Nobody waits for it: answer it without a word, which gives its window back."""
        self.inbox.remove(held.key)
        self._outbox.refuse(held.key[0], held.item.counter, held.item.attempt, CANCELLED)


def _terms(method: MethodSpec) -> _Terms:
    return _Terms(
        batch_limit=method.max_batch_size if method.batchable else 1,
        starts_max=limits.STARTS_MAX if method.idempotent else 1,
    )
