"""A lone worker and arrivals in clusters."""

from paceline.runner.dispatcher import Arrived, BatchDone, DispatcherConfig, Tick
from tests.runner.dispatcher.scene import LINE, Scene, batches, dispatches, wake_ups

GAP_S = 0.001


def scene_after(gaps: list[float], given: bool = True) -> Scene:
    """One worker that has served arrivals with these gaps, over and over, each on its own, and is idle now."""
    scene = Scene(DispatcherConfig(64, latency_table=LINE if given else None))
    for number in range(129):
        actions = scene.tell(Arrived(-number, "k"), at=scene.at + gaps[number % len(gaps)])
        while dispatched := dispatches(actions):
            actions = scene.tell(BatchDone("w0", dispatched[0].batch_id, 0.0001))
        if wakes := wake_ups(actions):
            for batch in dispatches(scene.tell(Tick(), at=wakes[-1])):
                scene.tell(BatchDone("w0", batch.batch_id, 0.0001))
    return scene


def test_the_rest_of_a_cluster_is_waited_for() -> None:
    scene = scene_after([1.0, GAP_S, GAP_S, GAP_S, GAP_S])
    first = scene.tell(Arrived(1, "k"), at=100.0)
    assert (batches(first), wake_ups(first)) == ([], [100.0 + GAP_S])
    second = scene.tell(Arrived(2, "k"), at=100.0 + GAP_S / 2)
    assert batches(second) == []
    assert batches(scene.tell(Tick(), at=100.0 + GAP_S)) == []
    assert batches(scene.tell(Tick(), at=100.0 + 1.6 * GAP_S)) == [(1, 2)]


def test_a_cluster_is_not_waited_for_until_it_is_too_late() -> None:
    scene = scene_after([1.0, GAP_S, GAP_S, GAP_S, GAP_S])
    assert batches(scene.tell(Arrived(1, "k", deadline=100.0 + LINE[1] + GAP_S / 4), at=100.0)) == [(1,)]


def test_even_arrivals_are_served_at_once() -> None:
    assert batches(scene_after([1.0]).tell(Arrived(1, "k"), at=100.0)) == [(1,)]


def test_arrivals_half_of_which_are_far_apart_are_served_at_once() -> None:
    assert batches(scene_after([1.0, GAP_S]).tell(Arrived(1, "k"), at=100.0)) == [(1,)]


def test_gaps_that_take_as_long_as_a_batch_are_no_cluster_to_wait_for() -> None:
    actions = scene_after([100.0, *[2.0] * 9]).tell(Arrived(1, "k"), at=1e6)
    assert wake_ups(actions) == [1e6 + LINE[1] / 2]
