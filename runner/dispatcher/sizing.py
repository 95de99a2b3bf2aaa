"""WHAT: how many rows the next batch of a queue takes, and how many heads it leaves behind to be large enough.

Serving the oldest feasible head with what it allows collapses beyond capacity; dropping heads until everything fits
keeps batches large but drops too much in bursts. So the few sensible choices in between are compared by looking ahead.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf, nextafter

from paceline.runner.dispatcher.curve import INSTANT_S, Curve
from paceline.runner.dispatcher.look_ahead import LookAhead
from paceline.runner.dispatcher.queue import KeyQueue, Lane, Waiting, deadline_of
from paceline.runner.dispatcher.table_book import Table

GROWTH = 1.25  # two choices differ by at least this much in rows
CHOICES_MAX = 8
HORIZON = 3  # the look-ahead sees so many batches of the queue one by one


@dataclass(frozen=True, slots=True)
class Choice:
    """Skip so many heads of the most urgent lane, then aim at a batch of `rows`."""

    skip: int
    rows: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected to arrive: rows per second, each with this time from arrival to deadline. `others`: seconds from
    the start of the batch until each of the other workers is free."""

    rate: float
    budget_s: float
    others: tuple[float, ...] = ()


def batch_target(queue: KeyQueue, table: Table, cap: int) -> int:
    """The rows to aim at when no deadline is tight: what waits, up to the size with the most rows per second."""
    limit = int(min(cap, table.rows_allowed))
    curve = table.curve
    return min(queue.rows, limit if curve is None else curve.best_rows(limit))


def is_simple(queue: KeyQueue, table: Table, rows: int, slack_s: float) -> bool:
    """Whether nothing is tight and no smaller size is more efficient: the common case, without alternatives."""
    curve = table.curve
    if curve is None or queue.head.runs_alone:
        return True
    return curve.seconds(rows) <= slack_s and curve.best_rows(rows) == rows


def fit(queue: KeyQueue, table: Table, rows: int, slack_s: float) -> Choice:
    """No head is left behind: the batch is cut to what the first one's deadline allows."""
    return Choice(0, rows if table.curve is None else max(1, table.curve.rows_within(slack_s, rows)))


def choose(queue: KeyQueue, table: Table, cap: int, at: float, outlook: Outlook) -> Choice:
    """The best of the sensible choices for the only free worker. `at`: start of the batch plus the way back.

    Each is rolled forward; the winner has the most rows served less the price of the time taken. The price, rows per
    second, is the lower of what arrives and of what the best choice yields: fair below and above capacity.
    """
    curve = table.curve
    assert curve is not None
    lane = queue.lanes[0]
    target = curve.best_rows(int(min(cap, table.rows_allowed)))
    choices = _choices(lane.entries, lane.rows, curve, target, at, table)
    choice, position = choices[0]
    if len(choices) > 1:
        ahead = _look_ahead(lane, choices[-1][1] + HORIZON * target, curve, target, at, outlook)
        choice, position = _best(choices, ahead, outlook.rate)
    if position + choice.rows < lane.rows:
        return choice
    slack_s = lane.entries[choice.skip].deadline - at  # lower lanes fill what room it leaves
    return Choice(choice.skip, max(1, curve.rows_within(slack_s, min(queue.rows - position, target))))


def _look_ahead(lane: Lane, rows: int, curve: Curve, target: int, at: float, outlook: Outlook) -> LookAhead:
    entries = lane.entries[:rows]
    if lane.rows == len(lane.entries):
        slacks = [waiting.deadline - at for waiting in entries]
    else:
        slacks = [waiting.deadline - at for waiting in entries for _ in range(waiting.request.rows)]
    return LookAhead(slacks, lane.rows, curve, target, outlook.rate, outlook.budget_s, outlook.others)


def _best(choices: list[tuple[Choice, int]], ahead: LookAhead, rate: float) -> tuple[Choice, int]:
    rolled = [(choice, position, ahead.roll(position, choice.rows)) for choice, position in choices]
    price = min(rate, max(result.rows / max(result.seconds, INSTANT_S) for _, _, result in rolled))
    choice, position, _ = max(rolled, key=lambda option: option[2].rows - price * option[2].seconds)
    return choice, position


def _choices(
    entries: Sequence[Waiting], rows: int, curve: Curve, target: int, at: float, table: Table
) -> list[tuple[Choice, int]]:
    """From no head skipped to full fit, each with the position of its first row. A drop must buy a larger batch."""
    offsets = None if rows == len(entries) else list(accumulate((w.request.rows for w in entries), initial=0))
    full = _full_fit(entries, offsets, rows, curve, at, int(min(target, table.rows_measured))) if table.grounded else 0
    choices: list[tuple[Choice, int]] = []
    index = 0
    while True:
        position = index if offsets is None else offsets[index]
        rest = min(rows - position, target)
        size = max(curve.rows_within(entries[index].deadline - at, rest), 1)
        choices.append((Choice(index, size), position))
        edge = curve.best_rows(size)
        if edge < size:
            choices.append((Choice(index, edge), position))
        if index == full:
            return choices
        wanted = min(max(size + 1, int(size * GROWTH)), rest)
        later = nextafter(entries[index].deadline, inf)  # of equals nobody is skipped alone
        enough = max(at + curve.seconds(wanted), later)
        index = full if len(choices) >= CHOICES_MAX else bisect_left(entries, enough, index + 1, full, key=deadline_of)


def _full_fit(
    entries: Sequence[Waiting], offsets: Sequence[int] | None, rows: int, curve: Curve, at: float, target: int
) -> int:
    """The fewest heads to skip until all that is left, up to `target` rows, meets the first one's deadline."""
    low, high = -1, len(entries) - 1  # high fits, or is the last resort
    plenty = rows - target
    if offsets is None and plenty > 0:  # up to this index the target is left to be served, so only the deadline counts
        first = bisect_left(entries, at + curve.seconds(target), 0, plenty + 1, key=deadline_of)
        low, high = (first - 1, first) if first <= plenty else (plenty, high)
    while high - low > 1:
        middle = (low + high) // 2
        rest = rows - (middle if offsets is None else offsets[middle])
        if at + curve.seconds(min(rest, target)) <= entries[middle].deadline:
            high = middle
        else:
            low = middle
    # equals stay first come, first served
    return bisect_left(entries, entries[high].deadline, 0, high, key=deadline_of)
