"""A decision is cheap. `python -m tests.runner.dispatcher.test_decision_cost` prints the mean cost of a request."""

import gc
import sys
from collections.abc import Hashable, Iterator
from time import perf_counter
from types import FrameType

import pytest

from paceline.runner.dispatcher import Arrived, BatchDone, Dispatcher, DispatcherConfig, Event, Reject, WorkerJoined
from paceline.runner.dispatcher.backlog import Backlog
from paceline.runner.dispatcher.forecast import RATE_KEYS_MAX
from paceline.runner.dispatcher.queue import Waiting
from paceline.runner.dispatcher.table_book import Table, TableBook
from tests.runner.dispatcher.scene import LINE, dispatches

TICK = 64  # requests of one call


class Work:
    """Counts the functions called while it is entered, built-in ones too: what a machine's load does not change."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> "Work":
        sys.setprofile(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, function: object) -> None:
        self.calls += event in ("call", "c_call")


def full_batches(config: DispatcherConfig, rounds: int) -> Iterator[tuple[Dispatcher, list[Event], float]]:
    """At capacity: the calls of a dispatcher with one worker, arrivals of one call, their batch and its end."""
    dispatcher, now = Dispatcher(config), 0.0
    dispatcher.handle(WorkerJoined("w"), now)
    for turn in range(rounds):
        yield dispatcher, [Arrived(turn * TICK + i, "k", deadline=now + 0.5) for i in range(TICK)], now
        while (batch := dispatcher._fleet._workers["w"].batches[:1]) != []:
            now += LINE[64]
            yield dispatcher, [BatchDone("w", batch[0].batch_id, LINE[64])], now


def overloaded(queued: int, workers: int) -> tuple[Dispatcher, list[Event], float]:
    """All workers finish at once, when most of what waits has little time left."""
    dispatcher = Dispatcher(DispatcherConfig(64, latency_table=LINE))
    dispatcher.handle_all([WorkerJoined(worker) for worker in range(workers)], 0.0)
    first = dispatches(dispatcher.handle_all([Arrived(-number, "k") for number in range(64 * workers)], 0.0))
    dispatcher.handle_all([Arrived(1 + number, "k", deadline=0.05 + 1e-5 * number) for number in range(queued)], 0.0)
    return dispatcher, [BatchDone(batch.worker_id, batch.batch_id, LINE[64]) for batch in first], LINE[64]


def test_a_request_costs_few_function_calls() -> None:
    for config in (DispatcherConfig(64), DispatcherConfig(64, latency_table=LINE)):
        work = 0
        for dispatcher, events, now in full_batches(config, rounds=6):
            with Work() as done:
                dispatcher.handle_all(events, now)
            work += done.calls
        assert work / 6 / TICK < 30


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("queued", [500, 4000])
def test_a_decision_beyond_capacity_costs_no_more_the_longer_the_queue(queued: int, workers: int) -> None:
    dispatcher, events, now = overloaded(queued, workers)
    with Work() as done:
        actions = dispatcher.handle_all(events, now)
    refused = sum(isinstance(action, Reject) for action in actions)
    assert refused > 300
    assert done.calls < 7 * refused + 1000 * workers


@pytest.mark.parametrize("workers", [1, 8])
def test_a_skipped_request_stays_where_it_is(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher, events, now = overloaded(1000, workers)
    added: list[Waiting] = []
    monkeypatch.setattr(Backlog, "add", lambda self, waiting: added.append(waiting))
    assert dispatches(dispatcher.handle_all(events, now))
    assert not added


def test_a_forecast_of_one_key_costs_no_more_tables_the_more_keys_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(DispatcherConfig(64, latency_table=LINE))
    dispatcher.handle(WorkerJoined("w"), 0.0)
    dispatcher.handle_all([Arrived(number, number, deadline=9.0) for number in range(1024)], 0.0)
    peeked: list[object] = []
    peek = TableBook.peek

    def counted(book: TableBook, profile: str, key: Hashable, length: int = 0) -> Table | None:
        peeked.append(key)
        return peek(book, profile, key, length)

    monkeypatch.setattr(TableBook, "peek", counted)
    assert len(dispatcher.forecast(0.1, keys_max=1).keys) == 1
    assert len(peeked) <= 1 + RATE_KEYS_MAX


def main() -> None:
    gc.disable()
    for name, table in (("learned", None), ("given", LINE)):
        spent_s = 0.0
        for dispatcher, events, now in full_batches(DispatcherConfig(64, latency_table=table), rounds=3000):
            began = perf_counter()
            dispatcher.handle_all(events, now)
            spent_s += perf_counter() - began
        print(f"{name} table: {spent_s / 3000 / TICK * 1e6:.2f} us/request")  # noqa: T201


if __name__ == "__main__":
    main()
