"""The safety factor of a given table is learned, so its word alone refuses nobody for good."""

from paceline.runner.dispatcher import Arrived, BatchDone, DispatcherConfig
from tests.runner.dispatcher.scene import FLAT, Scene, batches, dispatches, refusals

STALLED_S = 20 * FLAT[1]


def stalled_scene() -> Scene:
    """A table of 10 ms, and so many batches of 200 ms that the factor is 20."""
    scene = Scene(DispatcherConfig(64, latency_table=FLAT, quantile=0.9))
    for number in range(16):
        (batch,) = dispatches(scene.tell(Arrived(-1 - number, "k"), at=scene.at))
        scene.tell(BatchDone("w0", batch.batch_id, STALLED_S), at=scene.at + STALLED_S)
    return scene


def test_an_idle_worker_serves_whom_only_the_factor_calls_hopeless() -> None:
    scene = stalled_scene()
    assert batches(scene.arrive(1, at=scene.at, deadline=scene.at + 0.05)) == [(1,)]


def test_at_most_one_in_the_time_that_it_takes() -> None:
    scene = stalled_scene()
    (batch,) = dispatches(scene.arrive(1, at=scene.at, deadline=scene.at + 0.05))
    scene.tell(BatchDone("w0", batch.batch_id, FLAT[1]), at=scene.at + FLAT[1])
    assert refusals(scene.arrive(1, at=scene.at, deadline=scene.at + 0.05, first=2)) == {2: "infeasible"}


def test_the_table_itself_is_believed() -> None:
    scene = stalled_scene()
    assert refusals(scene.arrive(1, at=scene.at, deadline=scene.at + FLAT[1] / 2)) == {1: "infeasible"}


def test_the_factor_returns_to_normal() -> None:
    scene = stalled_scene()
    for number in range(1, 200):
        for batch in dispatches(scene.arrive(1, at=scene.at + STALLED_S, deadline=scene.at + 0.3, first=number)):
            scene.tell(BatchDone("w0", batch.batch_id, FLAT[1]), at=scene.at + FLAT[1])
    (batch,) = dispatches(scene.arrive(1, at=scene.at, deadline=scene.at + 0.05, first=200))
    assert batch.predicted_s == FLAT[1]
