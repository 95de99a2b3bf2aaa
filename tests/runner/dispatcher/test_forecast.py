"""What the dispatcher publishes."""

import pytest

from paceline.runner.dispatcher import Arrived, DispatcherConfig, WorkerDraining
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
