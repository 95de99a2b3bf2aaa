"""What the recent arrivals of one key say about those to come: rows per second and the usual latency budget."""

from math import inf, isfinite, sqrt

BUDGETS = 16
WINDOW_S = 1.0
LONG = 6  # the long window is so many short ones
GAPS = 64
SHORT_SHARE = 0.7  # so many of the gaps are short, if they come in clusters
SHORT = 0.2  # of the mean gap: no longer than this. For arrivals by pure chance the share is at 1.2, alone at 1
RESIZE = 0.01  # a window that would change by less stays


class Arrivals:
    """Rows are counted in windows, the current one and the LONG before it, which bounds both memory and staleness.

    Of the oldest window counts the part that is still within reach, as if its rows had come evenly.
    """

    __slots__ = (
        "_begin",
        "_budget_s",
        "_budgets",
        "_cluster_gap_s",
        "_count",
        "_ends",
        "_gaps",
        "_last",
        "_past",
        "_past_rows",
        "window_s",
    )

    def __init__(self) -> None:
        self.window_s = WINDOW_S
        self._begin = -inf
        self._ends = -inf
        self._count: float = 0
        self._past: list[float] = [0] * LONG  # the newest first
        self._past_rows: float = 0
        self._budgets: list[float] = []
        self._budget_s: float | None = None
        self._last = -inf
        self._gaps: list[float] = []
        self._cluster_gap_s = 0.0

    def add(self, rows: int, budget_s: float, now: float) -> None:
        if now >= self._ends:
            self._turn(now)
        self._count += rows
        budgets = self._budgets
        budgets.append(budget_s)
        if len(budgets) == BUDGETS:
            self._budget_s = sorted(budgets)[BUDGETS // 2]
            budgets.clear()
        self._gaps.append(now - self._last)
        self._last = now
        if len(self._gaps) == GAPS:
            self._measure_clusters()

    def demand(self, now: float) -> float:
        """Rows per second to be ready for: over the last LONG windows, or over the last one less the error that its
        count has by chance, if that is more. So a burst shows within one window and a chance cluster does not."""
        if now >= self._ends:
            self._turn(now)
        window_s, past = self.window_s, self._past
        left = (self._ends - now) / window_s
        recent = self._count + past[0] * left
        lasting = (self._count + self._past_rows - past[-1] * (1.0 - left)) / LONG
        return max(lasting, recent - sqrt(recent)) / window_s

    def lasting(self, now: float) -> float:
        """Rows per second over the last LONG windows."""
        if now >= self._ends:
            self._turn(now)
        left = (self._ends - now) / self.window_s
        return (self._count + self._past_rows - self._past[-1] * (1.0 - left)) / LONG / self.window_s

    def budget_s(self) -> float:
        """Median of the last BUDGETS or so; inf where most have none."""
        if self._budget_s is not None:
            return self._budget_s
        ordered = sorted(self._budgets)
        return ordered[len(ordered) // 2] if ordered else inf

    @property
    def in_clusters(self) -> bool:
        return self._cluster_gap_s > 0

    def cluster_ends_at(self, gap_s_max: float) -> float:
        """When arrivals that come in clusters, if they did lately, are likely to be over; else the time of the last."""
        return self._last + min(self._cluster_gap_s, gap_s_max)

    def resize(self, window_s: float, now: float) -> None:
        """The window in seconds. What was counted so far goes on to count at its rate."""
        factor = window_s / self.window_s
        if abs(factor - 1.0) < RESIZE:
            return
        self.window_s = window_s
        self._past = [rows * factor for rows in self._past]
        self._past_rows *= factor
        passed_s = now - self._begin
        if window_s < passed_s < inf:
            self._count *= window_s / passed_s
            self._begin = now - window_s
        self._ends = self._begin + window_s

    def _measure_clusters(self) -> None:
        gaps = sorted(self._gaps)
        short_s = gaps[int(SHORT_SHARE * GAPS)]
        self._cluster_gap_s = short_s if short_s * GAPS <= SHORT * sum(gaps) < inf else 0.0
        self._gaps.clear()

    def _turn(self, now: float) -> None:
        """The present window has ended, perhaps long ago."""
        windows = max(1.0, (now - self._begin) // self.window_s) if isfinite(self._begin) else inf
        if windows > LONG:
            self._past = [0] * LONG
            self._begin = now
        else:
            empty = int(windows) - 1
            self._past = [*[0] * empty, self._count, *self._past][:LONG]
            self._begin += windows * self.window_s
        self._past_rows = sum(self._past)
        self._count = 0
        self._ends = self._begin + self.window_s
