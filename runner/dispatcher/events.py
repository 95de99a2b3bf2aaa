"""What a dispatcher is told: frozen facts, each handed over together with the time `now`.

All times are float seconds of one monotonic clock. Ids are any hashable values; the dispatcher only compares them.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from math import inf

from paceline.protocol.hot_record import hot_record


@hot_record
@dataclass(frozen=True, slots=True)
class Arrived:
    """A request wants to be served by `deadline`. Requests with equal keys may share a batch.

    Raises ValueError in the dispatcher if the id is live already, `rows` < 1 or the deadline is not a number.
    """

    request_id: Hashable
    key: Hashable
    rows: int = 1
    deadline: float = inf  # absolute; a request whose deadline has passed is never handed to a worker
    priority: int = 0  # lower is more urgent, strictly
    arrived_at: float | None = None  # when it reached the API server; None = now
    length: int = 0  # what the padded dimension is padded to at least; 0 = there is none
    batch_limit: int | None = None  # most rows of a batch it may be in; 1 = runs alone
    starts: int = 0  # times it was handed to a worker before
    starts_max: int | None = None  # None = as configured


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Nobody waits for the request any more: removed silently if queued, never requeued if dispatched."""

    request_id: Hashable


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is ready and idle. `profile` says which latency table holds for it (the kind of its device)."""

    worker_id: Hashable
    profile: str = ""


@dataclass(frozen=True, slots=True)
class WorkerDraining:
    """The worker finishes what it holds, gets nothing new, and is forgotten with its last batch."""

    worker_id: Hashable


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The worker is gone. `started`: ids of the batches that had begun; None = any of its batches may have."""

    worker_id: Hashable
    started: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class BatchDone:
    """The worker answered the batch, `duration` seconds after it began. `learn` = False: not representative."""

    worker_id: Hashable
    batch_id: int
    duration: float
    learn: bool = True


@dataclass(frozen=True, slots=True)
class CapChanged:
    """Batches of `key` hold at most `rows` rows until the time `until` (after the device ran out of memory)."""

    key: Hashable
    rows: int
    until: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A batch of `rows` rows of this key and length took `duration` seconds on a worker of `profile`: a warm-up, which
    nobody ordered."""

    profile: str
    key: Hashable
    rows: int
    duration: float
    length: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time."""


Event = Arrived | Cancelled | WorkerJoined | WorkerDraining | WorkerLost | BatchDone | CapChanged | Measured | Tick
