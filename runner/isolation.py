"""Which parts of a failed batch to run again, so that the calls at fault are found and their neighbours answered;
and what a batch that ran out of memory says about the size to stay below.

Pure: it sees positions and verdicts, never a call. The executor asks `next_part`, runs it, and `report`s. Bound: after
the failed batch of B, one bad call costs at most 2 log2(B) + 1 further runs; b bad ones at most 2 B - 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How a part fared. UNKNOWN: some of it was not run, or its passing says nothing of the rest (out of memory)."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Half:
    part: range
    is_left: bool


class Bisection:
    """Bisects positions 0 ... count - 1, which failed together; left halves first.

    When a left half passes, its right half must hold the fault: it is split at once, without running it whole.
    """

    __slots__ = ("_running", "_todo")

    def __init__(self, count: int) -> None:
        self._todo: list[_Half] = []
        self._running: _Half | None = None
        self._split(range(count))

    def next_part(self) -> range | None:
        """The positions to run next; None when every one has been in a part that was run."""
        self._running = self._todo.pop() if self._todo else None
        return self._running.part if self._running else None

    def report(self, verdict: Verdict) -> None:
        """How the part that `next_part` gave last has fared."""
        half = self._running
        assert half is not None, "report without a part"
        self._running = None
        if verdict is Verdict.FAILED:
            self._split(half.part)
        elif verdict is Verdict.PASSED and half.is_left and len(self._todo[-1].part) > 1:
            # Its sibling is on top: whatever was stacked above it has been run.
            self._split(self._todo.pop().part)

    def _split(self, part: range) -> None:
        if len(part) < 2:
            return
        middle = len(part) // 2
        self._todo.append(_Half(part[middle:], is_left=False))
        self._todo.append(_Half(part[:middle], is_left=True))


class SizesTried:
    """The sizes (rows) of one batch's forwards that memory held, and those that it did not."""

    __slots__ = ("_passed", "_too_large")

    def __init__(self) -> None:
        self._passed: set[int] = set()
        self._too_large: set[int] = set()

    def passed(self, rows: int) -> None:
        self._passed.add(rows)

    def ran_out(self, rows: int) -> None:
        self._too_large.add(rows)

    @property
    def any_ran_out(self) -> bool:
        return bool(self._too_large)

    def cap_rows(self) -> int | None:
        """The largest size that memory is known to hold; half the smallest that it did not, if none passed below it.

        None when memory sufficed, and when not even one row fitted: then a request is at fault, not the size.
        """
        smallest = min(self._too_large, default=1)
        if smallest == 1:
            return None
        return max((rows for rows in self._passed if rows < smallest), default=smallest // 2)
