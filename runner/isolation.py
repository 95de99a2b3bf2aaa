"""Which parts of a failed batch to run again, so that the calls at fault are found and their neighbours answered;
when looking for them is given up; and what a batch that ran out of memory says about the size to stay below.

Pure: it sees positions and verdicts, never a call. The executor asks `next_part`, runs it, and `report`s. Bound: after
the failed batch of B, one bad call costs at most 2 log2(B) + 1 further runs; b bad ones at most 2 B - 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

OUTPUT_SEARCHES = 4  # in a row and in vain; then refused outputs of the method are nobody's
OUTPUT_BATCHES_SKIPPED = 256  # until one is searched after all


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


class OutputSearches:
    """Whether it makes sense to look for the calls that spoil a method's output, told by how it went before.

    A request may make the output's rows wrong for its whole batch. But a method may also never give a batch, and must
    not cost a bisection each time. A search is in vain if it finds nobody at fault, or nobody innocent.
    """

    __slots__ = ("_skipped", "_vain")

    def __init__(self) -> None:
        self._vain = 0
        self._skipped = 0

    def makes_sense(self) -> bool:
        """Ask once for a batch whose output was refused, and if so tell `ended` of the search."""
        if self._vain < OUTPUT_SEARCHES:
            return True
        self._skipped = (self._skipped + 1) % (OUTPUT_BATCHES_SKIPPED + 1)
        return self._skipped == 0

    def ended(self, at_fault: int, innocent: int) -> None:
        if at_fault and innocent:
            self.passed()
        else:
            self._vain += 1

    def passed(self) -> None:
        """An output for several calls was one."""
        self._vain = self._skipped = 0


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
