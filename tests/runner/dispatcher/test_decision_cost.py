"""A decision is cheap. `python -m tests.runner.dispatcher.test_decision_cost` prints the mean cost of a request."""

import gc
from collections.abc import Hashable
from time import perf_counter

import pytest

from paceline.runner.dispatcher import Arrived, BatchDone, Dispatcher, DispatcherConfig, WorkerJoined
from paceline.runner.dispatcher.forecast import RATE_KEYS_MAX
from paceline.runner.dispatcher.table_book import Table, TableBook
from tests.runner.dispatcher.scene import LINE, dispatches

TICK = 64  # requests of one call
LIMIT_US = 25.0  # five times the aim, so that a busy machine passes and a quadratic queue does not


def cost_us(config: DispatcherConfig, rounds: int) -> float:
    """Microseconds a request, at capacity: arrivals of one call, their batches and the ends of these."""
    dispatcher, now, spent_s = Dispatcher(config), 0.0, 0.0
    dispatcher.handle(WorkerJoined("w"), now)
    for turn in range(rounds):
        events = [Arrived(turn * TICK + i, "k", deadline=now + 0.5) for i in range(TICK)]
        began = perf_counter()
        batches = dispatches(dispatcher.handle_all(events, now))
        spent_s += perf_counter() - began
        while batches:
            now += LINE[64]
            began = perf_counter()
            batches = dispatches(dispatcher.handle(BatchDone("w", batches[0].batch_id, LINE[64]), now))
            spent_s += perf_counter() - began
    return spent_s / rounds / TICK * 1e6


def test_a_request_costs_microseconds() -> None:
    assert min(cost_us(DispatcherConfig(64), rounds=2) for _ in range(5)) < LIMIT_US


def test_a_forecast_of_one_key_costs_no_more_tables_the_more_keys_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(DispatcherConfig(64, latency_table=LINE))
    dispatcher.handle(WorkerJoined("w"), 0.0)
    dispatcher.handle_all([Arrived(number, number, deadline=9.0) for number in range(1024)], 0.0)
    peeked: list[object] = []
    peek = TableBook.peek

    def counted(book: TableBook, profile: str, key: Hashable) -> Table | None:
        peeked.append(key)
        return peek(book, profile, key)

    monkeypatch.setattr(TableBook, "peek", counted)
    assert len(dispatcher.forecast(0.1, keys_max=1).keys) == 1
    assert len(peeked) <= 1 + RATE_KEYS_MAX


def main() -> None:
    gc.disable()
    for name, table in (("learned", None), ("given", LINE)):
        print(f"{name} table: {cost_us(DispatcherConfig(64, latency_table=table), 3000):.2f} us/request")  # noqa: T201


if __name__ == "__main__":
    main()
