"""What a dead worker leaves: who it ran, who may be to blame, who had been started."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from paceline.protocol.control import LostHost
from paceline.protocol.slot import IDS_MAX, SlotView
from paceline.supervisor.burial import begun_in_pool, death_of, remains_of
from paceline.supervisor.policy import Blame
from paceline.supervisor.seat import BROKER, WORKER, Occupant, Seat
from paceline.supervisor.topology import STARTED_MAX
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


def ids(first: int, count: int) -> tuple[tuple[bytes, int], ...]:
    return tuple((b"\x01" * 16, counter) for counter in range(first, first + count))


def slot(started: tuple[tuple[bytes, int], ...], in_hand: int = 0, known: bool = True) -> SlotView:
    return SlotView(1, 0, 0, 0, 1, 0, known, started[len(started) - in_hand :], started)


def lost(started: tuple[tuple[bytes, int], ...]) -> LostHost:
    return LostHost("net", b"w" * 16, "killed", True, True, started)


def test_a_broker_has_nothing_in_hand() -> None:
    seat = Seat(BROKER, "net", 0, "", Watchdog(), was_ready=True)
    child = SimpleNamespace(output=SimpleNamespace(last_lines=()))
    remains = remains_of(seat, Occupant(cast(Any, child), b"b" * 16, Path("slot"), 0.0), -signal.SIGKILL, None, 0)
    assert (remains.in_hand, death_of(seat, remains, None).blame) == ((), Blame.NOBODY)


def test_with_a_broker_dies_what_its_workers_had_begun() -> None:
    begun = begun_in_pool([slot(ids(1, 3), in_hand=1), None, slot(ids(9, 2))], [], 64)
    assert begun == ids(1, 3) + ids(9, 2)


def test_a_worker_caught_in_the_act_of_writing_leaves_everything_open() -> None:
    assert begun_in_pool([slot(ids(1, 3)), slot((), known=False)], [], 64) is None


def test_what_the_workers_lost_before_had_not_answered_is_not_forgotten() -> None:
    """Else a request that killed a worker would have as many starts again as it ever had."""
    assert begun_in_pool([slot(ids(1, 1))], [lost(ids(100, 5)), lost(ids(200, 5))], 1) == (
        ids(1, 1) + ids(203, 2) + ids(103, 2)
    )


def test_begun_requests_are_named_once() -> None:
    assert begun_in_pool([slot(ids(1, 2)), slot(ids(2, 2))], [lost(ids(3, 2))], 64) == ids(1, 4)


def test_of_many_workers_the_latest_of_each_are_named_and_those_of_the_dead() -> None:
    views = [slot(ids(IDS_MAX * number, IDS_MAX)) for number in range(8)]
    begun = begun_in_pool(views, [lost(ids(10**6, IDS_MAX)), lost(ids(10**7, IDS_MAX))], IDS_MAX)
    assert begun is not None
    assert STARTED_MAX - 8 < len(begun) <= STARTED_MAX
    assert {(b"\x01" * 16, IDS_MAX * number - 1) for number in range(1, 9)} <= set(begun)
    assert set(ids(10**7, IDS_MAX)) <= set(begun)


def test_batches_in_hand_that_no_message_can_name_leave_everything_open() -> None:
    assert begun_in_pool([slot(ids(IDS_MAX * number, IDS_MAX), IDS_MAX) for number in range(8)], [], IDS_MAX) is None
