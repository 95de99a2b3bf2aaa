"""What becomes of a request at one host, with numbers that were worked out by hand.

One row takes 0.1 s, a full batch of 4 takes 0.2 s. The Forecast is of the time 100.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from paceline.protocol.forecast import BacklogPoint, Forecast, KeyTable
from paceline.protocol.outlook import GROUPS_MAX, SENT_MAX, STALE_S, Outlook

AT = 100.0
TABLE = KeyTable("m", b"k", 0, False, 4, (1, 4), (0.1, 0.2))
NAME = ("m", b"k", 0)


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def forecast(free_at: tuple[float, ...], *backlog: tuple[int, float, int], **changes: object) -> Forecast:
    """`backlog`: (priority, deadline, rows at least as urgent)."""
    points = tuple(BacklogPoint(priority, ns(deadline), rows) for priority, deadline, rows in backlog)
    told = Forecast(ns(AT), points[-1].rows if points else 0, 20.0, tuple(map(ns, free_at)), (TABLE,), points)
    return replace(told, **changes)  # type: ignore[arg-type]


def outlook(told: Forecast, reply_s: float = 0.0) -> Outlook:
    found = Outlook(reply_s)
    found.hear(told)
    return found


def late(
    found: Outlook,
    deadline: float,
    *,
    now: float = AT,
    rows: int = 1,
    priority: int = 0,
    name: tuple[str, bytes, int] = NAME,
    pending: int = 0,
) -> float:
    return found.late_s(now, name, rows, priority, deadline, pending)


def test_a_busy_worker_is_waited_for() -> None:
    found = outlook(forecast((100.3,)))
    assert late(found, 100.45) == 0.0
    assert late(found, 100.35) == pytest.approx(0.05)  # 100.3 + 0.1


def test_the_way_back_counts() -> None:
    assert late(outlook(forecast((100.3,)), reply_s=0.04), 100.42) == pytest.approx(0.02)


def test_rows_that_wait_go_first_and_others_will_have_come_to_fill_the_batch() -> None:
    found = outlook(forecast((100.3,), (0, 110.0, 13)))
    assert late(found, 101.05, priority=1) == pytest.approx(0.05)  # 100.3 + 3 * 0.2 + 0.2
    assert late(found, 101.11, priority=1) == 0.0


def test_near_the_front_everybody_else_may_be_left_behind() -> None:
    found = outlook(forecast((100.3,), (0, 110.0, 11)))
    assert late(found, 100.35, priority=1) == pytest.approx(0.05)  # 100.3 + 0.1
    assert late(found, 100.41, priority=1) == 0.0


def test_several_workers_share_what_waits() -> None:
    # Batches of 4 start at 100.3, 100.4, 100.5 and so on; this one is in the seventh.
    found = outlook(forecast((100.4, 100.3), (0, 110.0, 24)))
    assert late(found, 101.05, priority=1) == pytest.approx(0.05)  # 100.9 + 0.2


def test_a_worker_that_frees_long_before_the_others_takes_what_waits() -> None:
    found = outlook(forecast((100.1, 109.0), (0, 110.0, 12)))
    assert late(found, 100.85, priority=1) == pytest.approx(0.05)  # 100.1 + 3 * 0.2 + 0.2


def test_more_urgent_requests_wait_for_less() -> None:
    found = outlook(forecast((100.3,), (0, 103.0, 12), (0, 110.0, 16), (1, 110.0, 24)))
    assert late(found, 100.35, priority=-1) == pytest.approx(0.05)  # 100.3 + 0.1
    assert late(found, 100.45, priority=0) == 0.0
    assert late(found, 101.05, priority=1) == pytest.approx(0.25)  # 100.3 + 4 * 0.2 + 0.2
    assert late(found, 101.0, priority=2) == pytest.approx(0.7)  # 100.3 + 6 * 0.2 + 0.2


def test_rows_that_a_full_batch_would_lose_are_before_nobody() -> None:
    """A full batch from 100.3 on is done at 100.5."""
    hopeless = outlook(forecast((100.3,), (0, 100.49, 4), (1, 110.0, 16)))
    assert late(hopeless, 101.05, priority=2) == pytest.approx(0.05)  # 100.3 + 3 * 0.2 + 0.2
    hopeful = outlook(forecast((100.3,), (0, 100.51, 4), (1, 110.0, 16)))
    assert late(hopeful, 101.25, priority=2) == pytest.approx(0.05)  # 100.3 + 4 * 0.2 + 0.2


def test_rows_far_behind_keep_their_place_while_they_have_a_chance() -> None:
    # The fourth batch starts at 100.9: with a deadline of 101.05 one row could be done alone, with 100.95 none.
    hopeful = outlook(forecast((100.3,), (-1, 110.0, 12), (0, 101.05, 16)))
    assert late(hopeful, 101.2) == pytest.approx(0.1)  # 101.1 + 0.2
    hopeless = outlook(forecast((100.3,), (-1, 110.0, 12), (0, 100.95, 16)))
    assert late(hopeless, 101.2) == 0.0  # 100.9 + 0.2


def test_what_was_sent_since_goes_first() -> None:
    found = outlook(forecast((100.3,)))
    assert late(found, 100.55) == 0.0
    for _ in range(3):
        found.note(100.1, 0, 105.0, 4)
    assert late(found, 101.05, now=100.1) == 0.0  # it is more urgent than they are
    assert late(found, 105.0, now=100.1) == 0.0
    assert late(found, 101.05, now=100.1, priority=1) == pytest.approx(0.05)  # 100.3 + 3 * 0.2 + 0.2


def test_what_was_sent_since_and_a_full_batch_would_lose_is_before_nobody() -> None:
    found = outlook(forecast((100.3,)))
    found.note(100.1, 0, 100.45, 4)
    found.note(100.1, 0, 105.0, 12)
    assert late(found, 101.05, now=100.1, priority=1) == pytest.approx(0.05)  # 100.3 + 3 * 0.2 + 0.2


def test_what_waits_in_this_process_goes_first() -> None:
    found = outlook(forecast((100.3,)))
    assert late(found, 101.05, pending=11) == 0.0
    assert late(found, 101.05, pending=12) == pytest.approx(0.05)


def test_workers_take_what_waits_as_time_goes_on() -> None:
    found = outlook(forecast((100.3,), (0, 110.0, 17)))
    # At 100.4 the first batch has started; 13 rows wait for 100.5.
    assert late(found, 101.25, now=100.4, priority=1) == pytest.approx(0.05)  # 100.5 + 3 * 0.2 + 0.2
    # At 100.95 the fourth has started, and the worker frees at 101.1.
    assert late(found, 101.15, now=100.95, priority=1) == pytest.approx(0.05)
    assert late(found, 101.21, now=100.95, priority=1) == 0.0


def test_a_worker_that_stood_idle_starts_with_what_comes() -> None:
    found = outlook(forecast((100.1,)))
    assert late(found, 100.15) == pytest.approx(0.05)
    found.note(100.5, 0, 101.0, 4)
    assert late(found, 100.75, now=100.55) == pytest.approx(0.05)  # 100.5 + 0.2 + 0.1


def test_many_rows_take_their_slices() -> None:
    found = outlook(forecast((100.3,)))
    assert late(found, 100.6, rows=8) == pytest.approx(0.1)  # 100.3 + 2 * 0.2
    assert late(found, 101.0, rows=40) == pytest.approx(1.3)  # 100.3 + 10 * 0.2
    assert late(found, 102.31, rows=40) == 0.0


def test_the_next_forecast_counts_what_was_sent_before_it() -> None:
    found = outlook(forecast((100.3,)))
    found.note(100.01, 0, 105.0, 4)
    found.note(100.03, 0, 105.0, 8)
    found.hear(forecast((100.3,), (0, 105.0, 4), at_ns=ns(100.02)))
    # 4 rows of the Forecast and 8 sent since: 100.3 + 3 * 0.2 + 0.2.
    assert late(found, 105.0, now=100.04, priority=1) == 0.0
    assert late(found, 101.05, now=100.04, priority=1) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "told",
    [
        forecast((0.0,)),
        forecast((), (0, 110.0, 400)),
        forecast((100.3,), (0, 110.0, 400), tables=()),
    ],
    ids=["an idle worker", "no worker", "no table"],
)
def test_who_says_nothing_refuses_nobody(told: Forecast) -> None:
    found = outlook(told)
    found.note(AT, 0, 110.0, 400)
    assert late(found, 100.01) == 0.0
    assert late(Outlook(0.0), 100.01) == 0.0


def test_an_old_forecast_refuses_nobody_unless_it_speaks_of_now() -> None:
    found = outlook(forecast((100.3,), (0, 110.0, 400)))
    assert late(found, 101.0, now=AT + STALE_S - 0.01) > 0
    assert late(found, 101.0, now=AT + STALE_S) == 0.0
    in_one_batch = outlook(forecast((107.0,)))
    assert late(in_one_batch, 106.0, now=105.0) == pytest.approx(1.1)  # 107.0 + 0.1
    assert late(in_one_batch, 106.0, now=107.0) == 0.0


def test_a_key_without_a_table_borrows_that_of_its_method_if_there_is_one() -> None:
    told = forecast((100.3,))
    assert late(outlook(told), 100.35, name=("m", b"new", 0)) == pytest.approx(0.05)
    assert late(outlook(told), 100.35, name=("other", b"k", 0)) == 0.0
    two = replace(told, tables=(TABLE, replace(TABLE, key=b"l", seconds=(0.15, 0.2))))
    assert late(outlook(two), 100.35, name=("m", b"new", 0)) == 0.0
    assert late(outlook(two), 100.35, name=("m", b"l", 0)) == pytest.approx(0.1)
    assert late(outlook(two), 100.35, name=("m", b"l", 64)) == pytest.approx(0.1)  # lengths have no tables of their own


def test_a_length_with_a_table_of_its_own_has_that() -> None:
    told = forecast((100.3,), tables=(TABLE, replace(TABLE, length=64, seconds=(0.15, 0.2))))
    assert late(outlook(told), 100.35, name=("m", b"k", 64)) == pytest.approx(0.1)
    assert late(outlook(told), 100.35, name=("m", b"k", 128)) == pytest.approx(0.05)


def test_a_table_that_changed_is_read_anew() -> None:
    found = outlook(forecast((100.3,)))
    found.hear(forecast((100.3,), tables=(replace(TABLE, seconds=(0.15, 0.2)),)))
    assert late(found, 100.35) == pytest.approx(0.1)


def test_a_learned_table_lets_one_request_through_in_the_time_that_it_takes() -> None:
    found = outlook(forecast((100.3,)))
    assert [found.lets_probe(now, NAME) for now in (100.0, 100.05, 100.1, 100.15)] == [True, False, True, False]


def test_a_given_table_and_an_unknown_key_have_no_probes() -> None:
    found = outlook(forecast((100.3,), tables=(replace(TABLE, known=True),)))
    assert not found.lets_probe(AT, NAME)
    assert not found.lets_probe(AT, ("other", b"k", 0))


def test_what_is_kept_is_bounded_and_no_row_is_lost() -> None:
    found = outlook(forecast((109.0,), (0, 200.0, 40)))
    assert late(found, 100.5) > 0
    count = 4 * SENT_MAX + 1
    for number in range(count):
        found.note(100.0 + number * 1e-6, 0, 500.0 + number, 1)
    assert len(found._sent) == SENT_MAX
    assert found._schedule is not None
    assert len(found._schedule._groups) <= GROUPS_MAX
    assert found._schedule.rows_before(0, 1e9) == 40 + count
