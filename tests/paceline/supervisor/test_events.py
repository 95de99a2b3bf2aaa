"""What people read of events."""

from __future__ import annotations

import pytest

from paceline.supervisor.events import ChildDied, ChildReady, Ready, Restarting, Served, describe


@pytest.mark.parametrize(
    ("runners", "told"),
    [
        ((Served("net", 1, 1, "worker"),), "net (1 worker)"),
        ((Served("net", 4, 4, "central"),), "net (4 workers, one queue in its broker)"),
        ((Served("net", 4, 1, "central"),), "net (1 of 4 workers, one queue in its broker)"),
        ((Served("net", 1, 1, "central"),), "net (1 worker, one queue in its broker)"),
        (
            (Served("net", 2, 2, "worker"), Served("add", 1, 1, "worker")),
            "net (2 workers, each with a queue), add (1 worker)",
        ),
    ],
)
def test_the_ready_line_says_how_many_workers_there_are_and_where_the_queue_lives(
    runners: tuple[Served, ...], told: str
) -> None:
    assert describe(Ready("http://h:1", runners, 1.5)) == f"ready: {told} on http://h:1 after 1.50 s"
    assert describe(Ready("http://h:1", runners, 1.5, "tcp://h:2")).endswith("on http://h:1 and tcp://h:2 after 1.50 s")


def test_a_broker_is_told_of_like_any_other_process() -> None:
    assert describe(ChildReady("broker", "net/broker", 7, "", 0.25)) == "net/broker ready in 0.25 s (pid 7)"
    assert describe(ChildDied("broker", "net/broker", 7, "killed", "killed")) == "net/broker (pid 7) died: killed"
    assert describe(Restarting("broker", "net/broker", 0.1)) == "net/broker restarts in 0.1 s"
