"""The dispatcher keeps its promises in random worlds. `World(seed).run()` repeats one."""

import pytest

from tests.runner.dispatcher.world import World


@pytest.mark.parametrize("seed", range(500))
def test_every_promise_holds_in_a_random_world(seed: int) -> None:
    World(seed).run()


def test_the_same_world_runs_the_same_way_twice() -> None:
    first, second = World(7), World(7)
    first.run()
    second.run()
    assert first.answers == second.answers
    assert first.now == second.now
