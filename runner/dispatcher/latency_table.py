"""What is known of the time that batches take on one kind of device for one key: given, or learned from durations.

The learned table follows reference policy PACE: per size the median of the last durations, made monotone by pooling
adjacent violators (Barlow et al., Statistical Inference under Order Restrictions, 1972), never a single line, because
padded shapes make steps. It knows no queue, deadline or worker.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf

from paceline.runner.dispatcher.curve import INSTANT_S, Curve
from paceline.runner.dispatcher.durations import (
    SLIGHT,
    WARM_UP,
    Cell,
    Hint,
    Mark,
    believable,
    cell_size,
    median,
    monotone,
)

STALL = 3.0  # times the median: counted, not learned
CHANGE_RUN = 8  # so many ratios in a row beyond CHANGE_HIGH or CHANGE_LOW mean that the device has changed
CHANGE_HIGH = 1.2
CHANGE_LOW = 0.8
RATIOS = 200
RATIOS_STEP = 16  # the safety factor is computed anew after so many durations
NOTICEABLE = 0.01  # a median that moves less leaves the curve as it is
LARGE = 0.1  # one that moves more is drawn at once, one between the two with the next of DRAW_STEP durations
DRAW_STEP = 16  # drawing costs about as much as deciding: not anew for the noise of each batch
STRETCH_STEP = 32  # so many batches smaller than what waited, then one is stretched, to see whether larger pays by now
STRETCH = 2  # times the size thought best


class LatencyTable:
    """A table that is given and true. `curve` is None as long as nothing is known (never, here)."""

    known = True

    def __init__(self, points: Mapping[int, float], buckets: Sequence[int] = (), quantile: float = 0.5) -> None:
        self._points = tuple(points.items())
        self._buckets = buckets
        self._ratios = _Ratios(quantile)
        self.given: Curve | None = Curve(self._points, buckets)
        self.curve = self.given  # times the safety factor
        self.probe_at = 0.0  # when an idle worker may next serve a request that only the factor calls hopeless

    @property
    def grounded(self) -> bool:
        """Whether requests may be refused on its word."""
        return True

    @property
    def rows_allowed(self) -> float:
        """No batch should be larger: never more than twice the largest that was tried."""
        return inf

    @property
    def rows_measured(self) -> float:
        return inf

    def stretch(self, rows: int, rows_max: int) -> int:
        """A given table has nothing to find out."""
        return rows

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """A batch of `rows` padded rows took `seconds`."""
        curve = self.curve
        assert curve is not None
        if self._ratios.add(seconds * self._ratios.factor, curve.seconds(rows)):
            self.curve = Curve(((size, s * self._ratios.factor) for size, s in self._points), self._buckets)


class _Ratios:
    """The safety factor: a quantile of measured / predicted over the last 200 batches. 0.5 means none."""

    def __init__(self, quantile: float) -> None:
        self.factor = 1.0
        self._quantile = quantile
        self._last: deque[float] = deque(maxlen=RATIOS)
        self._count = 0

    def add(self, measured_s: float, predicted_s: float) -> bool:
        """True if the factor changed."""
        if self._quantile <= 0.5 or predicted_s <= 0:
            return False
        self._last.append(measured_s / predicted_s)
        self._count += 1
        if self._count % RATIOS_STEP:
            return False
        ordered = sorted(self._last)
        self.factor = max(1.0, ordered[min(len(ordered) - 1, int(self._quantile * len(ordered)))])
        return True


class LearnedTable:
    """A table that starts from nothing, or from what other keys of the method have shown."""

    known = False
    given: Curve | None = None

    def __init__(
        self,
        buckets: Sequence[int] = (),
        quantile: float = 0.5,
        ageing_s: float = inf,
        pool: "LearnedTable | None" = None,
    ) -> None:
        self.curve: Curve | None = None
        self.grounded = False
        self.rows_measured: float = 0
        self.probe_at = 0.0  # when an idle worker may next serve a request that seems hopeless
        self.stalls = 0
        self._rows_tried = 0
        self._buckets = buckets
        self._ageing_s = ageing_s
        self._ratios = _Ratios(quantile)
        self._cells: dict[int, Cell] = {}
        self._hints: dict[int, Hint] = {}
        self._ages_at = -inf  # no cell grows old before
        self._learned = 0
        self._held_back = 0  # batches in a row that were smaller than what waited
        self._undrawn = 0  # durations learned since the curve was drawn
        self._run: list[tuple[int, float, float]] = []  # (size, seconds, ratio), all to one side
        if pool is not None:
            self._borrow(pool)

    @property
    def rows_allowed(self) -> float:
        return max(1, 2 * self._rows_tried)

    def stretch(self, rows: int, rows_max: int) -> int:
        """The rows to take where `rows` are thought best and `rows_max` would be there: once in a while more.

        A size that was measured in a bad moment would otherwise never be tried again, and a worker could go on with
        batches of one under any load.
        """
        if rows_max <= rows:
            self._held_back = 0
            return rows
        self._held_back += 1
        if self._held_back < STRETCH_STEP:
            return rows
        self._held_back = 0
        return min(rows_max, STRETCH * rows)

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """A batch of `rows` padded rows took `seconds`. Warm-ups and stalls are not learned, lasting changes are."""
        seconds = max(seconds, INSTANT_S)
        self._rows_tried = max(self._rows_tried, rows)
        size = cell_size(rows)
        hint = self._hints.get(size)
        if hint is None:
            hint = self._hints[size] = Hint()
        if hint.count < WARM_UP:
            hint.add(seconds, self._learned)
            if size not in self._cells:
                self._draw()
        elif self._is_news(size, seconds, now):
            self._learn(size, seconds, now)

    def _is_news(self, size: int, seconds: float, now: float) -> bool:
        """False for a stall, and for the last of the durations that showed a lasting change."""
        cell = self._cells.get(size)
        if cell is None or cell.borrowed or cell.is_stale(self._learned):
            return True
        cell.measured_at = now
        if not cell.is_young(self._learned) and self._has_changed(size, seconds):  # so that a change leaves something
            self._change()
            return False
        if len(cell.samples) > WARM_UP and seconds > STALL * cell.median_s:
            self.stalls += 1
            return False
        return True

    def _learn(self, size: int, seconds: float, now: float) -> None:
        redraw = False
        if self._learned == 0 and self._cells and self.curve is not None:
            self._scale_borrowed(seconds * self._ratios.factor / self.curve.seconds(size))
            redraw = True
        if self.curve is not None:
            redraw |= self._ratios.add(seconds * self._ratios.factor, self.curve.seconds(size))
        self.grounded = True
        self._learned += 1
        cell = self._cells.setdefault(size, Cell())
        cell.add(seconds, now, self._learned)
        redraw |= self._forget_old(now)
        self._undrawn += 1
        noticeable = NOTICEABLE if self._undrawn >= DRAW_STEP else LARGE
        if redraw or abs(cell.median_s - cell.drawn_s) > noticeable * cell.drawn_s:
            self._draw()

    def _borrow(self, pool: "LearnedTable") -> None:
        for size, cell in pool._cells.items():
            mine = self._cells[size] = Cell(measured_at=cell.measured_at)
            mine.refill((cell.median_s,))
            mine.borrowed = True
        self._rows_tried = pool._rows_tried
        if self._cells:
            self._draw()

    def _scale_borrowed(self, ratio: float) -> None:
        """Keys of one method share the shape of the curve, seldom its height."""
        for cell in self._cells.values():
            cell.refill((cell.median_s * ratio,))
            cell.borrowed = True

    def _has_changed(self, size: int, seconds: float) -> bool:
        """Against the curve, not the cell: a cell of few samples is itself far off one time in two."""
        assert self.curve is not None
        ratio = seconds * self._ratios.factor / self.curve.seconds(size)
        run = self._run
        if run and (run[0][2] > 1) != (ratio > 1):
            run.clear()
        if CHANGE_LOW <= ratio <= CHANGE_HIGH:
            run.clear()
            return False
        run.append((size, seconds, ratio))
        return len(run) >= CHANGE_RUN

    def _change(self) -> None:
        """All that is known is scaled by the run's median ratio; sizes measured during the run then take its durations
        in. Forgetting the old ones instead would leave medians of one sample, which the next noise would overturn.
        Only what may have been measured on either side of the change is forgotten."""
        factor = median(ratio for _, _, ratio in self._run)
        for size, cell in list(self._cells.items()):
            if cell.is_young(self._learned):
                del self._cells[size]
                continue
            borrowed = cell.borrowed
            fresh = [seconds for run_size, seconds, _ in self._run if run_size == size]
            known = [] if len(fresh) >= CHANGE_RUN // 2 else [seconds * factor for seconds in cell.samples]
            cell.refill([*known, *fresh])
            cell.borrowed = borrowed and not fresh
        for hint in self._hints.values():
            hint.least_s = inf
        self._run.clear()
        self._draw()

    def _forget_old(self, now: float) -> bool:
        """Sizes above the smallest two fresh ones that nobody measured for long: grown into again, as from cold."""
        if now <= self._ages_at:
            return False
        self._ages_at = min(cell.measured_at for cell in self._cells.values()) + self._ageing_s
        limit = now - self._ageing_s
        fresh = sorted(size for size, cell in self._cells.items() if cell.measured_at >= limit)
        old = [size for size, cell in self._cells.items() if cell.measured_at < limit]
        old = [size for size in old if len(fresh) > 1 and size > fresh[1]]
        for size in old:
            del self._cells[size]
        if old:
            self._rows_tried = max(self._cells)
            self._hints = {size: hint for size, hint in self._hints.items() if size <= self._rows_tried}
        return bool(old)

    def _draw(self) -> None:
        self._undrawn = 0
        learned = [Mark(size, cell.median_s, cell.weight(self._learned)) for size, cell in self._cells.items()]
        for cell in self._cells.values():
            cell.drawn_s = cell.median_s
        hints = [
            Mark(size, hint.least_s, SLIGHT)
            for size, hint in self._hints.items()
            if hint.least_s < inf and size not in self._cells and not hint.is_stale(self._learned)
        ]
        factor = self._ratios.factor
        points = [(size, seconds * factor) for size, seconds in monotone(believable(learned, hints))]
        noise = median([cell.error() for cell in self._cells.values()]) if self._cells else 0.0
        self.curve = Curve(points, self._buckets, open_ended=True, noise=noise)
        self.rows_measured = max((size for size, _ in points if not self._is_borrowed(size)), default=0)

    def _is_borrowed(self, size: int) -> bool:
        return size in self._cells and self._cells[size].borrowed
