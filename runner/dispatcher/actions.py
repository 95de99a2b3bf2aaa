"""What a dispatcher answers: frozen instructions for the shell that drives it."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from paceline.protocol.hot_record import hot_record


class RejectReason(StrEnum):
    """Why a request is answered without a result. The set is closed."""

    DEADLINE = "deadline"  # its deadline has passed
    INFEASIBLE = "infeasible"  # it cannot be done by its deadline any more
    QUEUE_FULL = "queue_full"
    WORKER_LOST = "worker_lost"  # started as often as allowed, or no time left for another start


@hot_record
@dataclass(frozen=True, slots=True)
class Dispatch:
    """Hand these requests to the worker as one batch, in this order."""

    worker_id: Hashable
    batch_id: int
    request_ids: tuple[Hashable, ...]
    key: Hashable = None
    rows: int = 0
    padded_rows: int = 0  # rows rounded up to a bucket, slice by slice if the request is larger than the cap
    length: int = 0  # the longest member's
    predicted_s: float = 0.0  # 0.0 = nothing is known yet


@hot_record
@dataclass(frozen=True, slots=True)
class Reject:
    """Answer the request with an error. `retry_after_s`: when a retry is likely to be taken; None = no advice."""

    request_id: Hashable
    reason: RejectReason
    retry_after_s: float | None = None


@hot_record
@dataclass(frozen=True, slots=True)
class WakeAt:
    """Call again (with a Tick) at `time` at the latest. The newest replaces the one before."""

    time: float


Action = Dispatch | Reject | WakeAt
