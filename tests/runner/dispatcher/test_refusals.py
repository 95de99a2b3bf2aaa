"""Who is refused, when and why."""

from math import inf, nan

import pytest

from paceline.runner.dispatcher import Arrived, BatchDone, Cancelled, DispatcherConfig, Reject, Tick
from tests.runner.dispatcher.scene import FLAT, LINE, Scene, batches, refusals, wake_ups


def test_a_request_past_its_deadline_is_refused() -> None:
    scene = Scene(DispatcherConfig(4))
    assert refusals(scene.arrive(1, at=1.0, deadline=1.0)) == {1: "deadline"}


def test_a_deadline_that_passes_in_the_queue_wakes_the_dispatcher() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0)
    assert wake_ups(scene.arrive(1, at=0.001, deadline=0.5, first=2)) == [0.5]
    assert wake_ups(scene.arrive(1, at=0.002, deadline=0.6, first=3)) == []
    actions = scene.tell(Tick(), at=0.5)
    assert refusals(actions) == {2: "deadline"}
    assert wake_ups(actions) == [0.6]


def test_a_given_table_refuses_what_it_cannot_do_in_time() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT, reply_s=0.001))
    assert refusals(scene.arrive(1, at=0.0, deadline=0.0109)) == {1: "infeasible"}
    assert batches(scene.arrive(1, at=0.0, deadline=0.0111, first=2)) == [(2,)]


def test_without_observations_nothing_is_dropped() -> None:
    scene = Scene(DispatcherConfig(4))
    assert batches(scene.arrive(1, at=0.0, deadline=1e-9)) == [(1,)]


def test_a_learned_table_lets_a_probe_through_on_an_idle_worker() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.teach(rows=1, duration=1.0)
    actions = scene.arrive(3, at=scene.at, deadline=scene.at + 0.1)
    assert batches(actions) == [(1,)]
    assert refusals(actions) == {2: "infeasible", 3: "infeasible"}


def test_of_many_idle_workers_one_probes_in_the_time_of_a_batch() -> None:
    scene = Scene(DispatcherConfig(4), workers=2)
    scene.teach(rows=1, duration=1.0)
    assert batches(scene.arrive(1, at=scene.at, deadline=scene.at + 0.1, first=1)) == [(1,)]
    assert refusals(scene.arrive(1, at=scene.at, deadline=scene.at + 0.1, first=2)) == {2: "infeasible"}
    assert batches(scene.arrive(1, at=scene.at + 1.0, deadline=scene.at + 1.1, first=3)) == [(3,)]


def test_a_learned_table_that_is_far_too_slow_heals() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.teach(rows=1, duration=1.0, times=18)
    for number in range(19, 30):
        scene.arrive(1, at=scene.at + 1.0, deadline=scene.at + 1.1, first=number)
        scene.tell(BatchDone("w0", number, 0.005), at=scene.at + 0.005)
    ((rows, seconds),) = scene.dispatcher.forecast(scene.at).keys[0].points
    assert rows == 1
    assert seconds == pytest.approx(0.005)


def test_heads_are_dropped_only_until_a_full_batch_fits() -> None:
    """100 wait, 20 of them too tight for the 64 rows of a batch, which takes 37 ms."""
    scene = Scene(DispatcherConfig(64, latency_table=LINE, budget_s=0.05))
    scene.arrive(1, at=0.0, deadline=9.0, first=0)
    scene.arrive(20, at=0.001, deadline=0.0125, first=1)
    scene.arrive(80, at=0.002, deadline=0.050, first=21)
    actions = scene.tell(BatchDone("w0", 1, 0.0055), at=0.0055)
    assert batches(actions) == [tuple(range(21, 85))]
    assert refusals(actions) == dict.fromkeys(range(1, 21), "infeasible")


def test_a_tight_head_is_served_when_dropping_it_buys_nothing() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    scene.arrive(1, at=0.0, deadline=9.0, first=0)
    scene.tell(Arrived("tight", "k", deadline=0.012), Arrived("loose", "k", deadline=1.0), at=0.001)
    actions = scene.tell(BatchDone("w0", 1, 0.0055), at=0.0055)
    assert "tight" in batches(actions)[0]
    assert refusals(actions) == {}


def test_heads_are_not_dropped_while_another_worker_is_idle() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE), workers=2)
    tight = [Arrived(i, "k", deadline=0.0071) for i in range(4)]
    loose = [Arrived(i, "k", deadline=0.0235) for i in range(4, 40)]  # 36 rows take 23 ms
    actions = scene.tell(*tight, *loose)
    assert batches(actions) == [tuple(range(4)), tuple(range(4, 40))]
    assert refusals(actions) == {}


def test_of_equals_more_than_fit_the_first_are_served_and_the_rest_dropped_later() -> None:
    scene = Scene(DispatcherConfig(64, latency_table=LINE))
    actions = scene.arrive(60, at=0.0, deadline=0.0201)
    assert batches(actions) == [tuple(range(1, 31))]
    assert refusals(scene.tell(BatchDone("w0", 1, 0.02), at=0.02)) == dict.fromkeys(range(31, 61), "infeasible")


def test_a_full_queue_refuses_with_advice_from_the_drain_rate() -> None:
    scene = Scene(DispatcherConfig(4, latency_table={1: 0.010, 4: 0.010}, queue_rows_max=8))
    scene.arrive(1, at=0.0, deadline=9.0, first=0)
    scene.arrive(8, at=0.0, deadline=9.0, first=1)
    actions = scene.arrive(1, at=0.0, deadline=9.0, first=9)
    assert actions == [Reject(9, "queue_full", pytest.approx(8 / 400))]  # type: ignore[arg-type]  # equal as text


def test_a_cancelled_request_leaves_the_queue_silently_and_its_id_is_free_again() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.arrive(1, at=0.0, deadline=9.0, first=2)
    assert scene.tell(Cancelled(2)) == []
    assert scene.tell(Arrived(2, "k"), Cancelled(2), Arrived(2, "k"), Cancelled(2), Cancelled(77)) == []
    assert scene.tell(BatchDone("w0", 1, 0.01), at=0.01) == []


def test_a_finished_id_is_forgotten_at_once() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.arrive(1, at=0.0, deadline=9.0)
    assert batches(scene.tell(BatchDone("w0", 1, 0.01), Arrived(1, "k"), at=0.01)) == [(1,)]


def test_a_live_id_no_rows_and_a_deadline_that_is_no_number_raise() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.arrive(1, at=0.0, deadline=9.0)
    for wrong in (Arrived(1, "k"), Arrived(2, "k", rows=0), Arrived(3, "k", deadline=nan)):
        with pytest.raises(ValueError, match=r"live|rows|number"):
            scene.tell(wrong)


def test_what_came_with_a_wrong_event_is_not_lost() -> None:
    scene = Scene(DispatcherConfig(4))
    with pytest.raises(ValueError, match="rows"):
        scene.tell(Arrived("late", "k", deadline=0.0), Arrived(1, "k", rows=0), Arrived(2, "k"))
    actions = scene.tell(Tick())
    assert refusals(actions) == {"late": "deadline"}
    assert batches(actions) == [(2,)]


def test_spurious_ticks_and_a_clock_that_stands_still_change_nothing() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.arrive(1, at=1.0, deadline=inf)
    scene.arrive(1, at=1.0, deadline=inf, first=2)
    assert scene.tell(Tick(), Tick(), at=1.0) == []
    assert scene.tell(Tick(), at=0.5) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch_size": 0},
        {"latency_table": {}},
        {"latency_table": {0: 1.0}},
        {"latency_table": {1: nan}},
        {"quantile": 1.0},
        {"reply_s": -1.0},
        {"buckets": (0,)},
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least|table|between"):
        DispatcherConfig(**{"max_batch_size": 4, **wrong})  # type: ignore[arg-type]  # wrong on purpose
