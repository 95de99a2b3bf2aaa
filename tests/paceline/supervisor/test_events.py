"""What people read of events."""

from __future__ import annotations

import pytest

from paceline.supervisor.events import (
    Broken,
    ChildDied,
    ChildReady,
    Ready,
    Reloading,
    Restarting,
    RunnerLoading,
    Served,
    describe,
)


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


def test_a_service_is_named_before_its_runners_which_it_may_lack() -> None:
    ready = Ready("http://h:1", (Served("net", 1, 1, "worker"),), 1.5, "", "shop", ("/predict",))
    assert describe(ready) == "ready: service shop, net (1 worker) on http://h:1 after 1.50 s"
    assert describe(Ready("http://h:1", (), 1.5, "", "shop")) == "ready: service shop on http://h:1 after 1.50 s"


def test_a_model_is_named_by_its_tag_and_a_runnable_by_its_class() -> None:
    assert describe(RunnerLoading("net", "net", "3", ("cpu",))) == "loading net: net:3 on cpu"
    assert describe(RunnerLoading("own", "service:Own", "", ("cpu",))) == "loading own: service:Own on cpu"


def test_a_reload_names_the_files_and_what_is_broken() -> None:
    assert describe(Reloading(("a.py",))) == "a.py changed: starting anew"
    assert describe(Reloading(tuple("abcde"))) == "a, b, c and 2 more changed: starting anew"
    assert describe(Broken("no such model")) == "cannot serve, waiting for a change: no such model"
