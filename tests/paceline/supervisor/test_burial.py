"""What a dead worker leaves: who it ran, who may be to blame, who had been started."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from paceline.protocol.slot import SlotView
from paceline.supervisor.burial import death_of, remains_of
from paceline.supervisor.policy import Blame
from paceline.supervisor.seat import WORKER, Occupant, Seat
from paceline.supervisor.watchdog import Watchdog

FINISHED, RUNNING = (b"\x01" * 16, 1), (b"\x01" * 16, 2)


def fallen(view: SlotView) -> tuple[Any, Blame]:
    seat = Seat(WORKER, "net", 0, "cpu", Watchdog(), was_ready=True, has_served=True)
    child = SimpleNamespace(output=SimpleNamespace(last_lines=()))
    occupant = Occupant(cast(Any, child), b"w" * 16, Path("slot"), 0.0)
    remains = remains_of(seat, occupant, -signal.SIGSEGV, view, 0)
    return remains, death_of(seat, remains, view).blame


def test_finished_requests_had_started_but_are_not_to_blame() -> None:
    remains, blame = fallen(SlotView(1, 0, 0, 0, 1, 0, True, (), (FINISHED,)))
    assert (remains.in_hand, remains.started, blame) == ((), (FINISHED,), Blame.CHILD)


def test_the_batch_in_hand_is_to_blame() -> None:
    remains, blame = fallen(SlotView(1, 0, 0, 0, 1, 5, True, (RUNNING,), (FINISHED, RUNNING)))
    assert (remains.in_hand, remains.started, blame) == ((RUNNING,), (FINISHED, RUNNING), Blame.OTHERS)


def test_a_torn_batch_may_be_anybodys() -> None:
    remains, blame = fallen(SlotView(1, 0, 0, 0, 1, 5, False, ()))
    assert (remains.in_hand, remains.started, blame) == (None, (), Blame.OTHERS)
