"""The dispatcher keeps its promises in random worlds. `world.check(seed)` repeats one."""

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.runner.dispatcher import Arrived, BatchDone, Dispatcher, DispatcherConfig, Measured, WorkerJoined
from tests.runner.dispatcher.scene import dispatches
from tests.runner.dispatcher.world import STEPS, World, check

WORLDS = 500


@pytest.mark.parametrize("seed", range(WORLDS))
def test_every_promise_holds_in_a_random_world(seed: int) -> None:
    check(seed)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(WORLDS, 1 << 32), st.lists(st.integers(0, 1 << 16), min_size=1, max_size=STEPS))
def test_every_promise_holds_whatever_the_steps(seed: int, steps: list[int]) -> None:
    World(seed).run(steps)


@pytest.mark.parametrize("seed", range(8))
def test_a_world_runs_the_same_way_whether_it_is_watched_or_not(seed: int) -> None:
    watched, alone = World(seed, log=[]), World(seed, watched=False, log=[])
    watched.run()
    alone.run()
    assert watched.log == alone.log


def test_a_broken_promise_names_the_seed_and_the_shortest_history(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(dispatcher: Dispatcher, request_id: object) -> None:
        """Forgets to."""

    monkeypatch.setattr(Dispatcher, "_cancel", cancel)
    with pytest.raises(AssertionError, match=r"World\(3\)\.run\(\[\d+(, \d+){0,5}\]\) breaks a promise"):
        check(3)


def test_what_is_kept_does_not_grow_with_what_came() -> None:
    """Keys that come once and never again, cancels of nobody, warm-ups."""
    dispatcher = Dispatcher(DispatcherConfig(4, keys_max=4))
    dispatcher.handle_all([WorkerJoined(worker) for worker in range(3)], 0.0)
    numbers = count(1)
    kept = [size_after(dispatcher, numbers, rounds=40) for _ in range(3)]
    assert kept[1] == kept[2]


def size_after(dispatcher: Dispatcher, numbers: Iterator[int], rounds: int) -> int:
    for number, _ in zip(numbers, range(rounds), strict=False):
        now = float(number)
        arrived = [Arrived((number, i), ("m", number), deadline=now + 0.5) for i in range(20)]
        batches = dispatches(dispatcher.handle_all([Measured("", ("w", number), 1, 0.01), *arrived], now))
        while batches:
            now += 0.01
            done = [BatchDone(batch.worker_id, batch.batch_id, 0.01) for batch in batches]
            batches = dispatches(dispatcher.handle_all(done, now))
    return sum(sizes(dispatcher, set()))


def sizes(thing: object, seen: set[int]) -> Iterator[int]:
    """Of every container that can be reached."""
    if id(thing) in seen or isinstance(thing, str | bytes | type):
        return
    seen.add(id(thing))
    parts: list[object] = []
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif hasattr(thing, "__iter__") and hasattr(thing, "__len__"):
        parts = list(thing)
    if isinstance(thing, dict) or parts:
        yield len(parts)
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    parts += [*getattr(thing, "__dict__", {}).values(), *(getattr(thing, n) for n in names if hasattr(thing, n))]
    for part in parts:
        yield from sizes(part, seen)
