"""Which requests go together, and when."""

import pytest

from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    DispatcherConfig,
    Tick,
    WorkerJoined,
)
from tests.runner.dispatcher.scene import FLAT, LINE, Scene, batches, dispatches, refusals, wake_ups


def test_a_lone_request_leaves_at_once_and_no_timer_is_set() -> None:
    scene = Scene(DispatcherConfig(64))
    actions = scene.arrive(1, at=1.0, deadline=2.0)
    assert batches(actions) == [(1,)]
    assert wake_ups(actions) == []


def test_what_arrives_in_one_call_is_one_batch() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    assert batches(scene.arrive(64, at=1.0, deadline=2.0)) == [tuple(range(1, 65))]


def test_what_arrives_while_the_worker_computes_is_the_next_batch() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    scene.arrive(1, at=0.0, deadline=1.0)
    assert batches(scene.arrive(2, at=0.001, deadline=1.0, first=2)) == []
    assert batches(scene.arrive(1, at=0.002, deadline=1.0, first=4)) == []
    assert batches(scene.tell(BatchDone("w0", 1, 0.0055), at=0.0055)) == [(2, 3, 4)]


def test_no_batch_is_larger_than_the_cap_in_rows() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    events = [Arrived(i, "k", rows=3) for i in range(4)]
    (batch,) = dispatches(scene.tell(*events))
    assert batch.request_ids == (0, 1)
    assert batch.rows == 6


def test_a_request_larger_than_the_cap_runs_alone_as_the_sum_of_its_slices() -> None:
    scene = Scene(DispatcherConfig(8, latency_table={1: 0.010, 8: 0.010}, buckets=(2, 8)))
    (batch,) = dispatches(scene.tell(Arrived("big", "k", rows=17), Arrived("small", "k")))
    assert batch.request_ids == ("big",)
    assert batch.predicted_s == pytest.approx(0.030)
    assert batch.padded_rows == 8 + 8 + 2


def test_a_request_that_cannot_be_batched_runs_alone() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    actions = scene.tell(*(Arrived(i, "k", batch_limit=1) for i in range(3)))
    assert batches(actions) == [(0,)]


def test_the_smallest_batch_limit_among_the_members_holds() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    limits = (None, None, 3, None)
    actions = scene.tell(*(Arrived(i, "k", batch_limit=limit) for i, limit in enumerate(limits)))
    assert batches(actions) == [(0, 1, 2)]


def test_a_lowered_cap_holds_until_its_time() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    scene.tell(CapChanged("k", 2, until=1.0))
    assert batches(scene.arrive(4, at=0.5, deadline=9.0)) == [(1, 2)]
    scene.tell(Cancelled(3), Cancelled(4))
    scene.tell(BatchDone("w0", 1, 0.01), at=1.0)
    assert batches(scene.arrive(4, at=1.0, deadline=9.0, first=5)) == [(5, 6, 7, 8)]


def test_sizes_round_up_to_buckets_and_the_longest_member_sets_the_length() -> None:
    scene = Scene(DispatcherConfig(8, latency_table={4: 0.010, 8: 0.020}, buckets=(8, 4)))
    (batch,) = dispatches(scene.tell(*(Arrived(i, "k", length=length) for i, length in enumerate((5, 9, 7)))))
    assert (batch.rows, batch.padded_rows, batch.length) == (3, 4, 9)
    assert batch.predicted_s == pytest.approx(0.010)


def test_under_backlog_the_size_with_most_rows_per_second_is_taken_not_the_cap() -> None:
    scene = Scene(DispatcherConfig(64, latency_table={1: 0.004, 16: 0.010, 32: 0.030, 64: 0.070}))
    (batch,) = dispatches(scene.arrive(64, at=0.0, deadline=99.0))
    assert batch.rows == 16


def test_sizes_within_three_percent_of_the_best_count_as_equal() -> None:
    scene = Scene(DispatcherConfig(64, latency_table={1: 0.004, 16: 0.010, 32: 0.0205, 64: 0.070}))
    (batch,) = dispatches(scene.arrive(64, at=0.0, deadline=99.0))
    assert batch.rows == 32


def test_the_most_urgent_class_goes_first_and_within_it_the_earliest_deadline() -> None:
    scene = Scene(DispatcherConfig(2, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0, first=0)
    scene.tell(
        Arrived("late", "k", deadline=8.0),
        Arrived("early", "k", deadline=7.0),
        Arrived("urgent", "k", deadline=9.0, priority=-1),
        at=0.001,
    )
    assert batches(scene.tell(BatchDone("w0", 1, 0.01), at=0.01)) == [("urgent", "early")]


def test_equals_go_in_order_of_arrival() -> None:
    scene = Scene(DispatcherConfig(2, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0, first=0)
    scene.tell(Arrived("b", "k", arrived_at=0.002), Arrived("c", "k", arrived_at=0.003), at=0.003)
    scene.tell(Arrived("a", "k", arrived_at=0.001), at=0.004)
    assert batches(scene.tell(BatchDone("w0", 1, 0.01), at=0.01)) == [("a", "b")]


def test_a_lower_class_fills_the_rest_of_a_batch_that_its_deadline_allows() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=LINE))
    actions = scene.tell(
        Arrived("urgent", "k", deadline=1.0),
        Arrived("tight", "k", deadline=0.0056, priority=1),
        Arrived("loose", "k", deadline=1.0, priority=2),
    )
    assert batches(actions) == [("urgent", "loose")]


def test_an_urgent_head_that_is_tight_is_not_dropped_for_a_lower_class() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    fillers = [Arrived(i, "k", deadline=9.0, priority=1) for i in range(60)]
    actions = scene.tell(*fillers, Arrived("urgent", "k", deadline=0.0066))
    assert batches(actions) == [("urgent", 0, 1)]
    assert refusals(actions) == {}


def test_a_different_key_between_does_not_end_a_batch_and_equal_edges_go_to_more_rows_per_second() -> None:
    scene = Scene(DispatcherConfig(8, latency_table=FLAT))
    actions = scene.tell(Arrived(1, "a"), Arrived(2, "b"), Arrived(3, "b"), Arrived(4, "a"), Arrived(5, "b"))
    assert batches(actions) == [(2, 3, 5)]


def test_the_key_with_the_earliest_right_edge_goes_first() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    many = [Arrived(i, "many", deadline=1.010) for i in range(40)]
    actions = scene.tell(*many, Arrived("one", "few", deadline=1.0))
    assert dispatches(actions)[0].key == "many"  # 1.010 - 25 ms is before 1.000 - 5.5 ms


def test_a_key_without_deadlines_is_not_starved_by_one_with_deadlines() -> None:
    scene = Scene(DispatcherConfig(1, latency_table=FLAT))
    scene.tell(Arrived("patient", "a"), at=0.0)
    scene.tell(Arrived("other", "a"), at=0.0)
    served: list[object] = []
    for step in range(1, 3200):
        scene.arrive(1, at=step * 0.01, deadline=step * 0.01 + 1.0, first=step, key="b")
        served += batches(scene.tell(BatchDone("w0", step, 0.01)))
        if ("other",) in served:
            return
    pytest.fail("the patient key was starved")


def test_work_goes_to_the_first_idle_worker() -> None:
    scene = Scene(DispatcherConfig(1, latency_table=FLAT), workers=3)
    actions = scene.arrive(2, at=0.0, deadline=9.0)
    assert [action.worker_id for action in dispatches(actions)] == ["w0", "w1"]


def test_every_idle_worker_of_many_gets_work() -> None:
    scene = Scene(DispatcherConfig(1, latency_table=FLAT), workers=64)
    assert len(dispatches(scene.arrive(65, at=0.0, deadline=9.0))) == 64


def test_a_batch_is_bound_ahead_only_shortly_before_the_worker_is_free() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT, prefetch_s=0.002))
    scene.arrive(1, at=0.0, deadline=9.0)
    actions = scene.arrive(2, at=0.001, deadline=9.0, first=2)
    assert batches(actions) == []
    assert wake_ups(actions) == [pytest.approx(0.008)]
    assert batches(scene.tell(Tick(), at=0.008)) == [(2, 3)]
    assert batches(scene.arrive(1, at=0.0095, deadline=9.0, first=4)) == []


def test_a_worker_that_joins_gets_what_waits() -> None:
    scene = Scene(DispatcherConfig(4), workers=0)
    assert batches(scene.arrive(1, at=0.0, deadline=9.0)) == []
    assert batches(scene.tell(WorkerJoined("w"))) == [(1,)]


def test_from_cold_batches_grow_by_doubling() -> None:
    scene = Scene(DispatcherConfig(64))
    actions = scene.arrive(200, at=0.0, deadline=float("inf"))
    sizes = []
    for number in range(1, 9):
        sizes += [action.rows for action in dispatches(actions)]
        actions = scene.tell(BatchDone("w0", number, 0.01), at=number * 0.01)
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 64]
