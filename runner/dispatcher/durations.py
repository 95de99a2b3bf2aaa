"""The durations of one batch size as a learned latency table keeps them, and the curve through those of all sizes.

Knows no key, queue or worker.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import NamedTuple

RING = 16  # durations kept per size
WARM_UP = 2  # first durations of a size, not learned: allocation, compilation
STALE = 512  # durations of other sizes after which a size's own ones are old: its next one replaces them
YOUNG = 8  # durations: see Cell.is_young
SLIGHT = 1e-6  # weight of an old or first duration against a new one, when neighbouring sizes are made monotone
MEDIAN_ERROR = 1.253  # standard error of a median in sigma / sqrt(n), of normal samples
MAD_SIGMA = 1.483  # sigma in median absolute deviations, of normal samples
FINE_SIZES = 64  # sizes above are learned in 32 steps per doubling, which bounds the cells


@dataclass(slots=True)
class Cell:
    """The learned durations of one size. Numbers count the durations that its table has learned."""

    samples: deque[float] = field(default_factory=lambda: deque(maxlen=RING))
    median_s: float = 0.0
    drawn_s: float = 0.0  # the median that the curve was drawn with
    measured_at: float = 0.0
    measured_no: int = 0
    since_no: int = 0  # of the first duration in here
    borrowed: bool = False  # from another key of the method; the first own duration replaces it
    _error: float | None = None

    def refill(self, samples: Iterable[float]) -> None:
        self.samples.clear()
        self.samples.extend(samples)
        self.borrowed = False
        self._summarise()

    def add(self, seconds: float, now: float, number: int) -> None:
        if self.borrowed or self.is_stale(number) or not self.samples:
            self.samples.clear()
            self.borrowed = False
            self.since_no = number
        self.samples.append(seconds)
        self.measured_at = now
        self.measured_no = number
        self._summarise()

    def is_young(self, number: int) -> bool:
        """Whether its first duration is so recent that it may be of either side of a change just found."""
        return not self.borrowed and len(self.samples) < YOUNG and number - self.since_no < 2 * YOUNG

    def is_stale(self, number: int) -> bool:
        return number - self.measured_no > STALE

    def weight(self, number: int) -> float:
        return len(self.samples) * (SLIGHT if self.is_stale(number) else 1.0)

    def error(self) -> float:
        """The relative standard error of the median. Kept, because it costs as much as all the rest of a curve."""
        if self._error is None:
            spread_s = median([abs(seconds - self.median_s) for seconds in self.samples])
            self._error = MEDIAN_ERROR * MAD_SIGMA * spread_s / (self.median_s * sqrt(len(self.samples)))
        return self._error

    def _summarise(self) -> None:
        self.median_s = median(self.samples)
        self._error = None


@dataclass(slots=True)
class Hint:
    """The warm-ups of one size. They may be too long for many reasons, but hardly too short."""

    count: int = 0
    least_s: float = inf
    seen_no: int = 0

    def add(self, seconds: float, number: int) -> None:
        self.count += 1
        self.least_s = min(self.least_s, seconds)
        self.seen_no = number

    def is_stale(self, number: int) -> bool:
        return number - self.seen_no > STALE


class Mark(NamedTuple):
    """What is known of one size, and how much that weighs against its neighbours."""

    size: int
    seconds: float
    weight: float


def cell_size(rows: int) -> int:
    """The size as which batches of so many rows are learned."""
    if rows <= FINE_SIZES:
        return rows
    step = 1 << ((rows - 1).bit_length() - 6)
    return -(-rows // step) * step


def believable(learned: list[Mark], hints: list[Mark]) -> list[Mark]:
    """By size, with those hints that tell of the size and not of its warming up: no batch takes longer than a larger
    one did, nor than some of the next smaller size that is known together hold it."""
    least_s = inf
    bounds: list[Mark] = []
    for hint in sorted(hints, reverse=True):
        least_s = min(least_s, hint.seconds)
        bounds.append(Mark(hint.size, least_s, hint.weight))
    sizes = {mark.size for mark in learned}
    marks: list[Mark] = []
    for mark in sorted([*learned, *bounds]):
        if mark.size in sizes or not marks or mark.seconds <= _together(marks[-1], mark.size):
            marks.append(mark)
    return marks


def _together(part: Mark, size: int) -> float:
    """Seconds that batches like `part` take for `size` rows."""
    return -(-size // part.size) * part.seconds


def monotone(marks: list[Mark]) -> list[tuple[int, float]]:
    """Pool adjacent violators: the closest never falling sequence of (size, seconds), in weighted least squares."""
    pools: list[tuple[float, float, int]] = []  # (mean, weight, members)
    for _, mean, weight in marks:
        members = 1
        while pools and pools[-1][0] > mean:
            left_mean, left_weight, left_members = pools.pop()
            mean = (mean * weight + left_mean * left_weight) / (weight + left_weight)
            weight += left_weight
            members += left_members
        pools.append((mean, weight, members))
    heights = [mean for mean, _, members in pools for _ in range(members)]
    return [(mark.size, height) for mark, height in zip(marks, heights, strict=True)]


def median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
