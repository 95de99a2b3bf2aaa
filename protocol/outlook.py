"""What becomes of a request at one host, by the host's last Forecast and what this process sent there since. Pure.

The prediction: what waits goes to the workers as they free, most urgent first, in full batches, which are of the size
with the most rows per second; a request goes with the batch after all that is more urgent. Two corrections, both
measured with the very dispatcher (tests/benchmarks/simulate/test_admission.py):

- With less than FAR batches before it, the dispatcher may yet leave them behind for this one, to make the next batch
  large. So only that counts which no choice of its own could change: when the first worker frees, and the time alone.
- With more, others will have come by then: a request leaves with a full batch, or not at all.

Without the first, tight budgets lose up to a tenth of what is served in time; without the second, half of those without
a chance are taken, and die. A Forecast that is idle, old or without a table refuses nobody.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from math import inf
from typing import Final, NamedTuple, TypeAlias

from paceline.protocol.forecast import BacklogPoint, Forecast, KeyTable
from paceline.protocol.timetable import Timetable

STALE_S: Final = 1.0  # a Forecast this old refuses nobody, unless all workers are still in the batches that it names
FAR: Final = 3.0  # full batches of each worker
ROUNDING_S: Final = 1e-6
SENT_MAX: Final = 1024  # of what was sent since the Forecast; the oldest beyond are surely in the next one
GROUPS_MAX: Final = 63  # of rows that wait, by urgency; beyond, neighbours are put together

Name: TypeAlias = tuple[str, bytes, int]  # of a latency table: method, key, length


class _Group(NamedTuple):
    """Rows of about the same urgency. In the order of its fields."""

    priority: int
    deadline: float
    rows: int


class _Sent(NamedTuple):
    """What went to the host: when, and how urgent."""

    at: float
    priority: int
    deadline: float
    rows: int


class _Schedule:
    """Who waits at a host, in groups by urgency, and when its workers free, the soonest first: as it will go on by
    itself until the next Forecast comes."""

    __slots__ = ("_free_at", "_groups", "_rows", "_timetable")

    def __init__(self, free_at: list[float], timetable: Timetable) -> None:
        self._free_at = free_at
        self._timetable = timetable
        self._groups: list[_Group] = []
        self._rows = 0

    def fill(self, backlog: tuple[BacklogPoint, ...]) -> None:
        """With what the Forecast counted. Those without a chance do not wait for long."""
        before = 0
        for point in backlog:
            rows, before = point.rows - before, point.rows
            deadline = point.deadline_ns / 1e9
            if self._has_chance(self._rows + rows // 2, deadline):
                self._groups.append(_Group(point.priority, deadline, rows))
                self._rows += rows

    def add(self, sent: _Sent) -> None:
        """With a request sent since."""
        self.advance(sent.at)
        if not self._rows and self._free_at[0] < sent.at:
            self._free_at[0] = sent.at
            self._free_at.sort()
        if not self._has_chance(self._rows, sent.deadline):
            return
        insort(self._groups, _Group(sent.priority, sent.deadline, sent.rows))
        self._rows += sent.rows
        if len(self._groups) > GROUPS_MAX:
            pairs = zip(self._groups[::2], self._groups[1::2], strict=True)
            self._groups = [_Group(b.priority, b.deadline, a.rows + b.rows) for a, b in pairs]

    def advance(self, now: float) -> None:
        """Workers that have freed by now took what waited."""
        free_at, timetable = self._free_at, self._timetable
        while self._rows and free_at[0] <= now:
            rows = min(self._rows, timetable.full_rows)
            free_at[0] += timetable.seconds(rows)
            free_at.sort()
            self._take(rows)

    def rows_before(self, priority: int, deadline: float) -> int:
        groups = self._groups
        if not groups or groups[-1] <= (priority, deadline, inf):
            return self._rows
        return sum([group.rows for group in groups[: bisect_right(groups, (priority, deadline, inf))]])

    def start_behind(self, rows: int) -> float:
        """When the batch starts that comes after so many rows."""
        free_at, batches = self._free_at, rows // self._timetable.full_rows
        if not batches:
            return free_at[0]
        rounds, worker = divmod(batches, len(free_at))
        # The second: a worker that frees much earlier than the others takes several batches before they do.
        return min(free_at[worker] + rounds * self._timetable.full_s, free_at[0] + batches * self._timetable.full_s)

    def is_far(self, start: float) -> bool:
        """Whether so much goes before a batch that starts then that others will have come to fill it."""
        return start - self._free_at[0] >= FAR * self._timetable.full_s - ROUNDING_S

    def _has_chance(self, before: int, deadline: float) -> bool:
        start = self.start_behind(before)
        return start + (self._timetable.lone_s if self.is_far(start) else self._timetable.full_s) <= deadline

    def _take(self, rows: int) -> None:
        self._rows -= rows
        groups = self._groups
        while rows:
            first = groups[0]
            if first.rows > rows:
                groups[0] = first._replace(rows=first.rows - rows)
                return
            rows -= first.rows
            del groups[0]


class Outlook:
    """One host as this process sees it. Times in seconds of the host's clock, which is this machine's."""

    __slots__ = (
        "_calm_s",
        "_forecast",
        "_lone_s_max",
        "_methods",
        "_probe_at",
        "_reply_s",
        "_schedule",
        "_sent",
        "_timetables",
        "_until",
    )

    def __init__(self, reply_s: float) -> None:
        self._reply_s = reply_s
        self._forecast: Forecast | None = None
        self._timetables: dict[Name, Timetable] = {}
        self._methods: dict[str, Timetable | None] = {}
        self._sent: deque[_Sent] = deque(maxlen=SENT_MAX)
        self._schedule: _Schedule | None = None
        self._until = -inf
        self._calm_s = self._lone_s_max = 0.0
        self._probe_at = -inf

    @property
    def rows_queued(self) -> int:
        return self._forecast.rows_queued if self._forecast is not None else 0

    @property
    def rows_per_s(self) -> float:
        return self._forecast.rows_per_s if self._forecast is not None else 0.0

    def hear(self, forecast: Forecast) -> None:
        """The host's latest word."""
        self._forecast = forecast
        self._schedule = None
        self._until = -inf
        at = forecast.at_ns / 1e9
        while self._sent and self._sent[0].at < at:
            self._sent.popleft()
        free_at = [max(at, time_ns / 1e9) for time_ns in forecast.free_at_ns]
        if not forecast.tables or not free_at or (not forecast.rows_queued and min(free_at) <= at):
            return
        self._read_tables(forecast.tables)
        self._until = max(at + STALE_S, min(free_at))
        self._lone_s_max = max([timetable.lone_s for timetable in self._timetables.values()])
        lead = self._timetables[_name(forecast.tables[0])]
        batches = forecast.rows_queued // lead.full_rows + 2
        rows_sent = sum([sent.rows for sent in self._sent])
        self._calm_s = min(free_at) + batches * lead.full_s + rows_sent * self._lone_s_max + self._reply_s

    def refuses(self, now: float) -> bool:
        """Whether its word may keep anybody away now."""
        return now < self._until

    def note(self, now: float, priority: int, deadline: float, rows: int) -> None:
        """A request was sent there."""
        if now >= self._until:
            return
        sent = _Sent(now, priority, deadline, rows)
        self._sent.append(sent)
        self._calm_s += rows * self._lone_s_max
        if self._schedule is not None:
            self._schedule.add(sent)

    def late_s(self, now: float, name: Name, rows: int, priority: int, deadline: float, pending: int) -> float:
        """How long after its deadline a request would be done, if it came now, behind `pending` rows that were not sent
        yet; 0.0 = in time, as far as is known. `name`: its method, key and length."""
        if now >= self._until or deadline - (rows + pending) * self._lone_s_max >= self._calm_s:
            return 0.0
        timetable = self._timetable(name)
        if timetable is None:
            return 0.0
        schedule = self._schedule or self._made_schedule()
        schedule.advance(now)
        start = schedule.start_behind(schedule.rows_before(priority, deadline) + pending)
        takes_s = timetable.seconds(rows)
        if schedule.is_far(start):
            takes_s = max(takes_s, timetable.full_s)
        else:
            start = schedule.start_behind(0)
        return max(0.0, max(now, start) + takes_s + self._reply_s - deadline)

    def lets_probe(self, now: float, name: Name) -> bool:
        """Whether a request that seems late goes all the same: one per time that it takes alone, since a learned table
        may be wrong, and nobody would notice if its word kept everybody away."""
        timetable = self._timetable(name)
        if timetable is None or timetable.table.known or now < self._probe_at:
            return False
        self._probe_at = now + timetable.lone_s
        return True

    def _timetable(self, name: Name) -> Timetable | None:
        """Of a key that the Forecast does not name, that of its method, if there is only one."""
        method, key, length = name
        found = self._timetables.get(name)
        if found is None and length:
            found = self._timetables.get((method, key, 0))
        return found or self._methods.get(method)

    def _read_tables(self, tables: tuple[KeyTable, ...]) -> None:
        known, self._timetables, self._methods = self._timetables, {}, {}
        for table in tables:
            name = _name(table)
            timetable = known.get(name)
            if timetable is None or timetable.table != table:
                timetable = Timetable(table)
            self._timetables[name] = timetable
            self._methods[table.method] = None if table.method in self._methods else timetable

    def _made_schedule(self) -> _Schedule:
        """Not before somebody might be late: most Forecasts are never looked at."""
        forecast = self._forecast
        assert forecast is not None
        at = forecast.at_ns / 1e9
        free_at = sorted([max(at, time_ns / 1e9) for time_ns in forecast.free_at_ns])
        schedule = self._schedule = _Schedule(free_at, self._timetables[_name(forecast.tables[0])])
        schedule.fill(forecast.backlog)
        for sent in self._sent:
            schedule.add(sent)
        return schedule


def _name(table: KeyTable) -> Name:
    return table.method, table.key, table.length
