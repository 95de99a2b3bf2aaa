"""The gate of a runner: who may be sent to its hosts, and when to come back who may not. Pure; asked by Hosts.

A given latency table is believed: a budget that not even an idle worker could keep is wrong input. All else depends on
the hosts' Forecasts (outlook.py): who is late at each of them is refused, but for a probe now and then.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Final

from paceline.protocol.errors import InfeasibleNow, InvalidParameter
from paceline.protocol.forecast import Forecast, KeyTable
from paceline.protocol.messages import InferItem
from paceline.protocol.outlook import Outlook
from paceline.protocol.spec import RunnerSpec
from paceline.protocol.timetable import Timetable

RETRY_AFTER_MIN_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 30.0


class Gate:
    """Knows the hosts that take requests."""

    def __init__(self, runner: RunnerSpec) -> None:
        self._name = runner.name
        self._reply_s = runner.reply_s
        self._buckets = runner.buckets
        self._given = _given_timetable(runner)
        self._outlooks: dict[bytes, Outlook] = {}

    def open(self, incarnation: bytes) -> None:
        """A host takes requests, for the first time or again; one that is open is left as it is."""
        if incarnation not in self._outlooks:
            self._outlooks[incarnation] = Outlook(self._reply_s)

    def close(self, incarnation: bytes) -> None:
        """A host takes no more requests, for now or for ever; what it said is forgotten."""
        self._outlooks.pop(incarnation, None)

    def hear(self, incarnation: bytes, forecast: Forecast) -> None:
        outlook = self._outlooks.get(incarnation)
        if outlook is not None:
            outlook.hear(forecast)

    def note_sent(self, incarnation: bytes, items: Iterable[InferItem], now: float) -> None:
        """These went to that host."""
        outlook = self._outlooks.get(incarnation)
        if outlook is not None and outlook.refuses(now):
            for item in items:
                outlook.note(now, item.priority, item.deadline_ns / 1e9, item.rows)

    def check_budget(self, budget_s: float, rows: int) -> None:
        """Raise InvalidParameter if an idle worker could not keep it, on the word of a given table."""
        given = self._given
        if given is None:
            return
        takes_s = given.seconds(next((bucket for bucket in self._buckets if bucket >= rows), rows))
        if budget_s >= takes_s + self._reply_s:
            return
        # There and back: a request needs about as long to get to the worker as its answer needs to come from there.
        works_ms = ceil((takes_s + 2 * self._reply_s) * 1e4 - 1e-6) / 10
        raise InvalidParameter(
            f"the budget is {budget_s * 1e3:g} ms; {rows} row(s) of {self._name!r} take {takes_s * 1e3:g} ms alone, "
            f"by its latency table; allow {works_ms:g} ms or more"
        )

    def check(self, item: InferItem, pending_rows: int, now: float) -> bool:
        """Raise InfeasibleNow if `item` would be late at each host, behind `pending_rows` that wait in this process.
        True = it would be, but goes as a probe."""
        outlooks = self._outlooks
        if not outlooks:
            return False
        name, deadline = (item.method, item.key, item.length), item.deadline_ns / 1e9
        pending_rows //= len(outlooks)
        least_s = RETRY_AFTER_MAX_S
        for outlook in outlooks.values():
            late_s = outlook.late_s(now, name, item.rows, item.priority, deadline, pending_rows)
            if late_s <= 0.0:
                return False
            least_s = min(least_s, late_s)
        if any(outlook.lets_probe(now, name) for outlook in outlooks.values()):
            return True
        raise InfeasibleNow(
            f"the request would be done {least_s * 1e3:.3g} ms after its deadline under the present load; retry after "
            "that time or allow more",
            retry_after_s=least_s,
        )

    def drain_s(self, pending_rows: int) -> float:
        """How long all that waits takes, here and at the hosts, at the rate that they say they drain at."""
        rate = sum([outlook.rows_per_s for outlook in self._outlooks.values()])
        rows = sum([outlook.rows_queued for outlook in self._outlooks.values()]) + pending_rows
        return min(max(rows / rate, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S) if rate > 0 else RETRY_AFTER_MIN_S


def _given_timetable(runner: RunnerSpec) -> Timetable | None:
    table = sorted(runner.latency_table)
    if not table:
        return None
    sizes = tuple([rows for rows, _ in table])
    return Timetable(KeyTable("", b"", 0, True, runner.max_batch_size, sizes, tuple([ms / 1e3 for _, ms in table])))
