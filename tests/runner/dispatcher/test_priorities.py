"""Classes are strict, nobody starves, and what has to go goes from the lowest class first."""

from math import inf

from paceline.runner.dispatcher import Arrived, BatchDone, Cancelled, DispatcherConfig
from tests.runner.dispatcher.scene import FLAT, LINE, Scene, batches, dispatches, refusals

ROUND_S = FLAT[1]


def rounds_until_served(priority: int, ageing_s: float, rounds: int) -> int | None:
    """One request among urgent ones that fill every batch."""
    scene = Scene(DispatcherConfig(4, latency_table=FLAT, ageing_s=ageing_s))
    (running,) = dispatches(scene.tell(*(Arrived((0, n), "k", deadline=9.0) for n in range(4))))
    scene.tell(Arrived("low", "k", priority=priority))
    for turn in range(1, rounds):
        now = turn * ROUND_S
        scene.tell(*(Arrived((turn, n), "k", deadline=now + 0.03) for n in range(8)), at=now)
        (running,) = dispatches(scene.tell(BatchDone("w0", running.batch_id, ROUND_S)))
        if "low" in running.request_ids:
            return turn
    return None


def test_nobody_starves_below_a_class_that_takes_all_there_is() -> None:
    """A class up after 50 ms, and once more to pass those of that class, as they have deadlines and it has none."""
    assert rounds_until_served(1, ageing_s=0.05, rounds=20) in (10, 11)
    assert rounds_until_served(3, ageing_s=0.05, rounds=40) in (20, 21)


def test_without_ageing_classes_are_strict() -> None:
    assert rounds_until_served(1, ageing_s=0.0, rounds=60) is None
    assert rounds_until_served(1, ageing_s=inf, rounds=60) is None


def test_who_has_grown_urgent_can_be_cancelled_and_is_told_as_such() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=FLAT, ageing_s=0.05))
    scene.arrive(4, at=0.0, deadline=9.0)
    scene.tell(Arrived("low", "k", priority=1, deadline=8.0), Arrived("other", "k", priority=1, deadline=7.0))
    scene.tell(at=0.06)
    assert scene.dispatcher.forecast(0.06).backlog[-1] == (0, 8.0, 2)
    scene.tell(Cancelled("low"))
    assert scene.dispatcher.forecast(0.06).backlog == ((0, 7.0, 1),)


def test_those_below_a_head_in_a_hurry_fill_a_batch_too() -> None:
    scene = Scene(DispatcherConfig(4, latency_table=LINE))
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(
        Arrived("urgent", "k", deadline=9.0),
        Arrived("tight", "k", priority=1, deadline=0.0115),
        Arrived("ample", "k", priority=1, deadline=9.0),
    )
    done = scene.tell(BatchDone("w0", 1, LINE[1]), at=LINE[1])
    assert batches(done) == [("urgent", "ample")]


def test_a_full_queue_takes_an_urgent_request_for_the_last_of_the_lowest_class() -> None:
    scene = Scene(DispatcherConfig(4, queue_rows_max=4))
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(*(Arrived(name, "k", priority=p, deadline=9.0) for name, p in (("a", 0), ("b", 1), ("c", 2), ("d", 2))))
    assert refusals(scene.tell(Arrived("e", "k", deadline=9.0))) == {"d": "queue_full"}
    assert refusals(scene.tell(Arrived("f", "other", rows=2, deadline=9.0))) == {"c": "queue_full", "b": "queue_full"}
    assert refusals(scene.tell(Arrived("g", "k", deadline=9.0))) == {"g": "queue_full"}


def test_nobody_is_given_up_if_that_would_not_make_room() -> None:
    scene = Scene(DispatcherConfig(4, queue_rows_max=4))
    scene.arrive(1, at=0.0, deadline=9.0)
    scene.tell(Arrived("low", "k", priority=1), *(Arrived(name, "k") for name in "abc"))
    assert refusals(scene.tell(Arrived("wide", "k", rows=2))) == {"wide": "queue_full"}
