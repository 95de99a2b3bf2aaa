"""Which lengths share batches: requests of one key whose tensors are padded, along one dim, to different extents.

A batch is padded to its longest member and costs what that makes of all its rows. So b1 shorter rows go with b2 longer
ones only if this takes a worker less time than two batches do, L_long[b1 + b2] < L_short[b1] + L_long[b2], by tables
that are known. Then they wait as if in one queue, or who is urgent would keep batches as small as his length is rare.
Changes nothing; called by the planner.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from paceline.runner.dispatcher.backlog import KeyState
from paceline.runner.dispatcher.curve import sliced
from paceline.runner.dispatcher.queue import KeyQueue, Waiting
from paceline.runner.dispatcher.table_book import Table

BATCHES = 4  # of each length and class are looked at, as far as a choice looks ahead


class Part(NamedTuple):
    """What waits of one length."""

    state: KeyState
    table: Table


class Mix:
    """What waits of the lengths that are better served together with the first than apart, in one queue of its own. All
    tables are grounded."""

    def __init__(self, first: Part, others: Sequence[Part], cap: int) -> None:
        self.parts = [first]
        self.table = first.table  # of the longest
        self._longest = first.state.length
        self._rows = first.state.queue.rows
        for part in others:
            self._join(part, cap)
        self.queue = KeyQueue()
        if len(self.parts) > 1:
            self.queue.fill([part.state.queue for part in self.parts], BATCHES * cap)

    def pays(self, members: Sequence[Waiting]) -> bool:
        """Whether the rule holds for this batch: of its few rows it may not what holds for all that wait."""
        rows = Counter[int]()
        for waiting in members:
            rows[waiting.request.length] += waiting.request.rows
        tables = {part.state.length: part.table for part in self.parts}
        apart_s = sum([_lone_s(tables[length], count) for length, count in rows.items()])
        return len(rows) == 1 or _lone_s(tables[max(rows)], rows.total()) < apart_s

    def _join(self, part: Part, cap: int) -> None:
        rows = part.state.queue.rows
        longer = part.table if part.state.length > self._longest else self.table
        apart_s = _batches_s(self.table, self._rows, cap) + _batches_s(part.table, rows, cap)
        if _batches_s(longer, self._rows + rows, cap) < apart_s:
            self.parts.append(part)
            self.table = longer
            self._longest = max(self._longest, part.state.length)
            self._rows += rows


def _lone_s(table: Table, rows: int) -> float:
    """Of so many rows in one batch."""
    assert table.curve is not None
    return table.curve.seconds(rows)


def _batches_s(table: Table, rows: int, cap: int) -> float:
    """Of so many rows in batches of the best size."""
    curve = table.curve
    assert curve is not None
    return sliced(curve, rows, curve.best_rows(int(min(cap, table.rows_allowed))))
