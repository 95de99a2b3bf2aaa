"""Whether a child hangs, told by its slot alone. Pure: a slot's view and the time in, a finding out.

Two clocks. The beat comes from a thread of its own: a stopped process or a held GIL lets it age. A batch that runs too
long while the beat ticks may be a hang in the model. It is met in two steps, since only the second costs something if
it was none: soon the child is out of rotation, back as soon as the batch ends; much later it is killed. How long that
is, is set (then both happen at once), or learned from the longest batches seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from paceline.protocol.limits import HANG_S, LATENCY_BUDGET_MS
from paceline.protocol.slot import SlotView

LOOK_S = 0.25
# Linking torch's libraries from a cold disk or unpacking a large model may hold the GIL for minutes.
LOADING_HANG_S = 300.0
# A stalled child is asked more often, so that it is soon back.
STALLED_LOOK_S = 0.05
# Out of rotation: early enough that readiness tells of a hang within HANG_S, or after 4 times the longest batch seen.
# A longer healthy one costs a moment of readiness, once: it is the longest from then on.
STALL_MIN_S = 2.5
STALL_FACTOR = 4.0
# Killed, unless a limit is set: after 5 s or 20 times the longest seen. A batch under LOOK_S may go unseen, and may:
# 20 * 0.25 s = 5 s.
BATCH_HANG_MIN_S = 5.0
BATCH_FACTOR = 20.0
# The first batches of a process compile, tune and fill caches. They get 30 s or the runner's latency budget, after
# which nobody waits for them any more. A model that never got further may be one that compiles for minutes: each
# successor of a process killed so gets twice the time.
EARLY_BATCHES = 16
EARLY_HANG_MIN_S = 30.0
EARLY_HANG_MAX_S = 600.0


class Health(Enum):
    """WELL; STALLED: should get nothing new, and may recover; HANGING: must be killed."""

    WELL = auto()
    STALLED = auto()
    HANGING = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found, and why; no reason while all is well."""

    health: Health
    reason: str = ""


WELL = Finding(Health.WELL)


class Watchdog:
    """Watches one child, over its restarts. `execution_timeout_s`: None = learned. `budget_s`: how long its requests
    are waited for."""

    def __init__(self, execution_timeout_s: float | None = None, budget_s: float = LATENCY_BUDGET_MS / 1000) -> None:
        self._given_s = execution_timeout_s
        self._early_s = min(EARLY_HANG_MAX_S, max(EARLY_HANG_MIN_S, budget_s))
        # The longest batches: of this process once it is settled; of the early ones, in all its lives; of those without
        # each process's very first, which tells of a compiler more than of the model.
        self._longest_s = 0.0
        self._longest_early_s = 0.0
        self._longest_settling_s = 0.0
        self._settled_once = False
        self._alive_at = 0.0
        self._excused_at = 0.0
        self._running: tuple[int, float] | None = None
        self._stall_at: float | None = None

    def started(self, now: float) -> None:
        """A new process is to be watched."""
        self._alive_at = now
        self._running = None
        self._longest_s = 0.0

    def excuse(self, now: float) -> None:
        """The watcher itself did not run for a while: nothing that is older than `now` counts, and how long a batch
        took that ended meanwhile cannot be told."""
        self._alive_at = self._excused_at = now
        self._running = None

    def look(self, view: SlotView | None, ready: bool, now: float) -> Finding:
        """How the process is."""
        self._stall_at = None
        if view is not None:
            self._alive_at = max(self._alive_at, view.beat_ns / 1e9)
        limit_s = HANG_S if ready else LOADING_HANG_S
        if now - self._alive_at >= limit_s:
            silent_s = now - self._alive_at
            return _hangs(f"hang: no sign of life for {silent_s:.1f} s (stopped, or the GIL is held)")
        if view is None or not ready:
            return WELL
        return self._look_at_batch(view, now)

    def next_look(self, ready: bool, now: float) -> float:
        """When to look again: soon, and neither after the beat is too old nor after the batch stalls."""
        alive_until = self._alive_at + (HANG_S if ready else LOADING_HANG_S)
        if self._stall_at is None:
            return min(now + LOOK_S, alive_until)
        return min(now + LOOK_S, alive_until, max(self._stall_at, now + STALLED_LOOK_S))

    def _look_at_batch(self, view: SlotView, now: float) -> Finding:
        started = view.batch_started_ns / 1e9
        running = (view.batch_id, started) if view.batch_started_ns else None
        if self._running is not None and running != self._running:
            self._learn(now - self._running[1], view.batches)
        self._running = running
        if view.batches > EARLY_BATCHES:
            self._settled_once = True
        if running is None:
            return WELL
        since = max(started, self._excused_at)
        limit_s = self._kill_limit_s(view.batches)
        stall_limit_s = min(limit_s, self._stall_limit_s(view.batches))
        self._stall_at = since + stall_limit_s
        if now - since > limit_s:
            self._be_patient(view.batches)
            return _hangs(
                f"hang: a batch ran for {now - since:.1f} s, over the limit of {limit_s:.1f} s ({self._origin})"
            )
        if now - since >= stall_limit_s and stall_limit_s < limit_s:
            return Finding(Health.STALLED, f"a batch runs for {now - since:.1f} s; killed after {limit_s:.1f} s")
        return WELL

    def _learn(self, duration_s: float, batches: int) -> None:
        if batches > EARLY_BATCHES:
            self._longest_s = max(self._longest_s, duration_s)
            return
        self._longest_early_s = max(self._longest_early_s, duration_s)
        if batches > 1:
            self._longest_settling_s = max(self._longest_settling_s, duration_s)

    def _kill_limit_s(self, batches: int) -> float:
        if self._given_s is not None:
            return self._given_s
        if batches > EARLY_BATCHES:
            return max(BATCH_HANG_MIN_S, BATCH_FACTOR * self._longest_s)
        return max(self._early_s, min(EARLY_HANG_MAX_S, BATCH_FACTOR * self._longest_early_s))

    def _stall_limit_s(self, batches: int) -> float:
        if self._given_s is not None:
            return self._given_s
        longest_s = self._longest_s if batches > EARLY_BATCHES else self._longest_settling_s
        return max(STALL_MIN_S, STALL_FACTOR * longest_s)

    def _be_patient(self, batches: int) -> None:
        if batches <= EARLY_BATCHES and not self._settled_once:
            self._early_s = min(EARLY_HANG_MAX_S, 2 * self._early_s)

    @property
    def _origin(self) -> str:
        return "execution_timeout_ms" if self._given_s is not None else "learned; execution_timeout_ms sets it"


def _hangs(reason: str) -> Finding:
    return Finding(Health.HANGING, reason)
