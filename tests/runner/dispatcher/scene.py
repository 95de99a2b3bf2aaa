"""A dispatcher with a clock that the test moves, and short words for what it answers."""

from collections.abc import Hashable, Mapping

from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Dispatch,
    Dispatcher,
    DispatcherConfig,
    Event,
    Reject,
    WakeAt,
    WorkerJoined,
)

FLAT: Mapping[int, float] = {1: 0.010, 64: 0.010}  # a batch takes 10 ms, whatever its size
LINE: Mapping[int, float] = {1: 0.0055, 64: 0.037}  # 5 ms a batch and 0.5 ms a row


class Scene:
    """`workers` workers have joined at time 0. Every call moves the clock to `at` first."""

    def __init__(self, config: DispatcherConfig, workers: int = 1) -> None:
        self.dispatcher = Dispatcher(config)
        self.at = 0.0
        for number in range(workers):
            self.dispatcher.handle(WorkerJoined(f"w{number}"), 0.0)

    def tell(self, *events: Event, at: float | None = None) -> list[Action]:
        self.at = self.at if at is None else at
        return self.dispatcher.handle_all(events, self.at)

    def arrive(self, count: int, at: float, deadline: float, first: int = 1, key: Hashable = "k") -> list[Action]:
        """Requests of one row, numbered from `first`, in one call."""
        return self.tell(*(Arrived(first + i, key, deadline=deadline) for i in range(count)), at=at)

    def teach(self, rows: int, duration: float, times: int = 3) -> None:
        """Batches of one request of `rows` rows, one after the other, on the first worker."""
        for _ in range(times):
            (batch,) = dispatches(self.tell(Arrived(object(), "k", rows=rows)))
            self.tell(BatchDone(batch.worker_id, batch.batch_id, duration), at=self.at + duration)


def dispatches(actions: list[Action]) -> list[Dispatch]:
    return [action for action in actions if isinstance(action, Dispatch)]


def batches(actions: list[Action]) -> list[tuple[Hashable, ...]]:
    return [action.request_ids for action in actions if isinstance(action, Dispatch)]


def refusals(actions: list[Action]) -> dict[Hashable, str]:
    return {action.request_id: action.reason for action in actions if isinstance(action, Reject)}


def wake_ups(actions: list[Action]) -> list[float]:
    return [action.time for action in actions if isinstance(action, WakeAt)]
