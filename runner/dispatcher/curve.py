"""A latency curve: seconds of a batch by its rows, never falling. Immutable; every dispatch decision asks it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf

TIE = 0.97  # sizes whose rows per second are within 3 % count as equal: the larger goes
CONFIDENCE = 2.0  # standard errors by which a smaller size must be better than chance would make it
MEMO_MAX = 8192
INSTANT_S = 1e-12


def pad(rows: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds `rows`; `rows` itself where none does."""
    at = bisect_left(buckets, rows)
    return buckets[at] if at < len(buckets) else rows


class Curve:
    """Linear between its points, flat below the first, with the last slope beyond the last.

    `noise` is the relative standard error of a point: the best of many noisy sizes is the luckiest, and a smaller batch
    that only seems better would never let the larger ones be measured again.

    `open_ended` = True: the points are what was measured so far. Then sizes beyond the last, and in a gap so steep that
    it must hide a step, are drawn from the shape at half the size: what pads to powers of two has steps at twice the
    rows again, and a smooth curve stays smooth.
    """

    def __init__(
        self,
        points: Iterable[tuple[int, float]],
        buckets: Sequence[int] = (),
        open_ended: bool = False,
        noise: float = 0.0,
    ) -> None:
        self._enough = TIE / (1 + CONFIDENCE * noise)
        self.points = tuple(_raised(points))
        self._sizes = [rows for rows, _ in self.points]
        self._buckets = buckets
        self._open_ended = open_ended
        self._tail_s = self._last_slope()
        self._row_s_best = min(s / rows for rows, s in self.points)
        self._edges = [*self._sizes, *buckets, *(self._unseen_edges() if open_ended else ())]
        self._seconds: dict[int, float] = {}
        self._best: dict[int, int] = {}
        self._line = [-inf]  # of no row; the seconds of 1, 2, ... rows, as far as they were asked for

    def seconds(self, rows: int) -> float:
        """Of one batch of `rows` rows, padded to its bucket."""
        seconds = self._seconds.get(rows)
        if seconds is None:
            if len(self._seconds) >= MEMO_MAX:
                self._seconds.clear()
            seconds = self._seconds[rows] = self._interpolate(pad(rows, self._buckets))
        return seconds

    def line(self, rows_max: int) -> Sequence[float]:
        """The seconds of batches of at least up to `rows_max` rows, by rows, for those who ask many times."""
        line = self._line
        if len(line) <= rows_max:
            line += [self._interpolate(pad(rows, self._buckets)) for rows in range(len(line), rows_max + 1)]
        return line

    def rate(self, rows: int) -> float:
        """Rows per second of batches of this size."""
        return rows / max(self.seconds(rows), INSTANT_S)

    def best_rows(self, rows_max: int) -> int:
        """The size up to `rows_max` with the most rows per second, ties within 3 % to the larger.

        Between two points rows per second only rise or only fall, so the points and `rows_max` are candidates enough.
        """
        best = self._best.get(rows_max)
        if best is None:
            if len(self._best) >= MEMO_MAX:
                self._best.clear()
            sizes = {rows_max, *(size for size in self._edges if size < rows_max)}
            enough = self._enough * max(self.rate(size) for size in sizes)
            best = self._best[rows_max] = max(size for size in sizes if self.rate(size) >= enough)
        return best

    def rows_within(self, seconds: float, rows_max: int) -> int:
        """The most rows up to `rows_max` that take at most this long; 0 where not even one does."""
        return bisect_right(self.line(rows_max), seconds, 1, rows_max + 1) - 1

    def _interpolate(self, rows: int) -> float:
        at = bisect_left(self._sizes, rows)
        if at == 0:
            return self.points[0][1]
        left_rows, left_s = self.points[at - 1]
        if at == len(self._sizes):
            if self._open_ended:
                return self._similar(left_rows, left_s, rows)
            return left_s + self._tail_s * (rows - left_rows)
        right_rows, right_s = self.points[at]
        if right_rows == rows:
            return right_s
        if self._open_ended and _is_steep(self.points[at - 1], self.points[at]):
            return min(right_s, self._similar(left_rows, left_s, rows))
        return left_s + (right_s - left_s) * (rows - left_rows) / (right_rows - left_rows)

    def _similar(self, left_rows: int, left_s: float, rows: int) -> float:
        """To the left point as half of `rows` is to half of its rows. Where these are not known no gain from batching
        is assumed: as many rows per second as at the best of the points, so that larger batches are tried at all."""
        if left_rows // 2 < self._sizes[0]:
            return max(left_s, rows * self._row_s_best)
        return max(left_s, self._interpolate(-(-rows // 2)) * left_s / self._interpolate(-(-left_rows // 2)))

    def _unseen_edges(self) -> list[int]:
        """Where the sizes that nobody measured may be most efficient."""
        known = set(self._sizes)
        steep = [(a[0], b[0]) for a, b in pairwise(self.points) if b[0] - a[0] > 1 and _is_steep(a, b)]
        gaps = [*steep, (self._sizes[-1], inf)]
        return [2 * size for size in self._sizes if 2 * size not in known and any(a < 2 * size < b for a, b in gaps)]

    def _last_slope(self) -> float:
        """Seconds per row between the last two points. A single one says nothing of a gain from batching."""
        last_rows, last_s = self.points[-1]
        if len(self.points) == 1:
            return last_s / last_rows
        left_rows, left_s = self.points[-2]
        return (last_s - left_s) / (last_rows - left_rows)


def sliced(curve: Curve, rows: int, cap: int) -> float:
    """Seconds of `rows` rows in batches of at most `cap`, all but the last of them full."""
    if rows <= cap:
        return curve.seconds(rows)
    slices, rest = divmod(rows, cap)
    return slices * curve.seconds(cap) + (curve.seconds(rest) if rest else 0.0)


def _is_steep(left: tuple[int, float], right: tuple[int, float]) -> bool:
    """Whether a row more costs more than each of those before it: that is a step, which lies somewhere in between."""
    return (right[1] - left[1]) * left[0] > left[1] * (right[0] - left[0])


def _raised(points: Iterable[tuple[int, float]]) -> Iterable[tuple[int, float]]:
    highest = 0.0
    for rows, seconds in sorted(points):
        highest = max(highest, seconds)
        yield rows, highest
