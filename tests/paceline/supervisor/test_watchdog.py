"""The hang watchdog on a virtual clock, fed with the views that a slot would give."""

from __future__ import annotations

from paceline.protocol.clock import VirtualClock
from paceline.protocol.limits import HANG_S
from paceline.protocol.slot import SlotView
from paceline.supervisor.watchdog import (
    BATCH_HANG_MIN_S,
    EARLY_BATCHES,
    EARLY_HANG_MAX_S,
    EARLY_HANG_MIN_S,
    LOADING_HANG_S,
    LOOK_S,
    STALL_MIN_S,
    STALLED_LOOK_S,
    WELL,
    Finding,
    Health,
    Watchdog,
)


class Watched:
    """A process that beats while `beating`, looked at every LOOK_S."""

    def __init__(self, execution_timeout_s: float | None = None, budget_s: float = 30.0) -> None:
        self.clock = VirtualClock()
        self.dog = Watchdog(execution_timeout_s, budget_s)
        self.restart()

    def restart(self) -> None:
        self.dog.started(self.clock.now())
        self.beat_ns = 0
        self.beating = True
        self.ready = True
        self.batches = 0
        self.batch: tuple[int, int] | None = None

    def passes(self, seconds: float) -> str:
        """The first reason to kill within `seconds`."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            self.clock.advance(LOOK_S)
            if self.beating:
                self.beat_ns = self.clock.now_ns()
            if reason := self.look():
                return reason
        return ""

    def look(self) -> str:
        """Why it must be killed."""
        found = self.find()
        return found.reason if found.health == Health.HANGING else ""

    def find(self) -> Finding:
        batch_id, started_ns = self.batch or (0, 0)
        view = SlotView(self.beat_ns, 0, self.batches, 0, batch_id, started_ns, True, ())
        return self.dog.look(view, self.ready, self.clock.now())

    def begins(self) -> None:
        self.batch = (self.batches + 1, self.clock.now_ns())

    def stalled_after(self, seconds: float) -> bool:
        self.passes(seconds)
        return self.find().health == Health.STALLED

    def runs(self, seconds: float) -> str:
        self.begins()
        reason = self.passes(seconds)
        self.batches += 1
        self.batch = None
        return reason or self.look()


def test_beating_process_is_left_alone() -> None:
    assert Watched().passes(1000.0) == ""


def test_beat_that_is_too_old_is_a_hang() -> None:
    watched = Watched()
    watched.passes(10.0)
    watched.beating = False
    assert watched.passes(HANG_S - 2 * LOOK_S) == ""
    assert watched.passes(2 * LOOK_S).startswith("hang: no sign of life for 3.0 s")


def test_next_look_is_not_after_the_beat_is_too_old() -> None:
    watched = Watched()
    watched.passes(1.0)
    beat = watched.clock.now()
    watched.clock.advance(HANG_S - 0.1)
    assert watched.look() == ""
    assert abs(watched.dog.next_look(True, watched.clock.now()) - (beat + HANG_S)) < 1e-6


def test_loading_process_may_hold_the_gil_for_longer() -> None:
    watched = Watched()
    watched.ready = watched.beating = False
    assert watched.passes(LOADING_HANG_S - LOOK_S) == ""
    assert watched.passes(LOOK_S) != ""


def test_process_without_slot_counts_from_its_start() -> None:
    watched = Watched()
    now = watched.clock.now()
    assert watched.dog.look(None, False, now + LOADING_HANG_S - 0.1) == WELL
    assert watched.dog.look(None, False, now + LOADING_HANG_S).health == Health.HANGING


def test_absence_of_the_watcher_is_not_held_against_the_watched() -> None:
    watched = Watched()
    watched.passes(1.0)
    watched.clock.advance(100.0)
    watched.dog.excuse(watched.clock.now())
    assert watched.look() == ""


def test_first_batch_may_take_thirty_seconds_or_the_time_that_its_requests_are_waited_for() -> None:
    assert Watched(budget_s=1.0).runs(EARLY_HANG_MIN_S) == ""
    assert Watched(budget_s=120.0).runs(120.0) == ""
    assert "over the limit of 30.0 s" in Watched(budget_s=1.0).runs(EARLY_HANG_MIN_S + 2 * LOOK_S)
    assert "over the limit of 120.0 s" in Watched(budget_s=120.0).runs(121.0)


def test_model_that_compiles_for_minutes_gets_twice_the_time_from_death_to_death() -> None:
    watched = Watched()
    for limit_s in (30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0):
        watched.begins()
        assert watched.passes(limit_s) == ""
        assert f"over the limit of {limit_s:.1f} s" in watched.passes(1.0)
        watched.restart()


def test_model_that_has_shown_longer_first_batches_is_given_their_time() -> None:
    watched = Watched()
    assert watched.runs(20.0) == ""
    assert watched.runs(20.0 * 20.0 - 1.0) == ""
    assert watched.runs(EARLY_HANG_MAX_S + 1.0) != ""


def test_batch_is_a_stall_in_time_for_readiness_to_tell_of_it() -> None:
    watched = Watched()
    watched.runs(0.1)
    watched.begins()
    assert not watched.stalled_after(STALL_MIN_S - LOOK_S)
    assert watched.dog.next_look(True, watched.clock.now()) == watched.clock.now() + LOOK_S
    assert watched.stalled_after(LOOK_S)
    assert STALL_MIN_S + LOOK_S < HANG_S
    assert "killed after 30.0 s" in watched.find().reason


def test_stalled_process_whose_batch_ends_is_well_at_once() -> None:
    watched = Watched()
    watched.begins()
    assert watched.stalled_after(10.0)
    now = watched.clock.now()
    assert watched.dog.next_look(True, now) == now + STALLED_LOOK_S
    watched.batches, watched.batch = 1, None
    assert watched.find() == WELL
    assert watched.dog.next_look(True, now) == now + LOOK_S


def test_model_of_long_batches_stalls_only_until_they_are_known() -> None:
    watched = Watched()
    watched.runs(5.0)
    watched.runs(5.0)
    watched.begins()
    assert not watched.stalled_after(4 * 5.0 - LOOK_S)
    assert watched.stalled_after(2 * LOOK_S)


def test_long_first_batch_does_not_make_the_next_ones_look_healthy() -> None:
    watched = Watched()
    watched.runs(25.0)
    watched.runs(0.1)
    watched.begins()
    assert watched.stalled_after(STALL_MIN_S)


def test_settled_process_is_out_of_rotation_before_it_is_killed() -> None:
    watched = Watched()
    for _ in range(EARLY_BATCHES + 5):
        watched.runs(1.0)
    watched.begins()
    assert not watched.stalled_after(4.0 - LOOK_S)
    assert watched.stalled_after(LOOK_S)
    assert "over the limit of 20.0 s" in watched.passes(1000.0)


def test_absence_of_the_watcher_is_not_held_against_a_batch() -> None:
    watched = Watched()
    watched.batches = EARLY_BATCHES + 1
    watched.begins()
    watched.passes(1.0)
    watched.clock.advance(100.0)
    watched.dog.excuse(watched.clock.now())
    assert watched.find() == WELL
    assert watched.passes(BATCH_HANG_MIN_S) == ""
    assert watched.passes(2 * LOOK_S) != ""


def test_absence_of_the_watcher_is_not_learned_as_the_length_of_a_batch() -> None:
    watched = Watched()
    watched.batches = EARLY_BATCHES + 1
    watched.begins()
    watched.passes(LOOK_S)
    watched.batches, watched.batch = watched.batches + 1, None
    watched.clock.advance(100.0)
    watched.dog.excuse(watched.clock.now())
    watched.passes(1.0)
    assert "over the limit of 5.0 s" in watched.runs(100.0)


def test_batch_of_usual_length_is_never_a_hang() -> None:
    watched = Watched()
    assert all(watched.runs(3.0) == "" for _ in range(50))


def test_batch_twenty_times_the_longest_is_a_hang_once_the_model_is_known() -> None:
    watched = Watched()
    for _ in range(EARLY_BATCHES + 5):
        watched.runs(1.0)
    assert watched.runs(19.0) == ""
    for _ in range(5):
        watched.runs(1.0)
    reason = watched.runs(1000.0)
    assert reason.startswith("hang: a batch ran for")
    assert "learned" in reason


def test_short_batches_that_nobody_saw_leave_the_least_limit() -> None:
    watched = Watched()
    watched.batches = EARLY_BATCHES + 1000
    watched.passes(1.0)
    assert watched.runs(BATCH_HANG_MIN_S - LOOK_S) == ""
    watched.restart()
    watched.batches = EARLY_BATCHES + 1000
    watched.passes(1.0)
    assert watched.runs(BATCH_HANG_MIN_S + 2 * LOOK_S) != ""


def test_successor_of_a_settled_process_is_not_given_more_and_more_time() -> None:
    watched = Watched()
    for _ in range(EARLY_BATCHES + 2):
        watched.runs(0.5)
    for _ in range(3):
        watched.restart()
        watched.begins()
        assert watched.passes(EARLY_HANG_MIN_S) == ""
        assert "over the limit of 30.0 s" in watched.passes(1.0)


def test_given_limit_holds_from_the_first_batch() -> None:
    watched = Watched(execution_timeout_s=2.0)
    assert watched.runs(2.0) == ""
    assert "over the limit of 2.0 s (execution_timeout_ms)" in watched.runs(3.0)


def test_given_limit_is_also_how_long_a_batch_is_healthy() -> None:
    watched = Watched(execution_timeout_s=20.0)
    watched.begins()
    assert not watched.stalled_after(20.0)
    assert watched.passes(1.0) != ""


def test_warm_up_batches_are_not_limited() -> None:
    watched = Watched(execution_timeout_s=2.0)
    watched.ready = False
    assert watched.runs(50.0) == ""
