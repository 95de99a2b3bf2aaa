"""Whether a child hangs, told by its slot alone. Pure: a slot's view and the time in, a reason to kill it out.

Two clocks. The beat comes from a thread of its own: a stopped process or a held GIL lets it age. A batch that runs too
long while the beat ticks is a hang in the model; what is too long is set, or learned from the longest batch seen.
"""

from __future__ import annotations

from paceline.protocol.limits import HANG_S
from paceline.protocol.slot import SlotView

LOOK_S = 0.25
# Linking torch's libraries from a cold disk or unpacking a large model may hold the GIL for minutes.
LOADING_HANG_S = 300.0
# The limit of one batch, unless set: 5 s or 20 times the longest seen. A batch under LOOK_S may go unseen, and may:
# 20 * 0.25 s = 5 s.
BATCH_HANG_MIN_S = 5.0
BATCH_FACTOR = 20.0
# The first batches of a process compile, tune and fill caches: nothing is concluded from them.
EARLY_BATCHES = 16
EARLY_HANG_S = 600.0
EARLY_HANG_MIN_S = 30.0


class Watchdog:
    """Watches one child, over its restarts. `execution_timeout_s`: None = learned."""

    def __init__(self, execution_timeout_s: float | None = None) -> None:
        self._given_s = execution_timeout_s
        self._longest_s = 0.0
        self._longest_early_s = 0.0
        self._knows_early = False
        self._alive_at = 0.0
        self._running: tuple[int, float] | None = None

    def started(self, now: float) -> None:
        """A new process is to be watched."""
        self._alive_at = now
        self._running = None
        self._longest_s = 0.0

    def excuse(self, now: float) -> None:
        """The watcher itself did not run for a while: nothing that is older than `now` counts."""
        self._alive_at = now

    def look(self, view: SlotView | None, ready: bool, now: float) -> str:
        """Why the process must be killed, empty while all is well."""
        if view is not None:
            self._alive_at = max(self._alive_at, view.beat_ns / 1e9)
        limit_s = HANG_S if ready else LOADING_HANG_S
        if now - self._alive_at >= limit_s:
            return f"hang: no sign of life for {now - self._alive_at:.1f} s (stopped, or the GIL is held)"
        if view is None or not ready:
            return ""
        return self._look_at_batch(view, now)

    def next_look(self, ready: bool, now: float) -> float:
        """When to look again: soon, and not after the beat is too old."""
        return min(now + LOOK_S, self._alive_at + (HANG_S if ready else LOADING_HANG_S))

    def _look_at_batch(self, view: SlotView, now: float) -> str:
        started = view.batch_started_ns / 1e9
        running = (view.batch_id, started) if view.batch_started_ns else None
        if self._running is not None and running != self._running:
            self._learn(now - self._running[1], view.batches)
        self._running = running
        if view.batches > EARLY_BATCHES:
            self._knows_early = True
        if running is None:
            return ""
        limit_s = self._batch_limit_s(view.batches)
        if now - started <= limit_s:
            return ""
        return f"hang: a batch ran for {now - started:.1f} s, over the limit of {limit_s:.1f} s ({self._origin()})"

    def _learn(self, duration_s: float, batches: int) -> None:
        if batches <= EARLY_BATCHES:
            self._longest_early_s = max(self._longest_early_s, duration_s)
        else:
            self._longest_s = max(self._longest_s, duration_s)

    def _batch_limit_s(self, batches: int) -> float:
        if self._given_s is not None:
            return self._given_s
        if batches > EARLY_BATCHES:
            return max(BATCH_HANG_MIN_S, BATCH_FACTOR * self._longest_s)
        # A request that hung the last process is tried once more by its successor, as one of its first batches.
        if self._knows_early:
            return min(EARLY_HANG_S, max(EARLY_HANG_MIN_S, BATCH_FACTOR * self._longest_early_s))
        return EARLY_HANG_S

    def _origin(self) -> str:
        return "execution_timeout_ms" if self._given_s is not None else "learned; execution_timeout_ms sets it"
