"""What a dispatcher is built from: limits and, where known, latency tables. Times in seconds, sizes in rows."""

from collections.abc import Mapping
from dataclasses import dataclass

QUEUE_ROWS_MAX = 65_536
AGEING_S = 10.0
TABLE_AGEING_S = 300.0
KEYS_MAX = 256


@dataclass(frozen=True, slots=True)
class DispatcherConfig:
    """`latency_table` maps batch rows to seconds; sparse is fine. A given table is true, one left out is learned.

    Example: `DispatcherConfig(max_batch_size=64, latency_table={1: 0.0055, 64: 0.037}, reply_s=0.0003)`

    Raises ValueError for values that cannot work.
    """

    max_batch_size: int
    latency_table: Mapping[int, float] | None = None  # of every profile that latency_tables does not name
    latency_tables: Mapping[str, Mapping[int, float]] | None = None  # by worker profile
    budget_s: float | None = None  # usual time from arrival to deadline; None = median per key
    reply_s: float = 0.0  # from the end of a batch until the answer is where the deadline counts
    prefetch_s: float = 0.0  # one batch may be bound to a busy worker this long before its predicted end
    starts_max: int = 2
    quantile: float = 0.5  # of measured / predicted: the factor on every prediction, 0.5 = none
    buckets: tuple[int, ...] = ()  # batch sizes round up to these
    queue_rows_max: int = QUEUE_ROWS_MAX
    ageing_s: float = AGEING_S  # for every so long that it has waited a request is one class more urgent; 0 = never
    table_ageing_s: float = TABLE_AGEING_S  # a learned size not measured for this long is forgotten and tried again
    keys_max: int = KEYS_MAX  # bound on latency tables, caps and idle keys remembered

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "starts_max", "queue_rows_max", "keys_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("reply_s", "prefetch_s", "ageing_s", "table_ageing_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0 seconds, got {getattr(self, name)}")
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must lie between 0 and 1, got {self.quantile}")
        if any(bucket < 1 for bucket in self.buckets):
            raise ValueError(f"buckets must be at least 1 row, got {self.buckets}")
        for table in (self.latency_table, *(self.latency_tables or {}).values()):
            _check_table(table)


def _check_table(table: Mapping[int, float] | None) -> None:
    if table is None:
        return
    if not table:
        raise ValueError("an empty latency table says nothing: leave it out to have it learned")
    for rows, seconds in table.items():
        if rows < 1 or not 0 <= seconds < float("inf"):
            raise ValueError(f"a latency table maps rows >= 1 to finite seconds >= 0, got {{{rows}: {seconds}}}")
