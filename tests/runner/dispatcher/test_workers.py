"""What happens to requests when workers drain, die and answer late."""

import pytest

from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    Cancelled,
    DispatcherConfig,
    Tick,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from tests.runner.dispatcher.scene import FLAT, Scene, batches, dispatches, refusals


def test_a_lost_batch_that_had_not_begun_goes_to_another_worker_as_it_was() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(3, at=0.0, deadline=9.0)
    actions = scene.tell(WorkerLost("w0", started=()), WorkerJoined("w1"))
    assert batches(actions) == [(1, 2, 3)]
    actions = scene.tell(WorkerLost("w1", started=()), WorkerJoined("w2"))
    assert batches(actions) == [(1, 2, 3)]


def test_suspects_of_a_lost_batch_run_alone() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(3, at=0.0, deadline=9.0)
    assert batches(scene.tell(WorkerLost("w0"), WorkerJoined("w1"))) == [(1,)]
    assert batches(scene.tell(BatchDone("w1", 2, 0.01), at=0.01)) == [(2,)]


def test_a_request_starts_at_most_twice() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0)
    assert batches(scene.tell(WorkerLost("w0", started=(1,)), WorkerJoined("w1"))) == [(1,)]
    assert refusals(scene.tell(WorkerLost("w1"))) == {1: "worker_lost"}


def test_a_request_may_allow_fewer_starts_and_bring_some_along() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    assert refusals(scene.tell(Arrived("spent", "k", starts=2))) == {"spent": "worker_lost"}
    scene.tell(Arrived("once", "k", starts_max=1))
    assert refusals(scene.tell(WorkerLost("w0"))) == {"once": "worker_lost"}


def test_a_request_without_time_is_not_requeued() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=0.5)
    assert refusals(scene.tell(WorkerLost("w0"), at=0.5)) == {1: "worker_lost"}


def test_a_cancelled_request_is_never_requeued() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(2, at=0.0, deadline=9.0)
    scene.tell(Cancelled(1))
    assert batches(scene.tell(WorkerLost("w0", started=()), WorkerJoined("w1"))) == [(2,)]


def test_a_prefetched_batch_had_not_begun() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT, prefetch_s=0.005))
    scene.arrive(1, at=0.0, deadline=9.0)
    assert batches(scene.arrive(2, at=0.008, deadline=9.0, first=2)) == [(2, 3)]
    scene.tell(WorkerLost("w0", started=(1,)))
    assert batches(scene.tell(WorkerJoined("w1"), WorkerJoined("w2"))) == [(1,), (2, 3)]


def test_a_draining_worker_finishes_and_gets_nothing_new() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(WorkerDraining("w0"))
    assert batches(scene.arrive(1, at=0.001, deadline=9.0, first=2)) == []
    assert batches(scene.tell(BatchDone("w0", 1, 0.01), at=0.01)) == []
    assert batches(scene.tell(WorkerLost("w0"), WorkerJoined("w0"), at=0.02)) == [(2,)]


def test_an_idle_worker_that_drains_is_gone() -> None:
    scene = Scene(DispatcherConfig(4))
    scene.tell(WorkerDraining("w0"), WorkerDraining("w0"), WorkerDraining("unknown"))
    assert batches(scene.arrive(1, at=0.0, deadline=9.0)) == []
    assert batches(scene.tell(WorkerJoined("w0"))) == [(1,)]


def test_a_live_worker_cannot_join_again() -> None:
    scene = Scene(DispatcherConfig(4))
    with pytest.raises(ValueError, match="joined already"):
        scene.tell(WorkerJoined("w0"))


def test_late_words_of_unknown_workers_and_batches_are_ignored() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT))
    scene.arrive(1, at=0.0, deadline=9.0)
    assert scene.tell(BatchDone("w9", 1, 0.01), BatchDone("w0", 7, 0.01), WorkerLost("w9"), Tick()) == []
    scene.tell(WorkerLost("w0"), WorkerJoined("w1"))
    assert scene.tell(BatchDone("w0", 1, 0.01)) == []
    assert batches(scene.arrive(1, at=0.001, deadline=9.0, first=2)) == []  # w1 is still busy with request 1


def test_each_profile_has_its_own_table() -> None:
    config = DispatcherConfig(4, latency_tables={"fast": {1: 0.001}, "slow": {1: 0.100}})
    scene = Scene(config, workers=0)
    scene.tell(WorkerJoined("s", "slow"), WorkerJoined("f", "fast"))
    actions = scene.tell(*(Arrived(i, "k", rows=4) for i in range(2)))
    assert [action.predicted_s for action in dispatches(actions)] == [pytest.approx(0.4), pytest.approx(0.004)]
