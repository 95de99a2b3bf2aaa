"""When a dead child is started again, and when it is given up. Pure: a death and the time in, a decision out.

Two levels, as in Erlang's supervisors: each child has a budget of deaths, a runner is given up when all its workers
are, the server when nothing is left. A death that is not the child's own doing does not cost the budget.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 30.0
DEATHS_MAX = 5
DEATHS_WINDOW_S = 60.0
LOAD_TRIES_MAX = 3
HEALTHY_S = 30.0


class Blame(Enum):
    """CHILD: costs budget and wait. OTHERS (a request, the machine): costs the wait. NOBODY: costs nothing."""

    CHILD = auto()
    OTHERS = auto()
    NOBODY = auto()


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended. `load_error`: it said FAILED before it was ready. `blame`: who brought it about."""

    reason: str
    load_error: bool = False
    blame: Blame = Blame.CHILD


@dataclass(frozen=True, slots=True)
class Restart:
    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


Decision: TypeAlias = Restart | GiveUp


def blame(was_ready: bool, served: bool, served_before: bool, in_hand: bool, from_outside: bool) -> Blame:
    """Who is to blame for a death.

    `served`: this process had served requests; `served_before`: an earlier one in its place had. `in_hand`: it had
    requests in its hands. `from_outside`: somebody killed it or asked it to leave.

    Without these excuses a server that loses workers to an impatient operator, the out-of-memory killer, one bad
    request in a thousand, or a few of them in a row would be given up although every restart is useful.
    """
    if not was_ready:
        return Blame.CHILD
    if served or (from_outside and not in_hand):
        return Blame.NOBODY
    return Blame.OTHERS if in_hand and served_before else Blame.CHILD


class RestartPolicy:
    """One child's deaths so far."""

    def __init__(self) -> None:
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._streak = 0
        self._load_errors = 0
        self._ready_at: float | None = None

    def ready(self, now: float) -> None:
        self._ready_at = now
        self._load_errors = 0

    def died(self, death: Death, now: float) -> Decision:
        healthy = self._ready_at is not None and now - self._ready_at >= HEALTHY_S
        self._ready_at = None
        if death.blame == Blame.NOBODY or healthy:
            self._streak = 0
        if death.load_error:
            self._load_errors += 1
            if self._load_errors >= LOAD_TRIES_MAX:
                return GiveUp(f"{LOAD_TRIES_MAX} tries to load failed: {death.reason}")
        if death.blame == Blame.CHILD:
            self._deaths.append(now)
            if len(self._deaths) == DEATHS_MAX and now - self._deaths[0] <= DEATHS_WINDOW_S:
                return GiveUp(f"{DEATHS_MAX} deaths within {DEATHS_WINDOW_S:g} s, the last one: {death.reason}")
        delay_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2**self._streak)
        # Bounded, so that the power above stays a small number.
        self._streak = min(self._streak + 1, 16)
        return Restart(delay_s)
