"""What a host tells of its state, and how seldom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest

from paceline.protocol import messages
from paceline.protocol.forecast import BacklogPoint
from paceline.protocol.outlook import Outlook
from paceline.protocol.tensor import Buffer
from paceline.runner.bulletin import IDLE_S, INTERVAL_S, TIME_NS_MAX, Bulletin, to_wire
from paceline.runner.dispatcher import Forecast, KeyForecast, WorkerForecast


class Port:
    """Remembers who was sent something."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def send(self, origin: bytes, parts: Sequence[Buffer]) -> bool:
        self.told.append(origin)
        return True


ALICE, BOB = b"a" * 16, b"b" * 16
KEY = KeyForecast(("m", b"k"), "cpu", 5, 64, ((1, 0.1), (64, 0.8)), False, 80.0)
BUSY = Forecast(2.0, (WorkerForecast(0, "cpu", 2.5),), 5, 65_536, 80.0, (KEY,), ((0, 9.0, 5),))


def test_all_that_admission_needs_goes_onto_the_wire() -> None:
    wire = to_wire(BUSY)
    assert (wire.at_ns, wire.rows_queued, wire.rows_per_s) == (2_000_000_000, 5, 80.0)
    assert wire.free_at_ns == (2_500_000_000,)
    assert wire.backlog == (BacklogPoint(0, 9_000_000_000, 5),)
    (table,) = wire.tables
    assert (table.method, table.key, table.length, table.known, table.rows_max) == ("m", b"k", 0, False, 64)
    assert (table.sizes, table.seconds) == ((1, 64), (0.1, 0.8))
    assert messages.decode(messages.encode(wire)) == wire


def test_a_worker_that_is_as_good_as_idle_or_of_which_nothing_is_known_frees_at_0() -> None:
    times = (1.9, 2.0 + IDLE_S, inf, 2.1)
    workers = tuple(WorkerForecast(number, "cpu", free_at) for number, free_at in enumerate(times))
    assert to_wire(replace(BUSY, workers=workers)).free_at_ns == (0, 0, 0, 2_100_000_000)


def test_a_deadline_that_never_comes_is_the_latest_of_all() -> None:
    backlog = ((0, -1.0, 1), (0, inf, 2))
    assert [point.deadline_ns for point in to_wire(replace(BUSY, backlog=backlog)).backlog] == [0, TIME_NS_MAX]


def test_a_key_has_the_table_of_its_fastest_workers_and_none_where_nothing_is_known() -> None:
    slow = replace(KEY, profile="old", points=((1, 0.5),), rows_per_s=2.0)
    unknown = replace(KEY, key=("m", b"new"), rows_queued=9, points=(), rows_per_s=0.0)
    most = replace(KEY, key=("m", b"most"), rows_queued=9)
    wire = to_wire(replace(BUSY, keys=(slow, KEY, unknown, most)))
    assert [(table.key, table.seconds) for table in wire.tables] == [(b"most", (0.1, 0.8)), (b"k", (0.1, 0.8))]


def test_a_given_table_is_told_once_of_each_method() -> None:
    keys = tuple(replace(KEY, key=(method, bytes(2)), known=True) for method in ("m", "m", "n"))
    assert [table.method for table in to_wire(replace(BUSY, keys=keys)).tables] == ["m", "n"]


def test_each_length_has_its_learned_table_and_a_given_one_holds_for_all() -> None:
    lengths = tuple(replace(KEY, length=length, rows_queued=length) for length in (8, 64))
    wire = to_wire(replace(BUSY, keys=lengths))
    assert [(table.key, table.length) for table in wire.tables] == [(b"k", 64), (b"k", 8)]
    given = to_wire(replace(BUSY, keys=tuple(replace(key, known=True) for key in lengths)))
    assert [table.length for table in given.tables] == [0]


def test_admission_finds_the_table_of_a_length() -> None:
    """The most urgent goes when a batch ends at 2.5: with length 8 it is done by 2.6, with 64 by 3.3."""
    short = replace(KEY, length=8, rows_queued=2, points=((1, 0.1),))
    long = replace(KEY, length=64, rows_queued=0, points=((1, 0.8),))
    outlook = Outlook(reply_s=0.0)
    outlook.hear(to_wire(replace(BUSY, keys=(short, long), rows_queued=2, backlog=((0, 9.0, 2),))))
    late = [outlook.late_s(2.0, ("m", b"k", length), 1, -1, 2.7, 0) for length in (8, 64)]
    assert late == [0.0, pytest.approx(0.6)]


def test_a_long_table_is_thinned_and_keeps_both_ends() -> None:
    points = tuple((rows, rows / 100) for rows in range(1, 257))
    (table,) = to_wire(replace(BUSY, keys=(replace(KEY, points=points),))).tables
    assert len(table.sizes) == 16
    assert (table.sizes[0], table.sizes[-1]) == (1, 256)


@pytest.mark.parametrize(
    ("change", "is_news"),
    [
        ({"at": 2.001}, False),
        ({"drain_rate": 81.0}, False),
        ({"keys": (replace(KEY, points=((1, 0.104), (64, 0.8))),)}, False),
        ({"drain_rate": 90.0}, True),
        ({"keys": (replace(KEY, points=((1, 0.11), (64, 0.8))),)}, True),
        ({"keys": (replace(KEY, rows_max=32),)}, True),
        ({"keys": ()}, True),
        ({"rows_queued": 6}, True),
        ({"backlog": ((0, 9.1, 5),)}, True),
        ({"workers": (WorkerForecast(0, "cpu", 2.6),)}, True),
    ],
)
def test_only_news_goes_out(change: dict[str, object], is_news: bool) -> None:
    port = Port()
    bulletin = Bulletin(port.send)
    for number, forecast in enumerate((BUSY, replace(BUSY, **change))):  # type: ignore[arg-type]
        bulletin.want()
        bulletin.publish(lambda now, keys_max, forecast=forecast: forecast, {ALICE}, number * INTERVAL_S)  # type: ignore[misc]
    assert len(port.told) == 1 + is_news


def test_a_newcomer_hears_what_the_others_know() -> None:
    port = Port()
    bulletin = Bulletin(port.send)
    for number, origins in enumerate(({ALICE}, {ALICE, BOB})):
        bulletin.want()
        bulletin.publish(lambda now, keys_max: BUSY, origins, number * INTERVAL_S)
    assert port.told == [ALICE, BOB]
