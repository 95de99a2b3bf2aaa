"""The workers, the batches that they hold and when they are expected to be free. Knows no queue and no policy."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from math import inf

from paceline.runner.dispatcher.queue import Waiting


@dataclass(slots=True)
class Batch:
    """Requests bound to a worker. `cancelled` holds the ids of members that nobody waits for any more."""

    batch_id: int
    key: Hashable
    length: int  # of the longest member
    profile: str
    members: list[Waiting]
    rows: int
    padded_rows: int
    slice_rows: int  # what the executor cuts the batch into; rows unless it is a single oversize request
    predicted_s: float | None
    cancelled: set[Hashable] = field(default_factory=set)


@dataclass(slots=True)
class Worker:
    """A live worker: the first of `batches` runs, a second one is prefetched."""

    worker_id: Hashable
    profile: str
    batches: list[Batch] = field(default_factory=list)
    free_at: float = -inf  # predicted; inf while something unpredictable runs
    draining: bool = False


class Fleet:
    """Workers in order of joining; the first that is free gets work, so that spare ones are seen to be idle."""

    def __init__(self, prefetch_s: float) -> None:
        self.idle = 0  # workers without a batch that take one
        self.profiles: Counter[str] = Counter()
        self.crew: Counter[str] = Counter()  # the profiles of those that take batches: no draining worker
        self.version = 0  # changes whenever the crew does
        self.changes = 0  # counts whatever happens to a worker
        self.size = 0  # of the crew
        self._next: Worker | None = None
        self._next_at = -1  # the value of `changes` that `_next` was found at
        self._prefetch_s = prefetch_s
        self._workers: dict[Hashable, Worker] = {}

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def in_step(self) -> bool:
        """Whether a worker that takes batches computes while another is there to wait for it."""
        return self.size > 1 and self.idle < self.size

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def join(self, worker_id: Hashable, profile: str) -> None:
        if worker_id in self._workers:
            raise ValueError(f"worker {worker_id!r} has joined already: tell of its loss first")
        self._workers[worker_id] = Worker(worker_id, profile)
        self.profiles[profile] += 1
        self.idle += 1
        self._enlist(profile, 1)

    def drain(self, worker_id: Hashable) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or worker.draining:
            return
        self._enlist(worker.profile, -1)
        worker.draining = True
        if not worker.batches:
            self.idle -= 1
            self._forget(worker)

    def lose(self, worker_id: Hashable, started: Collection[int] | None) -> list[tuple[Batch, bool]]:
        """The batches that the worker held, each with whether it may have started."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        if not worker.batches:
            self.idle -= 1
        if not worker.draining:
            self._enlist(worker.profile, -1)
        self._forget(worker)
        return [(batch, started is None or batch.batch_id in started) for batch in worker.batches]

    def next_free(self, now: float) -> Worker | None:
        """An idle worker, else one whose only batch is predicted to end within prefetch_s."""
        worker = self._soonest()
        if worker is None or not worker.batches or worker.free_at - self._prefetch_s <= now:
            return worker
        return None

    def next_prefetch_at(self) -> float:
        """When the first busy worker takes a batch in advance; inf = none will, or an idle one is there."""
        worker = self._soonest()
        return inf if worker is None or not worker.batches else worker.free_at - self._prefetch_s

    def _soonest(self) -> Worker | None:
        """The first that is idle, else with prefetch the one whose only batch is predicted to end first."""
        if self._next_at != self.changes:
            self._next = self._find_soonest()
            self._next_at = self.changes
        return self._next

    def _find_soonest(self) -> Worker | None:
        if self.idle:
            return next(worker for worker in self if not worker.batches)
        if self._prefetch_s <= 0:
            return None
        holders = [worker for worker in self if len(worker.batches) == 1 and not worker.draining]
        return min(holders, key=lambda worker: worker.free_at, default=None)

    def others_free_in(self, served: Worker, start: float) -> tuple[float, ...]:
        """Seconds from `start` until each worker but the one that is served then is free; those that cannot be
        predicted are left out."""
        others = [worker for worker in self if worker is not served and not worker.draining and worker.free_at < inf]
        return tuple([max(0.0, worker.free_at - start) if worker.batches else 0.0 for worker in others])

    def bind(self, worker: Worker, batch: Batch, start: float) -> None:
        if not worker.batches:
            self.idle -= 1
        self.changes += 1
        worker.batches.append(batch)
        worker.free_at = inf if batch.predicted_s is None else start + batch.predicted_s

    def done(self, worker_id: Hashable, batch_id: int, now: float) -> Batch | None:
        """None for a worker or a batch that is not known (any more)."""
        worker = self._workers.get(worker_id)
        batch = next((b for b in worker.batches if b.batch_id == batch_id), None) if worker else None
        if worker is None or batch is None:
            return None
        self.changes += 1
        worker.batches.remove(batch)
        worker.free_at = now + sum(inf if b.predicted_s is None else b.predicted_s for b in worker.batches)
        if not worker.batches:
            if worker.draining:
                self._forget(worker)
            else:
                self.idle += 1
        return batch

    def _enlist(self, profile: str, count: int) -> None:
        """So many workers of this profile more that take batches."""
        self.crew[profile] += count
        if not self.crew[profile]:
            del self.crew[profile]
        self.size += count
        self.version += 1
        self.changes += 1

    def _forget(self, worker: Worker) -> None:
        del self._workers[worker.worker_id]
        self.profiles[worker.profile] -= 1
        if not self.profiles[worker.profile]:
            del self.profiles[worker.profile]
