"""Which requests a free worker gets: the most urgent key, its batch, and whom serving them leaves without hope.

Takes what it decides on out of the backlog; answering is the dispatcher's part.
"""

from dataclasses import dataclass
from math import inf

from paceline.runner.dispatcher.backlog import Backlog, KeyState, Urgency
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.events import Arrived
from paceline.runner.dispatcher.fleet import Fleet, Worker
from paceline.runner.dispatcher.queue import KeyQueue, Waiting
from paceline.runner.dispatcher.sizing import Choice, Outlook, batch_target, choose, fit, is_simple
from paceline.runner.dispatcher.table_book import Table, TableBook

PATIENCE_S = 30.0  # without a deadline a request counts as due so long after its arrival: between keys only
WINDOW_BATCHES = 10  # arrivals are counted over at most so many of the longest batches


@dataclass(frozen=True, slots=True)
class Plan:
    """`members` go to the worker, none = nothing to do; `hopeless` are to be refused."""

    members: list[Waiting]
    hopeless: list[Waiting]


class Planner:
    """Reads fleet and tables, takes requests out of the backlog."""

    def __init__(self, config: DispatcherConfig, backlog: Backlog, fleet: Fleet, tables: TableBook) -> None:
        self._config = config
        self._backlog = backlog
        self._fleet = fleet
        self._tables = tables

    def cap(self, request: Arrived, now: float) -> int:
        """The most rows of a batch that holds this request."""
        cap = self._backlog.cap(request.key, self._config.max_batch_size, now)
        limit = request.batch_limit
        return cap if limit is None or limit == 1 else min(cap, max(1, limit))

    def seconds(self, profile: str, request: Arrived, rows: int, now: float) -> float | None:
        """Of a batch of `rows` rows like this request, sliced by its cap; None = unknown."""
        curve = self._tables.table(profile, request.key).curve
        return None if curve is None else _sliced(curve, rows, self.cap(request, now))

    def is_infeasible(self, request: Arrived, now: float) -> bool:
        """On the word of given tables, even if every worker were idle."""
        slack_s = request.deadline - self._config.reply_s - now
        cap = self.cap(request, now)
        for profile in self._fleet.profiles:
            table = self._tables.peek(profile, request.key)
            if table is None or table.curve is None or not table.known:
                return False
            if _sliced(table.curve, request.rows, cap) <= slack_s:
                return False
        return bool(self._fleet.profiles)

    def plan(self, worker: Worker, start: float, now: float) -> Plan:
        """For a batch that begins at `start`: now, or later if it is bound in advance."""
        hopeless: list[Waiting] = []
        while self._backlog.rows:
            state = self._most_urgent(worker.profile, now)
            table = self._tables.table(worker.profile, state.key)
            if table.grounded:
                hopeless += self._pop_hopeless(state, start, now)
            if state.queue:
                members, skipped = self._take(state, table, start, now)
                return Plan(members, hopeless + self._without_chance(skipped, members, worker, start, now))
        return self._probe(worker, hopeless, now)

    # Which key

    def _most_urgent(self, profile: str, now: float) -> KeyState:
        states = self._backlog.waiting.values()
        if len(states) == 1:
            return next(iter(states))
        known = (profile, self._tables.version)
        for state in states:
            if state.urgency is None or state.urgency_of != known:
                state.urgency, state.urgency_of = self._urgency(state, profile, now), known
        return min(states, key=_urgency)

    def _urgency(self, state: KeyState, profile: str, now: float) -> Urgency:
        """Priority, then right edge: the latest start that meets the head's deadline; ties to more rows per second."""
        head = state.queue.head
        due = head.deadline if head.deadline < inf else head.arrived_at + PATIENCE_S
        table = self._tables.peek(profile, state.key)
        if table is None or table.curve is None:
            return head.priority, due, 0.0
        rows = batch_target(state.queue, table, self.cap(head.request, now))
        return head.priority, due - table.curve.seconds(rows), -table.curve.rate(rows)

    # Who has no hope

    def _pop_hopeless(self, state: KeyState, start: float, now: float) -> list[Waiting]:
        """Heads that would miss their deadlines even if they started alone, on the fastest kind of worker."""
        queue, popped = state.queue, []
        for lane in list(queue.lanes):
            end = 0
            while end < len(lane.entries) and self._is_hopeless(lane.entries[end], start, now):
                end += 1
            if end:
                popped += queue.take(lane, end)
        self._backlog.left(state, sum(waiting.request.rows for waiting in popped))
        return popped

    def _is_hopeless(self, waiting: Waiting, start: float, now: float) -> bool:
        return start + self._need_s(waiting.request, now) + self._config.reply_s > waiting.deadline

    def _need_s(self, request: Arrived, now: float) -> float:
        return min(self.seconds(p, request, request.rows, now) or 0.0 for p in self._fleet.profiles)

    def _without_chance(
        self, skipped: list[Waiting], members: list[Waiting], worker: Worker, start: float, now: float
    ) -> list[Waiting]:
        """Those skipped heads that no worker can serve in time after this batch; the others go back to the queue."""
        if not skipped:
            return skipped
        rows = sum(waiting.request.rows for waiting in members)
        free_at = start + (self.seconds(worker.profile, members[0].request, rows, now) or 0.0)
        for other in self._fleet:
            if other is not worker and not other.draining:
                free_at = min(free_at, now if other.free_at == inf else max(now, other.free_at))
        hopeless = [waiting for waiting in skipped if self._is_hopeless(waiting, free_at, now)]
        for waiting in skipped:
            if waiting not in hopeless:
                self._backlog.add(waiting)
        return hopeless

    def _probe(self, worker: Worker, hopeless: list[Waiting], now: float) -> Plan:
        """A learned table may be wrong, and would stay so if its word kept an idle worker idle: one of the hopeless is
        served after all, the one with most time, at most one per time that it takes."""
        if worker.batches or not hopeless:
            return Plan([], hopeless)
        best = max(hopeless, key=lambda waiting: waiting.deadline)
        table = self._tables.table(worker.profile, best.request.key)
        if table.known or now < table.probe_at or best.deadline <= now:
            return Plan([], hopeless)
        table.probe_at = now + self._need_s(best.request, now)
        return Plan([best], [waiting for waiting in hopeless if waiting is not best])

    # Which batch

    def _take(self, state: KeyState, table: Table, start: float, now: float) -> tuple[list[Waiting], list[Waiting]]:
        """The members of the batch, and the heads skipped for it; both leave the queue."""
        queue = state.queue
        before = queue.rows
        cap = self.cap(queue.head.request, now)
        choice = self._choose(state, table, cap, start, now)
        lane = queue.lanes[0]
        skipped = queue.take(lane, choice.skip) if choice.skip else []
        members = self._gather(queue, table, choice.rows, start)
        self._backlog.left(state, before - queue.rows)
        return members, skipped

    def _choose(self, state: KeyState, table: Table, cap: int, start: float, now: float) -> Choice:
        queue = state.queue
        rows = batch_target(queue, table, cap)
        at = start + self._config.reply_s
        slack_s = queue.head.deadline - at
        stretched = table.stretch(rows, int(min(queue.rows, cap, table.rows_allowed)))
        if stretched > rows and table.curve is not None and table.curve.seconds(stretched) <= slack_s:
            return Choice(0, stretched)
        if is_simple(queue, table, rows, slack_s):
            return Choice(0, rows)
        if not table.grounded or self._fleet.idle > 1:
            return fit(queue, table, rows, slack_s)
        return choose(queue, table, cap, at, self._outlook(state, table, now))

    def _outlook(self, state: KeyState, table: Table, now: float) -> Outlook:
        budget_s = state.arrivals.budget_s() if self._config.budget_s is None else self._config.budget_s
        curve = table.curve
        if curve is not None:
            longest_s = curve.seconds(self._config.max_batch_size)
            state.arrivals.window_s = max(min(budget_s, WINDOW_BATCHES * longest_s), 1e-6)
        return Outlook(state.arrivals.rate(now), budget_s)

    def _gather(self, queue: KeyQueue, table: Table, rows: int, start: float) -> list[Waiting]:
        """In order; the first always goes, lower lanes fill the room that is left if their deadlines allow."""
        first = queue.head
        if first.runs_alone or first.request.rows >= rows:
            return queue.take(queue.lanes[0], 1)
        members: list[Waiting] = []
        taken, limit = 0, rows
        ends_at = -inf if table.curve is None else start + table.curve.seconds(rows) + self._config.reply_s
        for lane in list(queue.lanes):
            if members and lane.entries[0].deadline < ends_at:
                continue
            end = 0
            for waiting in lane.entries:
                request = waiting.request
                allowed = limit if request.batch_limit is None else min(limit, request.batch_limit)
                if taken + request.rows > allowed or waiting.runs_alone:
                    break
                taken, limit = taken + request.rows, allowed
                end += 1
            members += queue.take(lane, end)
        return members


def _urgency(state: KeyState) -> Urgency:
    assert state.urgency is not None
    return state.urgency


def _sliced(curve: Curve, rows: int, cap: int) -> float:
    if rows <= cap:
        return curve.seconds(rows)
    slices, rest = divmod(rows, cap)
    return slices * curve.seconds(cap) + (curve.seconds(rest) if rest else 0.0)
