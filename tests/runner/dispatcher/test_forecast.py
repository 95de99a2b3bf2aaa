"""What the dispatcher publishes."""

from collections.abc import Iterator

import pytest

from paceline.runner.dispatcher import Arrived, DispatcherConfig, WorkerDraining
from paceline.runner.dispatcher.queue import Waiting
from tests.runner.dispatcher.scene import Scene


def test_a_forecast_says_when_workers_are_free_and_how_fast_the_queue_drains() -> None:
    scene = Scene(DispatcherConfig(4, latency_table={1: 0.010, 4: 0.010}), workers=2)
    scene.arrive(4, at=0.0, deadline=9.0, first=1)
    scene.arrive(4, at=0.001, deadline=9.0, first=5)
    scene.arrive(3, at=0.002, deadline=9.0, first=9)
    forecast = scene.dispatcher.forecast(0.003)
    assert [worker.free_at for worker in forecast.workers] == pytest.approx([0.010, 0.011])
    assert forecast.rows_queued == 3
    assert forecast.drain_rate == pytest.approx(800)
    assert forecast.keys[0].points == ((1, 0.010), (4, 0.010))
    assert forecast.keys[0].known


def test_a_forecast_changes_nothing() -> None:
    scene = Scene(DispatcherConfig(4), workers=1)
    scene.arrive(3, at=0.0, deadline=9.0)
    assert scene.dispatcher.forecast(0.5) == scene.dispatcher.forecast(0.5)
    assert scene.dispatcher.forecast(0.5).rows_queued == 2


def test_nothing_known_is_said_as_such() -> None:
    scene = Scene(DispatcherConfig(4), workers=1)
    scene.arrive(1, at=0.0, deadline=9.0)
    forecast = scene.dispatcher.forecast(0.5)
    assert forecast.drain_rate == 0.0
    assert forecast.workers[0].free_at == float("inf")
    scene.tell(WorkerDraining("w0"))
    assert scene.dispatcher.forecast(0.5).workers == ()


def test_a_forecast_of_few_keys_names_those_with_most_rows_and_counts_all() -> None:
    scene = Scene(DispatcherConfig(4, latency_table={1: 0.010, 4: 0.010}), workers=1)
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(*(Arrived((key, number), key, deadline=9.0) for key in range(100) for number in range(1 + key % 7 * 3)))
    everything, few = scene.dispatcher.forecast(0.001), scene.dispatcher.forecast(0.001, keys_max=2)
    assert (len(everything.keys), len(few.keys)) == (100, 2)
    assert [key.rows_queued for key in few.keys] == [19, 19]
    assert few.rows_queued == everything.rows_queued
    assert few.drain_rate == everything.drain_rate == pytest.approx(400)


def test_a_forecast_says_how_many_rows_go_first_over_all_keys() -> None:
    scene = Scene(DispatcherConfig(4), workers=1)
    assert scene.dispatcher.forecast(0.0).backlog == ()
    scene.tell(Arrived("first", "k"))
    scene.tell(
        Arrived("c", "k", deadline=5.0, priority=1),
        Arrived("b", "other", rows=3, deadline=9.0),
        Arrived("a", "k", rows=2, deadline=8.0),
    )
    assert scene.dispatcher.forecast(0.0).backlog == ((0, 8.0, 2), (0, 9.0, 5), (1, 5.0, 6))


def test_a_long_queue_is_told_in_eight_points_of_which_the_last_counts_all() -> None:
    scene = Scene(DispatcherConfig(4), workers=1)
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(*(Arrived((n,), "k", deadline=10.0 + n // 2, priority=n % 2) for n in range(1600)))
    assert scene.dispatcher.forecast(0.0).backlog == tuple(
        (priority, 10.0 + 200 * quarter - 1, 200 * quarter + 800 * priority)
        for priority in (0, 1)
        for quarter in (1, 2, 3, 4)
    )


def test_the_points_of_many_keys_and_classes_still_count_all() -> None:
    scene = Scene(DispatcherConfig(4, latency_table={1: 0.01}), workers=1)
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(*(Arrived((n,), ("m", n % 700), deadline=9.0 + n, priority=n % 3) for n in range(3000)))
    backlog = scene.dispatcher.forecast(0.0).backlog
    assert len(backlog) <= 8
    assert backlog[-1][2] == 3000
    assert sorted(backlog) == list(backlog)


class Unwalked(list[Waiting]):
    def __iter__(self) -> Iterator[Waiting]:
        raise AssertionError("a queue is walked for a forecast")


def test_a_forecast_walks_no_queue() -> None:
    scene = Scene(DispatcherConfig(4), workers=1)
    scene.tell(*(Arrived(n, "k", deadline=9.0 + n, priority=n % 2) for n in range(1000)))
    for lane in scene.dispatcher._backlog.waiting["k"].queue.lanes:
        lane.entries = Unwalked(lane.entries)
    assert scene.dispatcher.forecast(0.0).backlog[-1] == (1, 1008.0, 999)
