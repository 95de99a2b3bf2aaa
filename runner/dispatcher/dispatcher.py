"""Decides when which requests go to which worker as one batch: policy PACE, for one worker or many.

Pure: state + events + now -> actions. No socket, clock, thread, sleep or randomness; the same class runs in a worker,
in the broker and in a simulator, each of which drains its inputs and then asks once.
"""

from collections.abc import Hashable, Iterable
from itertools import count
from math import inf, isnan

from paceline.runner.dispatcher.actions import Action, Dispatch, Reject, RejectReason, WakeAt
from paceline.runner.dispatcher.backlog import Backlog, KeyState
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.curve import pad
from paceline.runner.dispatcher.events import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Event,
    Measured,
    Tick,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.dispatcher.fleet import Batch, Fleet, Worker
from paceline.runner.dispatcher.forecast import Forecast, drain_rate, read_forecast
from paceline.runner.dispatcher.planner import Planner
from paceline.runner.dispatcher.queue import Waiting
from paceline.runner.dispatcher.table_book import TableBook
from paceline.runner.dispatcher.timing import Timing


class Dispatcher:
    """One queue of requests for the workers of one runner.

    Example, with times in seconds and sizes in rows:

        dispatcher = Dispatcher(DispatcherConfig(max_batch_size=64))
        dispatcher.handle(WorkerJoined("w0"), now=0.0)
        dispatcher.handle(Arrived("r1", key="predict", deadline=1.05), now=1.0)
        # -> [Dispatch("w0", 1, ("r1",), "predict", rows=1, padded_rows=1)]

    A request is answered once: by the shell after the BatchDone of its batch, or by a Reject. Sources: CORK's drop
    rule (BentoML), earliest deadline first, look-ahead over both; control limits after Deb and Serfozo (1973).
    """

    def __init__(self, config: DispatcherConfig) -> None:
        self._config = config
        self._backlog = Backlog(config.keys_max, config.ageing_s)
        self._fleet = Fleet(config.prefetch_s)
        self._tables = TableBook(config)
        timing = Timing(config, self._fleet, self._tables)
        self._planner = Planner(config, self._backlog, self._fleet, self._tables, timing)
        self._buckets = tuple(sorted(config.buckets))
        self._live: dict[Hashable, Waiting | Batch] = {}
        self._numbers = count()
        self._batch_ids = count(1)
        self._now = -inf
        self._wake_at = inf  # the newest WakeAt; never later than the earliest deadline in the queue
        self._wake_wanted = inf  # no later than the deadline of anybody who was queued since then
        self._held_from: Worker | None = None  # all that waits, but for `fresh`, is held back from this worker
        self._held_at = 0  # `Fleet.changes` at that time
        self._fresh: list[KeyState] = []  # keys with arrivals since then
        self._hold_until = inf  # when the first of the queues that are held back is due
        self._prefetch_at = inf  # when the first of the busy workers takes a batch in advance
        self._retry_after_s: float | None = None
        self._actions: list[Action] = []

    def handle(self, event: Event, now: float) -> list[Action]:
        """`handle_all` of one event."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]:
        """Take in everything that happened, then decide once. `now` in seconds; an earlier one than before is raised.

        Raises ValueError for a request or worker id that is live already, rows < 1 and a deadline that is not a
        number. The other events have been taken in then, and what follows from them comes with the next call.
        """
        now = self._now = max(now, self._now)
        self._retry_after_s = None
        refused: ValueError | None = None
        for event in events:
            try:
                self._take_in(event, now)
            except ValueError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        if now >= self._wake_at:
            self._expire(now)
        if now >= self._backlog.ages_at:
            for waiting in self._backlog.age(now):
                self._live[waiting.request.request_id] = waiting
        self._decide(now)
        if self._backlog.rows:
            self._wake()
        actions, self._actions = self._actions, []
        return actions

    def forecast(self, now: float, keys_max: int | None = None) -> Forecast:
        """What an API server needs to predict the earliest finish of a new request. Changes nothing. `keys_max`: only
        so many keys, those with most rows, which is cheaper."""
        return read_forecast(self._backlog, self._fleet, self._tables, self._config, now, keys_max)

    # What happened

    def _take_in(self, event: Event, now: float) -> None:
        match event:
            case Arrived():
                self._arrive(event, now)
            case BatchDone():
                self._finish(event, now)
            case Cancelled():
                self._cancel(event.request_id)
            case WorkerJoined():
                self._fleet.join(event.worker_id, event.profile)
            case WorkerDraining():
                self._fleet.drain(event.worker_id)
            case WorkerLost():
                for batch, may_have_started in self._fleet.lose(event.worker_id, event.started):
                    self._take_back(batch, may_have_started, now)
            case CapChanged():
                self._held_from = None
                self._backlog.lower_cap(event.key, event.rows, event.until, now)
            case Measured():
                if event.rows >= 1 and 0 < event.duration < inf:
                    rows = pad(event.rows, self._buckets)
                    self._tables.observe(event.profile, event.key, rows, event.duration, now, event.length)
            case Tick():
                pass

    def _arrive(self, request: Arrived, now: float) -> None:
        request_id, rows, deadline = request.request_id, request.rows, request.deadline
        if request_id in self._live:
            raise ValueError(f"request {request_id!r} is live already")
        if rows < 1:
            raise ValueError(f"request {request_id!r} has {rows} rows, expected at least 1")
        if isnan(deadline):
            raise ValueError(f"the deadline of request {request_id!r} is not a number")
        reason = self._refusal(request, now)
        if reason is not None:
            self._reject(request_id, reason)
            return
        arrived_at = now if request.arrived_at is None else request.arrived_at
        waiting = Waiting(request.priority, deadline, arrived_at, next(self._numbers), request, request.starts)
        state = self._enqueue(waiting)
        state.arrivals.add(rows, deadline - arrived_at, now)
        if self._held_from is not None and (not self._fresh or self._fresh[-1] is not state):
            self._fresh.append(state)

    def _refusal(self, request: Arrived, now: float) -> RejectReason | None:
        if request.deadline <= now:
            return RejectReason.DEADLINE
        if request.starts and request.starts >= self._starts_max(request):
            return RejectReason.WORKER_LOST
        if self._backlog.rows + request.rows > self._config.queue_rows_max:
            if now >= self._wake_at:
                self._expire(now)
            surplus = self._backlog.rows + request.rows - self._config.queue_rows_max
            if surplus > 0 and not self._give_up(self._backlog.lower(request.priority, surplus)):
                return RejectReason.QUEUE_FULL
        if self._tables.any_given and self._planner.is_infeasible(request, now):
            return RejectReason.INFEASIBLE
        return None

    def _give_up(self, lower: list[Waiting]) -> bool:
        """A full queue has room for a request as long as less urgent ones wait."""
        for waiting in lower:
            self._backlog.remove(waiting)
            del self._live[waiting.request.request_id]
            self._reject(waiting.request.request_id, RejectReason.QUEUE_FULL)
        return bool(lower)

    def _cancel(self, request_id: Hashable) -> None:
        held = self._live.pop(request_id, None)
        if isinstance(held, Waiting):
            self._backlog.remove(held)
        elif held is not None:
            held.cancelled.add(request_id)

    def _finish(self, done: BatchDone, now: float) -> None:
        batch = self._fleet.done(done.worker_id, done.batch_id, now)
        if batch is None:
            return
        self._forget(batch)
        slices, rest = divmod(batch.rows, batch.slice_rows)
        if done.learn and rest == 0 and 0 < done.duration < inf:
            padded_rows = batch.padded_rows // slices
            seconds = done.duration / slices
            self._tables.observe(batch.profile, batch.key, padded_rows, seconds, now, batch.length)

    def _forget(self, batch: Batch) -> None:
        live = self._live
        for waiting in batch.members:
            request_id = waiting.request.request_id
            if live.get(request_id) is batch:
                del live[request_id]

    def _take_back(self, batch: Batch, may_have_started: bool, now: float) -> None:
        """A lost batch's members wait again, where time and starts are left. Suspects then run alone: a poisonous one
        must not take its neighbours down a second time."""
        self._forget(batch)
        for waiting in batch.members:
            request = waiting.request
            if request.request_id in batch.cancelled:
                continue
            starts = waiting.starts + may_have_started
            if starts >= self._starts_max(request) or waiting.deadline <= now:
                self._reject(request.request_id, RejectReason.WORKER_LOST)
            else:
                suspect = waiting.suspect or may_have_started
                self._enqueue(waiting._replace(starts=starts, suspect=suspect))

    def _enqueue(self, waiting: Waiting) -> KeyState:
        self._live[waiting.request.request_id] = waiting
        if waiting.deadline < self._wake_wanted:
            self._wake_wanted = waiting.deadline
        return self._backlog.add(waiting)

    def _expire(self, now: float) -> None:
        for waiting in self._backlog.pop_expired(now):
            del self._live[waiting.request.request_id]
            self._reject(waiting.request.request_id, RejectReason.DEADLINE)
        self._wake_at = inf
        self._wake_wanted = self._backlog.earliest_deadline()

    def _starts_max(self, request: Arrived) -> int:
        return self._config.starts_max if request.starts_max is None else request.starts_max

    # What to do

    def _decide(self, now: float) -> None:
        backlog, fleet = self._backlog, self._fleet
        if self._held_from is not None and self._holds_on(self._held_from, now):
            return
        self._fresh.clear()
        self._held_from = None
        self._hold_until = self._prefetch_at = inf
        while backlog.rows:
            worker = fleet.next_free(now)
            if worker is None:
                self._prefetch_at = fleet.next_prefetch_at()
                return
            if not self._serve(worker, now):
                return

    def _holds_on(self, worker: Worker, now: float) -> bool:
        """Whether all that waits is still held back: what came since then is looked at, and nothing else."""
        if now >= self._hold_until or self._held_at != self._fleet.changes:
            return False
        start = _start(worker, now)
        for state in self._fresh:
            until = self._planner.hold_until(state, worker, start, now) if state.queue else inf
            if until <= start:
                return False
            self._hold_until = min(self._hold_until, until)
        self._fresh.clear()
        return True

    def _serve(self, worker: Worker, now: float) -> bool:
        """False: all that waits is held back from this worker."""
        start = _start(worker, now)
        plan = self._planner.plan(worker, start, now)
        for waiting in plan.hopeless:
            del self._live[waiting.request.request_id]
            self._reject(
                waiting.request.request_id,
                RejectReason.DEADLINE if waiting.deadline <= now else RejectReason.INFEASIBLE,
            )
        if plan.members:
            self._bind(worker, plan.members, start, now)
            return True
        self._hold_until = plan.held_until
        self._held_from, self._held_at = (worker if plan.held_until < inf else None), self._fleet.changes
        return False

    def _bind(self, worker: Worker, members: list[Waiting], start: float, now: float) -> None:
        first = members[0].request  # none is longer
        request_ids = tuple([waiting.request.request_id for waiting in members])
        rows = sum([waiting.request.rows for waiting in members])
        slice_rows = min(rows, self._planner.cap(first, now))
        slices, rest = divmod(rows, slice_rows)
        padded_rows = slices * pad(slice_rows, self._buckets) + (pad(rest, self._buckets) if rest else 0)
        predicted_s = self._planner.seconds(worker.profile, first, rows, now)
        batch_id = next(self._batch_ids)
        batch = Batch(
            batch_id, first.key, first.length, worker.profile, members, rows, padded_rows, slice_rows, predicted_s
        )
        self._fleet.bind(worker, batch, start)
        self._live.update(dict.fromkeys(request_ids, batch))
        self._actions.append(
            Dispatch(
                worker_id=worker.worker_id,
                batch_id=batch_id,
                request_ids=request_ids,
                key=first.key,
                rows=rows,
                padded_rows=padded_rows,
                length=first.length,
                predicted_s=predicted_s or 0.0,
            )
        )

    def _wake(self) -> None:
        """Says when to call again, only if that must be sooner than said before."""
        if self._wake_wanted < self._wake_at:
            self._wake_wanted = self._backlog.earliest_deadline()
        wanted = min(self._wake_wanted, self._hold_until, self._prefetch_at)
        if wanted < self._wake_at:
            self._wake_at = wanted
            self._actions.append(WakeAt(wanted))

    def _reject(self, request_id: Hashable, reason: RejectReason) -> None:
        advice = reason in (RejectReason.QUEUE_FULL, RejectReason.INFEASIBLE)
        self._actions.append(Reject(request_id, reason, self._retry_after() if advice else None))

    def _retry_after(self) -> float | None:
        """Seconds until what waits now is done; None = nothing is known."""
        if self._retry_after_s is None:
            rate = drain_rate(self._backlog, self._fleet, self._tables, self._config)
            self._retry_after_s = self._backlog.rows / rate if rate > 0 else None
        return self._retry_after_s


def _start(worker: Worker, now: float) -> float:
    """When a batch bound to it now begins."""
    return max(now, worker.free_at) if worker.batches else now
