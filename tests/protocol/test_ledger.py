"""The ledger, rule by rule."""

from __future__ import annotations

import pytest

from paceline.protocol.errors import DeadlineExceeded, NoWorker, QueueFull, WorkerLost
from paceline.protocol.ledger import Entry, Ledger, LedgerLimits
from paceline.protocol.messages import InferItem

A, B = b"a" * 16, b"b" * 16
NOW = 100.0


def item(counter: int, deadline_s: float = NOW + 10) -> InferItem:
    return InferItem(counter, 0, 0, False, round(NOW * 1e9), round(deadline_s * 1e9), 0, 1, 0, "m", b"", "", "", None)


def ledger(*hosts: bytes, **bounds: int) -> Ledger:
    made = Ledger({"net": 1, "other": 1}, LedgerLimits(**bounds))
    for host in hosts:
        made.host_up("net", host)
    return made


def submit(made: Ledger, *counters: int, nbytes: int = 10, idempotent: bool = True) -> list[Entry]:
    return [made.submit("net", item(counter), f"token {counter}", nbytes, idempotent) for counter in counters]


def taken(made: Ledger) -> list[tuple[bytes, list[int]]]:
    return [(host, [sent.counter for sent in items]) for host, items in made.take("net")]


def test_request_goes_from_submit_to_its_answer() -> None:
    made = ledger(A)
    (entry,) = submit(made, 1)
    assert (made.pending("net"), len(made)) == (1, 1)
    assert made.take("net") == [(A, [entry.item])]
    assert (made.pending("net"), entry.host) == (0, A)
    assert made.settle(A, 1, 0) is entry
    assert (len(made), entry.closed, entry.token) == (0, True, "token 1")


def test_second_answer_is_nobodys() -> None:
    made = ledger(A)
    submit(made, 1)
    made.take("net")
    assert made.settle(A, 1, 0) is not None
    assert made.settle(A, 1, 0) is None


def test_answer_of_another_host_or_attempt_is_nobodys() -> None:
    made = ledger(A, B)
    submit(made, 1)
    assert taken(made) == [(A, [1])]
    assert made.settle(B, 1, 0) is None
    assert made.settle(A, 1, 1) is None
    assert made.settle(b"?" * 16, 1, 0) is None
    assert made.settle(A, 2, 0) is None
    assert made.settle(A, 1, 0) is not None


def test_without_a_host_requests_wait_in_order() -> None:
    made = ledger()
    submit(made, 1, 2, 3)
    assert not made.ready("net")
    assert taken(made) == []
    made.host_up("net", A)
    assert made.ready("net")
    assert taken(made) == [(A, [1, 2, 3])]


def test_hosts_take_turns() -> None:
    made = ledger(A, B)
    submit(made, 1, 2, 3, 4)
    assert taken(made) == [(A, [1, 3]), (B, [2, 4])]


def test_window_of_a_host_with_several_workers_holds_as_many_for_each() -> None:
    made = Ledger({"net": 3}, LedgerLimits(window_requests=2))
    made.host_up("net", A)
    submit(made, *range(1, 10))
    assert taken(made) == [(A, [1, 2, 3, 4, 5, 6])]


@pytest.mark.parametrize("window_requests", [1, 2, 3])
def test_window_holds_its_count_and_answers_return_it(window_requests: int) -> None:
    made = ledger(A, window_requests=window_requests)
    submit(made, 1, 2, 3, 4)
    assert taken(made) == [(A, [1, 2, 3][:window_requests])]
    assert taken(made) == []
    made.settle(A, 1, 0)
    assert taken(made) == [(A, [window_requests + 1])]


@pytest.mark.parametrize(("window_bytes", "fits"), [(19, 1), (20, 2), (21, 2)])
def test_window_holds_its_bytes(window_bytes: int, fits: int) -> None:
    made = ledger(A, window_bytes=window_bytes)
    submit(made, 1, 2, 3)
    assert taken(made) == [(A, [1, 2][:fits])]


def test_request_over_the_window_alone_goes_alone() -> None:
    made = ledger(A, window_bytes=5)
    submit(made, 1, 2)
    assert taken(made) == [(A, [1])]
    made.settle(A, 1, 0)
    assert taken(made) == [(A, [2])]


def test_pending_count_at_the_limit_passes_and_one_more_is_refused() -> None:
    made = ledger(pending_requests=2)
    submit(made, 1, 2)
    with pytest.raises(QueueFull, match=r"'net' has 2 requests \(20 bytes\) waiting.*retry later") as caught:
        submit(made, 3)
    assert caught.value.retry_after_s == 1.0
    made.cancel(1)
    submit(made, 3)


def test_pending_bytes_at_the_limit_pass_and_one_more_is_refused() -> None:
    made = ledger(pending_bytes=20)
    submit(made, 1, 2)
    with pytest.raises(QueueFull):
        submit(made, 3, nbytes=1)
    made.cancel(1)
    submit(made, 3)


def test_request_over_the_pending_bytes_alone_waits_alone() -> None:
    made = ledger(A, pending_bytes=5)
    submit(made, 1)
    with pytest.raises(QueueFull):
        submit(made, 2)
    assert taken(made) == [(A, [1])]


def test_cancelled_request_keeps_its_place_in_the_window_until_the_host_answers() -> None:
    made = ledger(A, window_requests=1)
    (entry,) = submit(made, 1)
    made.take("net")
    submit(made, 2)
    assert made.cancel(1) == (entry, A)
    assert made.cancel(1) is None
    assert taken(made) == []
    assert made.settle(A, 1, 0) is None
    assert taken(made) == [(A, [2])]


def test_cancelled_request_that_waits_is_never_sent() -> None:
    made = ledger(A)
    first, _ = submit(made, 1, 2)
    assert made.cancel(1) == (first, None)
    assert taken(made) == [(A, [2])]


def test_refused_send_waits_again_in_front_as_never_sent() -> None:
    made = ledger(A, window_requests=3)
    submit(made, 1, 2, 3, 4, 5)
    (sent,) = made.take("net")
    made.cancel(2)
    made.unsent(A, sent[1])
    assert made.pending("net") == 4
    ((_, items),) = made.take("net")
    assert [(again.counter, again.attempt, again.starts) for again in items] == [(1, 0, 0), (3, 0, 0), (4, 0, 0)]
    made.unsent(b"?" * 16, items)


def test_refused_sends_and_resends_keep_the_order_of_arrival() -> None:
    made = ledger(A, B, window_requests=2)
    submit(made, 1, 2, 3, 4)
    sent = dict(made.take("net"))
    assert made.host_down(B, frozenset(), NOW) == []
    made.unsent(A, sent[A])
    submit(made, 5)
    made.host_up("net", b"c" * 16)
    assert taken(made) == [(A, [1, 3]), (b"c" * 16, [2, 4])]


def test_deadline_is_answered_within_4_ms_and_not_before() -> None:
    made = ledger(A)
    first = made.submit("net", item(1, NOW + 1.0015), None, 1)
    second = made.submit("net", item(2, NOW + 1.5), None, 1)
    made.take("net")
    made.submit("net", item(3, NOW + 1.5), None, 1)
    at = made.next_deadline()
    assert at is not None
    assert first.deadline_s <= at <= first.deadline_s + 0.004
    assert made.expire(first.deadline_s - 1e-6) == []
    assert made.expire(at) == [first]
    assert first.host == A
    expired = made.expire(NOW + 2)
    assert (expired[0], expired[1].host) == (second, None)
    assert (len(made), made.next_deadline(), made.pending("net")) == (0, None, 0)


def test_late_answer_of_an_expired_request_only_returns_the_window() -> None:
    made = ledger(A, window_requests=1)
    submit(made, 1, 2)
    made.take("net")
    assert len(made.expire(NOW + 100)) == 2
    submit(made, 3)
    assert taken(made) == []
    assert made.settle(A, 1, 0) is None
    assert taken(made) == [(A, [3])]


def test_request_of_a_dead_host_that_had_not_started_keeps_its_starts() -> None:
    made = ledger(A, B)
    submit(made, 1, idempotent=False)
    made.take("net")
    assert made.host_down(A, frozenset([7]), NOW) == []
    ((host, (again,)),) = made.take("net")
    assert (host, again.counter, again.attempt, again.starts) == (B, 1, 1, 0)
    assert made.settle(B, 1, 0) is None
    assert made.settle(B, 1, 1) is not None


@pytest.mark.parametrize("started", [frozenset([1]), None])
def test_started_request_is_resent_once_and_then_lost(started: frozenset[int] | None) -> None:
    made = ledger(A, B)
    (entry,) = submit(made, 1)
    made.take("net")
    assert made.host_down(A, started, NOW) == []
    assert entry.item.starts == 1
    made.take("net")
    ((lost, error),) = made.host_down(B, started, NOW)
    assert lost is entry
    assert isinstance(error, WorkerLost)
    assert "started 2 time(s), as often as allowed" in str(error)
    assert len(made) == 0


def test_suspects_go_one_at_a_time_and_hold_nobody_else_up() -> None:
    made = ledger(A)
    submit(made, 1, 2, 3, 4)
    made.take("net")
    made.host_down(A, frozenset({1, 2, 3}), NOW)
    made.host_up("net", B)
    submit(made, 5)
    assert taken(made) == [(B, [1, 4, 5])]
    assert taken(made) == []
    made.settle(B, 1, 1)
    assert taken(made) == [(B, [2])]
    made.settle(B, 4, 1)
    assert taken(made) == []
    made.settle(B, 2, 1)
    assert taken(made) == [(B, [3])]


@pytest.mark.parametrize("started", [frozenset([1]), None])
def test_request_that_must_not_run_twice_is_never_resent_after_a_start(started: frozenset[int] | None) -> None:
    made = ledger(A, B)
    submit(made, 1, idempotent=False)
    made.take("net")
    ((_, error),) = made.host_down(A, started, NOW)
    assert isinstance(error, WorkerLost)


def test_request_whose_time_is_over_is_not_resent() -> None:
    made = ledger(A)
    made.submit("net", item(1, NOW + 1), None, 1)
    made.take("net")
    ((_, error),) = made.host_down(A, frozenset(), NOW + 1)
    assert isinstance(error, DeadlineExceeded)


def test_death_of_a_host_forgets_what_nobody_waits_for() -> None:
    made = ledger(A)
    submit(made, 1)
    made.take("net")
    made.cancel(1)
    assert made.host_down(A, None, NOW) == []
    assert made.host_down(A, None, NOW) == []
    assert (len(made), made.pending("net")) == (0, 0)


def test_leaving_host_gets_nothing_new_and_still_answers() -> None:
    made = ledger(A)
    submit(made, 1)
    made.take("net")
    made.host_leaving(A)
    made.host_leaving(b"?" * 16)
    assert not made.ready("net")
    submit(made, 2)
    assert taken(made) == []
    assert made.settle(A, 1, 0) is not None
    assert made.host_down(A, None, NOW) == []


def test_host_that_is_ready_again_after_leaving_gets_new_requests() -> None:
    made = ledger(A)
    submit(made, 1)
    made.take("net")
    made.host_leaving(A)
    submit(made, 2)
    made.host_up("net", A)
    made.host_up("net", A)
    assert made.ready("net")
    assert [item.counter for _, items in made.take("net") for item in items] == [2]
    assert made.settle(A, 1, 0) is not None
    made.host_leaving(A)
    assert not made.ready("net")


def test_what_a_leaving_host_refuses_waits_in_front_as_never_started() -> None:
    made = ledger(A)
    submit(made, 1, 2, 3, idempotent=False)
    made.take("net")
    submit(made, 4)
    made.cancel(2)
    made.host_leaving(A)
    assert made.give_back(A, [(3, 0), (2, 0), (1, 0), (9, 0)], NOW) == []
    made.host_up("net", B)
    ((host, items),) = made.take("net")
    assert host == B
    assert [(i.counter, i.attempt, i.starts) for i in items] == [(1, 1, 0), (3, 1, 0), (4, 0, 0)]
    assert made.give_back(A, [(1, 0), (3, 1)], NOW) == []
    assert made.give_back(B, [(1, 0)], NOW) == []
    assert made.settle(B, 1, 1) is not None


def test_what_a_leaving_host_refuses_returns_its_window() -> None:
    made = ledger(A, window_requests=1)
    submit(made, 1)
    made.take("net")
    made.give_back(A, [(1, 0)], NOW)
    assert taken(made) == [(A, [1])]


def test_refused_request_whose_time_is_over_or_whose_runner_was_given_up_is_lost() -> None:
    made = ledger(A)
    made.submit("net", item(1, NOW + 1), None, 1)
    submit(made, 2)
    made.take("net")
    ((late, error),) = made.give_back(A, [(1, 0)], NOW + 1)
    assert (late.item.counter, type(error)) == (1, DeadlineExceeded)
    made.runner_failed("net", "died 5 times")
    ((_, error),) = made.give_back(A, [(2, 0)], NOW)
    assert isinstance(error, NoWorker)
    assert len(made) == 0


def test_runner_that_was_given_up_fails_all_and_refuses_until_a_host_is_up() -> None:
    made = ledger(A, window_requests=1)
    submit(made, 1, 2)
    made.take("net")
    ((entry, error),) = made.runner_failed("net", "died 5 times in 60 s")
    assert (entry.item.counter, str(error)) == (2, "runner 'net' has no worker: died 5 times in 60 s")
    with pytest.raises(NoWorker, match="died 5 times"):
        submit(made, 3)
    ((_, late),) = made.host_down(A, frozenset(), NOW)
    assert isinstance(late, NoWorker)
    made.host_up("net", B)
    submit(made, 4)
    assert taken(made) == [(B, [4])]


def test_known_host_is_left_as_it_is() -> None:
    made = ledger(A)
    submit(made, 1)
    made.take("net")
    made.host_up("net", A)
    assert made.settle(A, 1, 0) is not None


def test_open_counter_given_twice_is_a_bug() -> None:
    made = ledger()
    submit(made, 1)
    with pytest.raises(AssertionError, match="counter 1 is open already"):
        submit(made, 1)
