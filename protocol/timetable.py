"""How fast a key's batches go: a latency table, asked. Pure, immutable but for its memory.

The same reading of a table as the dispatcher's own (runner/dispatcher/curve.py), for those who may not import it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from paceline.protocol.forecast import KeyTable

TIE: Final = 0.97  # sizes whose rows per second are within 3 % count as equal: the larger goes
MEMO_MAX: Final = 1024
INSTANT_S: Final = 1e-9


class Timetable:
    """A latency table, asked: seconds of `rows` rows, and the batch with the most rows per second."""

    __slots__ = ("_memo", "full_rows", "full_s", "lone_s", "table")

    def __init__(self, table: KeyTable) -> None:
        self.table = table
        self._memo: dict[int, float] = {}
        sizes = [*(size for size in table.sizes if size < table.rows_max), table.rows_max]
        rates = {size: size / max(self._interpolated(size), INSTANT_S) for size in sizes}
        self.full_rows = max(size for size in sizes if rates[size] >= TIE * max(rates.values()))
        self.full_s = max(self._interpolated(self.full_rows), INSTANT_S)
        self.lone_s = self._interpolated(1)

    def seconds(self, rows: int) -> float:
        """Of a batch, or of the slices of one larger request."""
        known = self._memo.get(rows)
        if known is None:
            if len(self._memo) >= MEMO_MAX:
                self._memo.clear()
            slices, rest = divmod(rows, self.table.rows_max)
            known = slices * self._interpolated(self.table.rows_max) + (self._interpolated(rest) if rest else 0.0)
            self._memo[rows] = known
        return known

    def _interpolated(self, rows: int) -> float:
        sizes, seconds = self.table.sizes, self.table.seconds
        at = min(bisect_left(sizes, rows), len(sizes) - 1)
        if len(sizes) == 1 and rows > sizes[0]:
            return seconds[0] * rows / sizes[0]
        if at == 0 or sizes[at] == rows:
            return seconds[at]
        per_row = (seconds[at] - seconds[at - 1]) / (sizes[at] - sizes[at - 1])
        return seconds[at - 1] + per_row * (rows - sizes[at - 1])
