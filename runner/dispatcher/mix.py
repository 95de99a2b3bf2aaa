"""Which lengths share a batch: requests of one key whose tensors are padded, along one dim, to different extents.

A batch is padded to its longest member and costs what that makes of all its rows. So b1 shorter rows join b2 longer
ones only if this takes less of the worker's time than two batches, L_long[b1 + b2] < L_short[b1] + L_long[b2], and if
nobody is late for it. Takes from queues, leaves the backlog's counts to the planner, which calls it.
"""

from paceline.runner.dispatcher.backlog import KeyState
from paceline.runner.dispatcher.curve import Curve, sliced
from paceline.runner.dispatcher.queue import Lane, Waiting
from paceline.runner.dispatcher.table_book import Table

ROUNDING_S = 1e-9


class Mix:
    """A batch whose own queue is empty, and who joins it. `at`: when it begins, plus the way back. `cap`: its rows."""

    def __init__(self, members: list[Waiting], length: int, table: Table, cap: int, at: float) -> None:
        self.members = members  # one of the longest is the first
        self._length = length
        self._table = table
        self._at = at
        self._rows = sum([waiting.request.rows for waiting in members])
        self._cap = min([cap, *[w.request.batch_limit for w in members if w.request.batch_limit is not None]])
        self._due = min([waiting.deadline for waiting in members])

    def join(self, state: KeyState, table: Table) -> int:
        """Heads of this queue become members, if that pays; returns their rows."""
        is_longer = state.length > self._length
        longer = table if is_longer else self._table
        if longer.curve is None:
            return 0
        lane = state.queue.lanes[0]
        room = self._room(longer.curve, longer.rows_allowed, lane.entries[0].deadline)
        count, rows = self._joining(lane, room)
        if not count or not self._pays(state, table, longer.curve, rows):
            return 0
        joined = state.queue.take(lane, count)
        self.members = [*joined, *self.members] if is_longer else [*self.members, *joined]
        if is_longer:
            self._length, self._table = state.length, table
        self._rows += rows
        self._cap = min([self._cap, *[w.request.batch_limit for w in joined if w.request.batch_limit is not None]])
        self._due = min(self._due, joined[0].deadline)
        return rows

    def _room(self, longer: Curve, rows_allowed: float, deadline: float) -> int:
        """The rows that may join, the first of them with this deadline, such that nobody is late."""
        most = longer.best_rows(int(min(self._cap, rows_allowed)))
        return longer.rows_within(min(self._due, deadline) - self._at, most) - self._rows

    def _joining(self, lane: Lane, room: int) -> tuple[int, int]:
        """How many of the lane, and their rows."""
        count = rows = 0
        for waiting in lane.entries[: max(0, room)]:
            request = waiting.request
            limit = room if request.batch_limit is None else min(room, request.batch_limit - self._rows)
            if rows + request.rows > limit or waiting.runs_alone:
                break
            room = limit
            rows += request.rows
            count += 1
        return count, rows

    def _pays(self, state: KeyState, table: Table, longer: Curve, rows: int) -> bool:
        """The rule, and that their own queue is spared as much: a part of a batch that goes anyway may save nothing."""
        own, other = self._table.curve, table.curve
        if own is None or other is None or not self._table.grounded or not table.grounded:
            return False
        extra_s = longer.seconds(self._rows + rows) - own.seconds(self._rows)
        best, left = other.best_rows(int(min(self._cap, table.rows_allowed))), state.queue.rows - rows
        spared_s = sliced(other, rows + left, best) - (sliced(other, left, best) if left else 0.0)
        return extra_s < other.seconds(rows) and extra_s <= spared_s + ROUNDING_S
