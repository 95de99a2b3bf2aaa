"""How large batches of one key must be for a crew of workers to carry a load, and how large they may be.

Plain numbers, derived from latency curves; timing.py says why. Sizes in rows, times in seconds.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from paceline.runner.dispatcher.curve import INSTANT_S, Curve

FINE_SIZES = 64
Crew = Sequence[tuple[Curve, float]]  # how many workers have this curve; less than one: the part left to a key
PaceCase = tuple[str, int, float, int, int]  # profile, cap, budget, versions of the tables and of the fleet


@dataclass(frozen=True, slots=True)
class Pace:
    """What holds for one key on one kind of worker as long as tables, workers, cap and budget stay as they are.

    `supply[i]`: the most rows per second that all workers give away in batches of up to `sizes[i]` rows; the last size
    is the stagger target.
    """

    window_s: float
    patience_s: float  # from arrival: with no deadline, or a later one, a head is as good as due then
    sizes: Sequence[int]
    supply: Sequence[float]

    def level(self, need: float) -> int:
        """The queued rows at which a batch goes: control limit or stagger target, whichever is less."""
        return self.sizes[min(bisect_left(self.supply, need), len(self.sizes) - 1)]


@dataclass(frozen=True, slots=True)
class Hold:
    """What a queue is held back by: it goes with `level` rows, or when the curve says that the head is due. Looked up
    anew when something happens to a worker (`changes`, the fleet's count of that) and when the level is reached."""

    curve: Curve
    patience_s: float
    level: int
    changes: int


def stagger_target(own: Curve, crew: Crew, budget_s: float, rows_max: int) -> int:
    """The most rows for which waiting for the next worker and then for the batch fits the budget; at least 1."""
    low, high = 1, rows_max + 1
    while high - low > 1:
        middle = (low + high) // 2
        gap_s = 1.0 / sum(count / max(curve.seconds(middle), INSTANT_S) for curve, count in crew)
        if gap_s + own.seconds(middle) <= budget_s:
            low = middle
        else:
            high = middle
    return low


def supply(crew: Crew, sizes: Sequence[int]) -> list[float]:
    """By size the most rows per second that all workers give away in batches of up to so many rows."""
    return list(accumulate((sum(count * curve.rate(rows) for curve, count in crew) for rows in sizes), max))


def sizes_to(rows_max: int, edges: Iterable[int]) -> list[int]:
    """Every size up to FINE_SIZES, above that steps of at most 1/FINE_SIZES; no edge of the table is left out."""
    sizes = {rows_max, *(rows for rows in edges if rows < rows_max)}
    rows = 1
    while rows < rows_max:
        sizes.add(rows)
        rows += max(1, rows // FINE_SIZES)
    return sorted(sizes)
