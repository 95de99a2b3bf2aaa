"""WHEN: until when the queue of a key is held back from a free worker, so that its batch can grow.

One worker: the next batch collects for free while it computes, and waiting on top only lengthens the cycle. The only
exception are arrivals in clusters, where one predicts the next: a moment after the first most of the others are there,
and a batch that went with the first alone would make them wait for all of it. Where most gaps are short against their
mean, a batch goes once such a gap has passed without an arrival. By pure chance gaps are never so, and alone neither.

Several workers. A batch of b rows occupies a worker for L[b] seconds, N workers can give rows away at N b/L[b] per
second, and a pool that serves at once pays the fixed part of L for each row that comes while one is idle, until all are
in step and a request may wait for a whole batch before its own. Evenly spaced, the next worker is free L[b]/N later:

- The least b that carries the load, N b/L[b] >= need, is enough; more would only add delay. This is M, the control
  limit. That the best rule has this form, serve as soon as a level is reached, is shown by Deb and Serfozo, Optimal
  control of batch service queues, Advances in Applied Probability 5 (1973). 1 at low load: nobody waits for a timer.
- need = rate + max(rate/10, sqrt(rate/S)): what comes within a budget S varies by the square root of its number, so
  that much room is kept (the square-root staffing rule: Halfin and Whitt, Operations Research 29, 1981).
- Who has just missed a batch waits for the next and then for his own: L[b]/N + L[b] <= S. The largest b for which
  this holds, T, the stagger target, is enough even where the load asks for more.
- A head that could not be served with one row more, at d - L[q+1] - o, waits no longer: the latest moment of deferred
  batch scheduling (Chen et al., Symphony, 2023), here the bound of a hold, not its aim. Where there is no deadline, or
  a far one, the bound is two of the longest batches: longer never paid in simulation.

So hold while q < min(M, T), up to that moment, as long as another worker computes: when none does there is nobody to
keep in step with, and a request that comes alone after load has stopped must not pay for it. Workers of several kinds
count with their own L: for N b/L[b] put the sum of b/L[b] over all, for L[b]/N one over the sum of 1/L[b]. Of several
keys each has what the others leave of the workers.
"""

from math import inf, sqrt

from paceline.runner.dispatcher.backlog import KeyState
from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.curve import Curve
from paceline.runner.dispatcher.fleet import Fleet, Worker
from paceline.runner.dispatcher.pace import Crew, Hold, Pace, sizes_to, stagger_target, supply
from paceline.runner.dispatcher.shares import Shares
from paceline.runner.dispatcher.table_book import Table, TableBook

WINDOW_BATCHES = 10  # arrivals are counted over, and a budget counts as, at most so many of the longest batches
PATIENCE_BATCHES = (
    2  # a head without deadline, or with a later one, is as good as due so many of them after its arrival
)
HEADROOM = 0.1
SHARE_WINDOWS = 2  # a key that nobody asks about any more takes its part of the workers for so long
STEP_MIN = 1.75  # workers that must be left to a key: with fewer, as with one, eager was better in simulation
WINDOW_S_MIN = 1e-6
CLUSTER_WAIT = 0.5  # of the time of a batch of one row: no longer without an arrival
PACES_MAX = 16  # kept per key: as many as a mix of budgets may need at once
ROUNDING_S = 1e-6  # a batch that is held to the last moment must not miss it by the rounding of a sum


class Timing:
    """Reads fleet, tables and queues; what it derives from them it keeps with the key."""

    def __init__(self, config: DispatcherConfig, fleet: Fleet, tables: TableBook) -> None:
        self._config = config
        self._fleet = fleet
        self._tables = tables
        self._shares = Shares(config.keys_max)

    def hold_until(self, state: KeyState, worker: Worker, cap: int, start: float, now: float) -> float:
        """Until when the queue is held back from this worker, for a batch that could begin at `start`; a time up to
        `start` means: dispatch."""
        queue, hold = state.queue, state.hold
        if hold is None or hold.changes != self._fleet.changes or queue.rows >= hold.level:
            hold = state.hold = self._hold(state, worker, cap, now)
        head, rows = queue.head, queue.rows
        if hold is None or rows >= hold.level or head.runs_alone:
            return -inf
        due = queue.earliest_deadline() if len(queue.lanes) > 1 else head.deadline
        due = min(due, head.arrived_at + hold.patience_s)
        until = due - self._config.reply_s - hold.curve.seconds(rows + 1) - ROUNDING_S
        return until if until > start else -inf

    def cluster_ends_at(self, state: KeyState, worker: Worker, cap: int, start: float) -> float:
        """For a single worker: until when the rest of a cluster may be waited for."""
        queue = state.queue
        table = self._tables.table(worker.profile, state.key, state.length)
        curve = table.curve
        if curve is None or not table.grounded or worker.batches or queue.head.runs_alone:
            return -inf
        until = state.arrivals.cluster_ends_at(CLUSTER_WAIT * curve.seconds(1))
        if until <= start or queue.rows >= curve.best_rows(int(min(cap, table.rows_allowed))):
            return -inf
        due = queue.earliest_deadline() - self._config.reply_s - curve.seconds(queue.rows + 1)
        return min(until, due - ROUNDING_S)

    def _hold(self, state: KeyState, worker: Worker, cap: int, now: float) -> Hold | None:
        """None: too little is known."""
        table = self._tables.table(worker.profile, state.key, state.length)
        if table.curve is None or not table.grounded:
            return None
        pace = self._pace(state, worker.profile, table, cap, now)
        wanted = need(state.arrivals.demand(now), pace.window_s)
        until = now + SHARE_WINDOWS * pace.window_s
        room = self._shares.room(state.name, wanted / pace.supply[-1], until, now)
        if room == 1.0:
            level = pace.level(wanted)
        elif room * self._fleet.size < STEP_MIN:
            level = 1
        else:
            target = self._target(state, worker.profile, pace, room)
            level = min(target, pace.level(wanted / room))
        return Hold(table.curve, pace.patience_s, level, self._fleet.changes)

    def _pace(self, state: KeyState, profile: str, table: Table, cap: int, now: float) -> Pace:
        """Sets the window in which arrivals are counted, too."""
        budget_s = self._config.budget_s
        if budget_s is None:
            budget_s = state.arrivals.budget_s()
        limit = int(min(cap, table.rows_allowed))
        case = (profile, limit, budget_s, self._tables.version, self._fleet.version)
        pace = state.paces.get(case)
        if pace is None:
            if len(state.paces) >= PACES_MAX:
                state.paces.clear()
            pace = state.paces[case] = self._derive(state, profile, limit, budget_s)
        if state.arrivals.window_s != pace.window_s:
            state.arrivals.resize(pace.window_s, now)
        return pace

    def _derive(self, state: KeyState, profile: str, limit: int, budget_s: float) -> Pace:
        own = self._curve(profile, state)
        assert own is not None
        config = self._config
        longest_s = own.seconds(config.max_batch_size)
        budget_s = min(budget_s, WINDOW_BATCHES * longest_s)
        crew = self._crew(state)
        target = stagger_target(own, crew, budget_s - config.reply_s, own.best_rows(limit))
        sizes = sizes_to(target, [*(rows for rows, _ in own.points), *config.buckets])
        return Pace(max(budget_s, WINDOW_S_MIN), PATIENCE_BATCHES * longest_s, sizes, supply(crew, sizes))

    def _target(self, state: KeyState, profile: str, pace: Pace, room: float) -> int:
        """The stagger target of a key to which only a part of the workers is left."""
        own = self._curve(profile, state)
        assert own is not None
        crew = [(curve, count * room) for curve, count in self._crew(state)]
        return stagger_target(own, crew, pace.window_s - self._config.reply_s, pace.sizes[-1])

    def _crew(self, state: KeyState) -> Crew:
        curves = [(self._curve(profile, state), count) for profile, count in self._fleet.crew.items()]
        return [(curve, count) for curve, count in curves if curve is not None]

    def _curve(self, profile: str, state: KeyState) -> Curve | None:
        table = self._tables.peek(profile, state.key, state.length)
        return None if table is None else table.curve


def need(rate: float, window_s: float) -> float:
    """Rows per second that the workers should be able to give away: the rate with headroom for its chance."""
    return rate + max(HEADROOM * rate, sqrt(rate / window_s))
