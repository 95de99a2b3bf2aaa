"""Which requests a free worker gets: the most urgent key, its batch, and whom serving them leaves without hope.

Takes what it decides on out of the backlog; answering is the dispatcher's part.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import groupby
from math import inf

from paceline.runner.dispatcher.backlog import Backlog, KeyState, Urgency
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.curve import sliced
from paceline.runner.dispatcher.events import Arrived
from paceline.runner.dispatcher.fleet import Fleet, Worker
from paceline.runner.dispatcher.mix import Mix, Part
from paceline.runner.dispatcher.queue import KeyQueue, Lane, Waiting, deadline_of
from paceline.runner.dispatcher.sizing import Choice, Outlook, batch_target, choose, fit, is_simple
from paceline.runner.dispatcher.table_book import Table, TableBook
from paceline.runner.dispatcher.timing import WINDOW_BATCHES, Timing

CERTAIN = 0.85  # of the arrivals that the past lets one expect: nobody is dropped for those that may not come
CERTAIN_POOL = 0.7  # of several workers, where the next one is free soon
LENGTHS_MAX = 16  # of a key are looked at for one batch, those with the most urgent heads
PATIENCE_S = 30.0  # without a deadline a request counts as due so long after its arrival: between keys only


@dataclass(frozen=True, slots=True)
class Plan:
    """`members` go to the worker, none = nothing to do; `hopeless` are to be refused. `held_until`: when the first of
    the keys that are held back for lack of rows is due, if nothing goes to the worker."""

    members: list[Waiting]
    hopeless: list[Waiting]
    held_until: float = inf


class Planner:
    """Reads fleet and tables, takes requests out of the backlog."""

    def __init__(
        self, config: DispatcherConfig, backlog: Backlog, fleet: Fleet, tables: TableBook, timing: Timing
    ) -> None:
        self._config = config
        self._backlog = backlog
        self._fleet = fleet
        self._tables = tables
        self._timing = timing

    def cap(self, request: Arrived, now: float) -> int:
        """The most rows of a batch that holds this request."""
        cap = self._backlog.cap(request.key, self._config.max_batch_size, now)
        limit = request.batch_limit
        return cap if limit is None or limit == 1 else min(cap, max(1, limit))

    def seconds(self, profile: str, request: Arrived, rows: int, now: float) -> float | None:
        """Of a batch of `rows` rows like this request, sliced by its cap; None = unknown."""
        curve = self._tables.table(profile, request.key, request.length).curve
        return None if curve is None else sliced(curve, rows, self.cap(request, now))

    def is_infeasible(self, request: Arrived, now: float) -> bool:
        """On the word of given tables, even if every worker were idle."""
        for profile in self._fleet.profiles:
            table = self._tables.peek(profile, request.key, request.length)
            if table is None or not self._is_too_slow(table, request, now):
                return False
        return bool(self._fleet.profiles)

    def _is_too_slow(self, table: Table, request: Arrived, now: float) -> bool:
        """Whether the table was given and says so, without the safety factor: that is learned and may be wrong."""
        given = table.given
        if given is None:
            return False
        if request.rows == 1:  # nearly always: no cap to look up
            seconds = given.seconds(1)
        else:
            seconds = sliced(given, request.rows, self.cap(request, now))
        return seconds > request.deadline - self._config.reply_s - now

    def plan(self, worker: Worker, start: float, now: float) -> Plan:
        """For a batch that begins at `start`: now, or later if it is bound in advance."""
        hopeless: list[Waiting] = []
        held_until = inf
        for state in self._by_urgency(worker.profile, now):
            table = self._tables.table(worker.profile, state.key, state.length)
            if table.grounded:
                hopeless += self._pop_all_hopeless(state, start, now)
            if not state.queue:
                continue
            until = self.hold_until(state, worker, start, now)
            if until > start:
                held_until = min(held_until, until)
            else:
                members = self._take(state, table, worker, start, now, hopeless)
                return Plan(members, hopeless)
        return self._probe(worker, hopeless, now) if held_until == inf else Plan([], hopeless, held_until)

    def hold_until(self, state: KeyState, worker: Worker, start: float, now: float) -> float:
        """A time up to `start` means that the key's batch may go to this worker."""
        if self._fleet.in_step:
            return self._timing.hold_until(state, worker, self.cap(state.queue.head.request, now), start, now)
        if len(self._fleet) > 1 or not state.arrivals.in_clusters:
            return -inf
        return self._timing.cluster_ends_at(state, worker, self.cap(state.queue.head.request, now), start)

    # Which key

    def _by_urgency(self, profile: str, now: float) -> Iterator[KeyState]:
        """The keys that wait, the most urgent first; nearly always that one is all that is asked for."""
        states = list(self._backlog.waiting.values())
        if len(states) > 1:
            known = (profile, self._tables.version)
            for state in states:
                if state.urgency is None or state.urgency_of != known:
                    state.urgency, state.urgency_of = self._urgency(state, profile, now), known
            first = min(states, key=_urgency)
            yield first
            states = sorted([state for state in states if state is not first], key=_urgency)
        yield from states

    def _urgency(self, state: KeyState, profile: str, now: float) -> Urgency:
        """Priority, then right edge: the latest start that meets the head's deadline; ties to more rows per second."""
        head = state.queue.head
        due = head.deadline if head.deadline < inf else head.arrived_at + PATIENCE_S
        table = self._tables.peek(profile, state.key, state.length)
        if table is None or table.curve is None:
            return head.priority, due, 0.0
        rows = batch_target(state.queue, table, self.cap(head.request, now))
        return head.priority, due - table.curve.seconds(rows), -table.curve.rate(rows)

    # Who has no hope

    def _pop_all_hopeless(self, state: KeyState, at: float, now: float) -> list[Waiting]:
        lanes = list(state.queue.lanes)
        return [waiting for lane in lanes for waiting in self._pop_hopeless(state, lane, len(lane.entries), at, now)]

    def _pop_hopeless(self, state: KeyState, lane: Lane, count: int, at: float, now: float) -> list[Waiting]:
        """Of the first `count` those at the head who would miss their deadlines even if they started alone at the time
        `at`, on the fastest kind of worker."""
        entries = lane.entries
        due = at + self._need_s(entries[0].request, now)
        if due <= entries[0].deadline:
            return []
        if lane.rows == len(entries):
            end = bisect_left(entries, due, 1, count, key=deadline_of)
        else:
            end = 1
            while end < count and at + self._need_s(entries[end].request, now) > entries[end].deadline:
                end += 1
        popped = state.queue.take(lane, end)
        self._backlog.left(state, sum([waiting.request.rows for waiting in popped]))
        return popped

    def _need_s(self, request: Arrived, now: float) -> float:
        """From the start of a batch of this request alone until its answer is there."""
        seconds = [self.seconds(profile, request, request.rows, now) or 0.0 for profile in self._fleet.profiles]
        return min(seconds) + self._config.reply_s

    def _next_start(self, worker: Worker, members: list[Waiting], start: float, now: float) -> float:
        """When the first worker is free again once `worker` has got these members."""
        rows = sum([waiting.request.rows for waiting in members])
        free_at = start + (self.seconds(worker.profile, members[0].request, rows, now) or 0.0)
        for other in self._fleet:
            if other is not worker and not other.draining:
                free_at = min(free_at, now if other.free_at == inf else max(now, other.free_at))
        return free_at

    def _probe(self, worker: Worker, hopeless: list[Waiting], now: float) -> Plan:
        """A learned table or factor may be wrong, and would stay so if its word kept an idle worker idle: one of the
        hopeless is served after all, the one with most time, at most one per time that it takes."""
        if worker.batches or not hopeless:
            return Plan([], hopeless)
        best = max(hopeless, key=lambda waiting: waiting.deadline)
        table = self._tables.table(worker.profile, best.request.key, best.request.length)
        if now < table.probe_at or best.deadline <= now or self._is_too_slow(table, best.request, now):
            return Plan([], hopeless)
        table.probe_at = now + self._need_s(best.request, now)
        return Plan([best], [waiting for waiting in hopeless if waiting is not best])

    # Which batch

    def _take(
        self, state: KeyState, table: Table, worker: Worker, start: float, now: float, hopeless: list[Waiting]
    ) -> list[Waiting]:
        """The members of the batch, which leave the queue. Heads that it leaves behind may become `hopeless` by it."""
        if state.length and table.grounded:
            members = self._take_mixed(state, table, worker, start, now, hopeless)
            if members:
                return members
        queue = state.queue
        before = queue.rows
        choice = self._choose(queue, table, (state,), worker, start, now)
        members = self._gather(queue, table, choice, start)
        self._backlog.left(state, before - queue.rows)
        if choice.skip:
            free_at = self._next_start(worker, members, start, now)
            hopeless += self._pop_hopeless(state, queue.lanes[0], choice.skip, free_at, now)
        return members

    def _take_mixed(
        self, state: KeyState, table: Table, worker: Worker, start: float, now: float, hopeless: list[Waiting]
    ) -> list[Waiting]:
        """Of several lengths, the longest first; none if they are better served apart."""
        parts: list[Part] = []
        for other in nsmallest(LENGTHS_MAX, self._backlog.other_lengths(state), key=_head):
            part = Part(other, self._tables.table(worker.profile, other.key, other.length))
            if part.table.grounded:
                hopeless += self._pop_all_hopeless(other, start, now)
                if other.queue:
                    parts.append(part)
        mix = Mix(Part(state, table), parts, self.cap(state.queue.head.request, now))
        if not mix.queue:
            return []
        choice = self._choose(mix.queue, mix.table, [part.state for part in mix.parts], worker, start, now)
        lane = mix.queue.lanes[0]
        skipped = lane.entries[: choice.skip]
        members = self._gather(mix.queue, mix.table, choice, start)
        if not mix.pays(members):
            return []
        for part in mix.parts:
            self._leave(part.state, [waiting for waiting in members if waiting.request.length == part.state.length])
        members.sort(key=_length, reverse=True)
        if skipped:
            free_at = self._next_start(worker, members, start, now)
            for part in mix.parts:
                hopeless += self._pop_skipped(part.state, skipped, free_at, now)
        return members

    def _leave(self, state: KeyState, members: list[Waiting]) -> None:
        """Those who leave a lane were neighbours in it: in a mix as here they are in order."""
        before = state.queue.rows
        for _, going in groupby(members, _priority):
            state.queue.leave(list(going))
        if before > state.queue.rows:
            self._backlog.left(state, before - state.queue.rows)

    def _pop_skipped(self, state: KeyState, skipped: list[Waiting], free_at: float, now: float) -> list[Waiting]:
        """Of these heads of a mix those that wait here and have no hope any more."""
        count = sum([waiting.request.length == state.length for waiting in skipped])
        lane = next((lane for lane in state.queue.lanes if lane.priority == skipped[0].priority), None)
        return self._pop_hopeless(state, lane, count, free_at, now) if count and lane else []

    def _choose(
        self, queue: KeyQueue, table: Table, states: Sequence[KeyState], worker: Worker, start: float, now: float
    ) -> Choice:
        cap = self.cap(queue.head.request, now)
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
        choice = choose(queue, table, cap, at, self._outlook(states, table, worker, start, now))
        first = queue.lanes[0].entries[choice.skip]
        if choice.skip and start + self._need_s(first.request, now) > first.deadline:  # of more rows than the batch
            return fit(queue, table, rows, slack_s)
        return choice

    def _outlook(self, states: Sequence[KeyState], table: Table, worker: Worker, start: float, now: float) -> Outlook:
        budget_s = states[0].arrivals.budget_s() if self._config.budget_s is None else self._config.budget_s
        curve = table.curve
        if curve is not None:
            longest_s = curve.seconds(self._config.max_batch_size)
            for state in states:
                state.arrivals.resize(max(min(budget_s, WINDOW_BATCHES * longest_s), 1e-6), now)
        rate = sum([state.arrivals.lasting(now) for state in states])
        if not self._fleet.in_step:
            return Outlook(CERTAIN * rate, budget_s)
        others = self._fleet.others_free_in(worker, start)
        return Outlook(CERTAIN_POOL * rate, budget_s, others)

    def _gather(self, queue: KeyQueue, table: Table, choice: Choice, start: float) -> list[Waiting]:
        """In order; the first always goes, lower lanes fill the room that is left if their deadlines allow."""
        rows = choice.rows
        first = queue.lanes[0].entries[choice.skip]
        if first.runs_alone or first.request.rows >= rows:
            return queue.take(queue.lanes[0], choice.skip + 1, choice.skip)
        members: list[Waiting] = []
        taken, limit = 0, rows
        ends_at = -inf if table.curve is None else start + table.curve.seconds(rows) + self._config.reply_s
        for lane in list(queue.lanes):
            begin = end = bisect_left(lane.entries, ends_at, key=deadline_of) if members else choice.skip
            for waiting in lane.entries[begin : begin + limit - taken]:
                request = waiting.request
                allowed = limit if request.batch_limit is None else min(limit, request.batch_limit)
                if taken + request.rows > allowed or waiting.runs_alone:
                    break
                taken, limit = taken + request.rows, allowed
                end += 1
            members += queue.take(lane, end, begin)
            if taken >= limit:
                break
        return members


def _urgency(state: KeyState) -> Urgency:
    assert state.urgency is not None
    return state.urgency


def _head(state: KeyState) -> Waiting:
    return state.queue.head


def _length(waiting: Waiting) -> int:
    return waiting.request.length


def _priority(waiting: Waiting) -> int:
    return waiting.priority
