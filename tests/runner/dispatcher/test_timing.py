"""When a batch is held back from an idle worker, and until when.

With STEP a batch of up to 64 rows takes 10 ms, so N workers give away N * 100 * b rows per second in batches of b, and
64 is the best size. Of 120 requests that come at 0 these go to w0 and the others to w1: the key then counts as busy.
"""

from collections.abc import Hashable
from math import inf

import pytest

from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    DispatcherConfig,
    Event,
    Tick,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.pace import Pace, sizes_to, stagger_target, supply
from paceline.runner.dispatcher.timing import need
from tests.runner.dispatcher.scene import FLAT, LINE, Scene, batches, dispatches, wake_ups

STEP = {1: 0.010, 64: 0.010, 65: 0.040, 128: 0.040}
EDGE = 0.061 - 0.010 - 1e-6  # of a request that came at 0.011 and has 50 ms: L[q+1] and a rounding before its deadline


def busy(config: DispatcherConfig, workers: int = 2, deadline: float = 9.0) -> Scene:
    """120 requests have come at 0 and gone at once, w1 is idle again at 0.010, w0 still computes."""
    scene = Scene(config, workers)
    assert [len(batch) for batch in batches(scene.arrive(120, at=0.0, deadline=deadline, first=1000))] == [64, 56]
    scene.tell(BatchDone("w1", 2, 0.010), at=0.010)
    return scene


def flat(budget_s: float | None = 0.050, prefetch_s: float = 0.0) -> DispatcherConfig:
    return DispatcherConfig(128, latency_table=STEP, budget_s=budget_s, prefetch_s=prefetch_s)


def few(scene: Scene, count: int = 1, at: float = 0.011, first: int = 1, key: Hashable = "k") -> list[Action]:
    return scene.arrive(count, at=at, deadline=at + 0.050, first=first, key=key)


# The rules in numbers


def test_headroom_is_a_tenth_of_the_rate_or_its_square_root_within_a_budget() -> None:
    assert need(1000.0, 0.1) == pytest.approx(1100.0)  # sqrt(1000 / 0.1) = 100, as much as a tenth
    assert need(100.0, 0.04) == pytest.approx(150.0)  # sqrt(100 / 0.04) = 50


def test_the_control_limit_is_the_least_size_that_carries_the_load() -> None:
    curve = Curve(LINE.items())
    sizes = sizes_to(64, ())
    pace = Pace(1.0, 1.0, sizes, supply([(curve, 2)], sizes))
    assert pace.level(2 / 0.0055) == 1  # two workers give 364 rows/s away one by one
    assert pace.level(2 / 0.0055 + 1) == 2
    assert pace.level(2 * 10 / 0.010) == 10
    assert pace.level(2 * 64 / 0.037 + 1) == 64  # more than they can do: the stagger target


def test_a_step_that_makes_a_larger_batch_slower_lowers_no_supply() -> None:
    stepped = Curve({1: 0.010, 8: 0.010, 9: 0.100, 16: 0.100}.items())
    assert supply([(stepped, 1)], [8, 9, 16]) == pytest.approx([800.0, 800.0, 800.0])


def test_the_stagger_target_leaves_time_to_wait_for_the_next_worker() -> None:
    curve = Curve(LINE.items())
    assert stagger_target(curve, [(curve, 2)], 0.01801, 64) == 14  # 1.5 L <= 18 ms: L <= 12 ms
    assert stagger_target(curve, [(curve, 8)], 0.01801, 64) == 22  # 1.125 L <= 18 ms: L <= 16 ms
    assert stagger_target(curve, [(curve, 2)], 0.001, 64) == 1
    assert stagger_target(curve, [(curve, 2)], 9.0, 64) == 64


def test_workers_of_another_kind_count_with_their_own_table() -> None:
    slow, fast = Curve({1: 0.030, 64: 0.030}.items()), Curve(FLAT.items())
    crew = [(slow, 1), (fast, 2)]
    assert supply(crew, [3]) == pytest.approx([3 / 0.030 + 2 * 3 / 0.010])
    gap_s = 1 / (1 / 0.030 + 2 / 0.010)
    assert stagger_target(slow, crew, 0.030 + gap_s + 1e-9, 64) == 64
    assert stagger_target(slow, crew, 0.030 + gap_s - 1e-9, 64) == 1
    assert stagger_target(fast, crew, 0.030, 64) == 64


def test_sizes_are_fine_below_64_and_keep_every_edge_above() -> None:
    sizes = sizes_to(1000, (100, 777, 5000))
    assert sizes[:64] == list(range(1, 65))
    assert {100, 777, 1000} <= set(sizes)
    assert max(sizes) == 1000
    assert len(sizes) < 350


# Holding


def test_a_request_is_held_while_another_worker_computes_and_until_exactly_its_last_moment() -> None:
    scene = busy(flat())
    actions = few(scene)
    assert batches(actions) == []
    assert wake_ups(actions) == [pytest.approx(EDGE, abs=1e-12)]
    edge = wake_ups(actions)[0]
    assert scene.tell(Tick(), at=edge - 1e-9) == []
    assert batches(scene.tell(Tick(), at=edge)) == [(1,)]


def test_the_way_back_is_left_for_the_answer() -> None:
    config = DispatcherConfig(128, latency_table=STEP, budget_s=0.050, reply_s=0.002)
    assert wake_ups(few(busy(config))) == [pytest.approx(EDGE - 0.002)]


def test_a_longer_batch_is_due_earlier() -> None:
    config = DispatcherConfig(64, latency_table=LINE, budget_s=0.050)
    scene = Scene(config, workers=2)
    scene.arrive(120, at=0.0, deadline=9.0, first=1000)
    scene.tell(BatchDone("w1", 2, 0.033), at=0.033)
    assert wake_ups(few(scene, at=0.034)) == [pytest.approx(0.084 - 0.006 - 1e-6)]  # L[2]
    assert wake_ups(few(scene, count=3, at=0.035, first=2)) == [pytest.approx(0.084 - 0.0075 - 1e-6)]  # L[5]


def test_a_batch_goes_with_the_row_that_makes_the_control_limit() -> None:
    """In the window of 50 ms 120 + q have come: (n - sqrt(n)) / 50 ms + 10 % are 2638 rows/s for n = 131 and 2681 for
    133, and 2 workers give 2600 away in batches of 13 and 2800 in batches of 14."""
    scene = busy(flat())
    assert batches(few(scene, count=11)) == []
    assert batches(few(scene, count=2, at=0.012, first=12)) == []
    assert batches(few(scene, at=0.013, first=14)) == [tuple(range(1, 15))]


def test_a_batch_goes_with_the_stagger_target_where_the_load_asks_for_more() -> None:
    """50 rows at once are 2387 rows/s within 18 ms, more than two workers give away in batches of up to 14 rows, 2333;
    and 1.5 L[14] = 18 ms."""
    scene = Scene(DispatcherConfig(64, latency_table=LINE, budget_s=0.01801), workers=2)
    assert [len(batch) for batch in batches(scene.arrive(50, at=0.0, deadline=9.0, first=1000))] == [50]
    assert batches(scene.arrive(13, at=0.001, deadline=9.0)) == []
    assert [len(batch) for batch in batches(scene.arrive(1, at=0.002, deadline=9.0, first=14))] == [14]


def test_at_low_load_the_control_limit_is_one() -> None:
    scene = Scene(flat(), workers=3)
    assert batches(few(scene, at=1.000, first=1)) == [(1,)]
    assert batches(few(scene, at=1.001, first=2)) == [(2,)]
    actions = few(scene, at=1.002, first=3)
    assert batches(actions) == [(3,)]
    assert wake_ups(actions) == []


def test_one_worker_never_waits() -> None:
    scene = Scene(flat(), workers=1)
    scene.arrive(120, at=0.0, deadline=9.0, first=1000)
    assert [len(batch) for batch in batches(scene.tell(BatchDone("w0", 1, 0.010), at=0.010))] == [56]
    scene.tell(BatchDone("w0", 2, 0.010), at=0.020)
    assert batches(few(scene, at=0.021)) == [(1,)]


def test_nobody_waits_when_every_worker_is_idle() -> None:
    scene = busy(flat())
    scene.tell(BatchDone("w0", 1, 0.010), at=0.0105)
    actions = few(scene)
    assert batches(actions) == [(1,)]
    assert wake_ups(actions) == []


def test_a_hold_ends_when_the_last_busy_worker_is_done() -> None:
    scene = busy(flat())
    few(scene)
    assert batches(scene.tell(BatchDone("w0", 1, 0.012), at=0.012)) == [(1,)]


@pytest.mark.parametrize("event", [WorkerLost("w0", started=()), WorkerDraining("w0")])
def test_a_hold_ends_when_the_last_busy_worker_is_lost_or_leaves(event: Event) -> None:
    scene = busy(flat())
    few(scene)
    assert (1,) in [batch[:1] for batch in batches(scene.tell(event, at=0.012))]


def test_a_draining_worker_is_nobody_to_keep_in_step_with() -> None:
    scene = busy(flat(), workers=3)  # w2 is idle
    scene.tell(WorkerDraining("w0"), at=0.0105)
    assert batches(few(scene)) == [(1,)]


def test_spurious_ticks_change_nothing() -> None:
    scene = busy(flat())
    (edge,) = wake_ups(few(scene))
    for at in (0.011, 0.012, 0.012, 0.030, 0.045):
        assert scene.tell(Tick(), at=at) == []
    assert scene.tell() == []
    assert batches(scene.tell(Tick(), at=edge)) == [(1,)]


def test_a_wake_up_that_came_for_others_leaves_the_hold_as_it_is() -> None:
    """Request 1 is held until EDGE but cancelled; the timer that it left behind fires before request 2 is due."""
    scene = busy(flat())
    (edge,) = wake_ups(few(scene))
    few(scene, at=0.021, first=2)
    scene.tell(Cancelled(1), at=0.022)
    actions = scene.tell(Tick(), at=edge)
    assert batches(actions) == []
    assert wake_ups(actions) == [pytest.approx(EDGE + 0.010)]


def test_who_is_cancelled_while_new_ones_come_is_not_looked_at_again() -> None:
    scene = busy(flat())
    few(scene)
    scene.tell(Arrived(2, "other", deadline=9.0), Cancelled(2), Arrived(3, "k", deadline=0.062), at=0.012)
    assert batches(scene.tell(Tick(), at=EDGE + 1e-9)) == [(1, 3)]


def test_the_earliest_deadline_of_all_priorities_bounds_a_hold() -> None:
    scene = busy(flat())
    few(scene)
    actions = scene.tell(Arrived("low", "k", deadline=0.040, priority=5), at=0.012)
    assert wake_ups(actions) == [pytest.approx(0.040 - 0.010 - 1e-6)]


def test_a_tighter_budget_among_those_who_wait_ends_a_hold_earlier() -> None:
    scene = busy(flat())
    few(scene)
    actions = scene.tell(Arrived("tight", "k", deadline=0.030), at=0.012)
    assert wake_ups(actions) == [pytest.approx(0.030 - 0.010 - 1e-6)]
    assert batches(scene.tell(Tick(), at=0.030 - 0.010 - 1e-6)) == [("tight", 1)]


@pytest.mark.parametrize("deadline", [inf, 30.0])
def test_without_a_deadline_or_with_a_far_one_two_longest_batches_are_the_bound(deadline: float) -> None:
    scene = busy(flat(budget_s=None), deadline=deadline)
    actions = scene.tell(Arrived(1, "k", deadline=deadline), at=0.011)
    assert wake_ups(actions) == [pytest.approx(0.011 + 2 * 0.040 - 0.010 - 1e-6)]
    assert batches(scene.tell(Tick(), at=0.0811)) == [(1,)]


def test_another_key_goes_meanwhile() -> None:
    scene = busy(flat())
    few(scene)
    assert batches(few(scene, at=0.012, first=2, key="rare")) == [(2,)]
    assert batches(scene.tell(BatchDone("w1", 3, 0.010), at=0.022)) == []  # the first key is still held
    assert batches(scene.tell(Tick(), at=EDGE + 1e-9)) == [(1,)]


def test_a_held_key_that_comes_with_others_blocks_none_of_them() -> None:
    scene = busy(flat(), workers=3)
    actions = scene.tell(Arrived(1, "k", deadline=0.060), Arrived(2, "rare", deadline=0.070), at=0.011)
    assert batches(actions) == [(2,)]
    assert wake_ups(actions) == [pytest.approx(0.060 - 0.010 - 1e-6)]


def flood(scene: Scene, at: float, count: int = 120, key: Hashable = "k") -> list[Action]:
    """So many requests are taken back as soon as they come, so that the key counts as busy; one stays."""
    came = [Arrived(5000 + i, key, deadline=9.0) for i in range(count)]
    left = [Cancelled(arrived.request_id) for arrived in came]
    return scene.tell(*came, *left, Arrived("stays", key, deadline=9.0), at=at)


def test_nothing_is_held_without_knowledge_of_the_table() -> None:
    for table, sent in ((None, [(1,)]), (STEP, [])):
        scene = Scene(DispatcherConfig(128, latency_table=table, budget_s=0.050), workers=2)
        assert batches(flood(scene, at=0.0)) == [("stays",)]
        assert batches(few(scene, at=0.001)) == sent


def test_a_learned_table_holds_up_to_twice_the_size_that_was_tried() -> None:
    scene = Scene(DispatcherConfig(64, budget_s=0.050))
    scene.teach(1, 0.010)
    scene.teach(4, 0.010)
    scene.tell(WorkerJoined("w1"))
    assert batches(flood(scene, at=scene.at)) == [("stays",)]
    start = scene.at
    assert batches(few(scene, count=7, at=start + 0.001)) == []
    assert batches(few(scene, count=1, at=start + 0.002, first=8)) == [tuple(range(1, 9))]


def test_who_runs_alone_is_not_held() -> None:
    scene = busy(flat())
    assert batches(scene.tell(Arrived(1, "k", deadline=0.060, batch_limit=1), at=0.011)) == [(1,)]


def test_a_request_larger_than_the_cap_is_not_held() -> None:
    scene = busy(flat())
    assert batches(scene.tell(Arrived(1, "k", rows=129, deadline=9.0), at=0.011)) == [(1,)]


def test_a_hold_waits_for_no_more_rows_than_the_cap() -> None:
    scene = busy(flat())
    few(scene, count=3)
    assert batches(scene.tell(CapChanged("k", 3, until=9.0), at=0.012)) == [(1, 2, 3)]


# Prefetch


def test_what_is_held_is_not_bound_in_advance_either_and_no_timer_runs_hot() -> None:
    scene = busy(flat(prefetch_s=0.004))
    scene.arrive(60, at=0.0105, deadline=9.0, first=2000)  # to w1, until 0.0205
    scene.tell(BatchDone("w0", 1, 0.0106), at=0.0106)
    scene.arrive(60, at=0.0107, deadline=9.0, first=3000)  # to w0, until 0.0207
    assert wake_ups(few(scene, at=0.011)) == [pytest.approx(0.0205 - 0.004)]
    actions = scene.tell(Tick(), at=0.017)
    assert batches(actions) == []
    assert wake_ups(actions) == [pytest.approx(EDGE)]  # not now, again and again
    assert scene.tell(Tick(), at=0.018) == []


def test_enough_rows_are_bound_in_advance() -> None:
    scene = busy(flat(prefetch_s=0.004))
    scene.arrive(60, at=0.0105, deadline=9.0, first=2000)
    scene.tell(BatchDone("w0", 1, 0.0106), at=0.0106)
    scene.arrive(60, at=0.0107, deadline=9.0, first=3000)
    few(scene, at=0.011)
    scene.tell(Tick(), at=0.017)
    (batch,) = dispatches(few(scene, count=60, at=0.018, first=2))
    assert batch.worker_id == "w1"
    assert batch.rows == 61


# Several keys


def test_a_key_that_shares_the_workers_needs_larger_batches() -> None:
    """The 121st to 127th request within 50 ms are 2547 rows/s with 10 % more, and 5 workers give 3000 away in batches
    of 6. Another key's 601 are 12,683 of the 32,000 in batches of 64: with 60 % of the workers 6 rows are 1811."""
    alone = busy(flat(), workers=5)
    assert batches(few(alone, count=6)) == [(1, 2, 3, 4, 5, 6)]
    shared = busy(flat(), workers=5)
    assert batches(flood(shared, at=0.0105, count=600, key="other")) == []
    assert batches(few(shared, count=6)) == []


def test_a_key_to_which_hardly_more_than_one_worker_is_left_waits_for_nobody() -> None:
    scene = busy(flat())
    assert batches(flood(scene, at=0.0105, count=300, key="other")) == [("stays",)]
    scene.tell(BatchDone("w1", 3, 0.010), at=0.0205)
    assert batches(few(scene, at=0.0206)) == [(1,)]
