"""The host's rules, on fakes and a virtual clock: no process, no socket, no waiting."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import inf

import pytest

from paceline.protocol import messages
from paceline.protocol.messages import CANCELLED, Answers, Infer
from paceline.protocol.pool import Observation
from paceline.protocol.remote import as_sent
from paceline.runner.bulletin import INTERVAL_S
from paceline.runner.calls import DeviceBroken
from paceline.runner.desk import RETRY_AFTER_S
from paceline.runner.intake import IntakeLimits
from paceline.runner.outbox import BACKLOG_MESSAGES_MAX, BACKLOG_S
from tests.runner.host_fakes import ALICE, BOB, Bench


def test_requests_that_came_together_run_together_and_each_gets_its_own_result() -> None:
    bench = Bench()
    bench.send(*[bench.item(number, float(number)) for number in range(1, 5)])
    bench.settle()
    assert bench.engine.batches == [["r1", "r2", "r3", "r4"]]
    assert bench.results() == {1: 2.0, 2: 4.0, 3: 6.0, 4: 8.0}


def test_one_batch_answers_each_api_server_in_one_message() -> None:
    bench = Bench()
    bench.send(bench.item(1), bench.item(2), origin=ALICE)
    bench.send(bench.item(1), bench.item(2), origin=BOB)
    bench.settle()
    assert [(answers.origin, len(answers.results)) for answers in bench.port.answers()] == [(ALICE, 2), (BOB, 2)]


def test_what_arrives_while_a_batch_runs_is_decided_together() -> None:
    bench = Bench()
    late = [[bench.item(2), bench.item(3), bench.item(4)]]
    bench.engine.while_running = lambda: bench.send(*late.pop()) if late else None
    bench.send(bench.item(1))
    bench.settle()
    assert bench.engine.batches == [["r1"], ["r2", "r3", "r4"]]


def test_result_says_how_it_was_served() -> None:
    bench = Bench()
    bench.engine.seconds = lambda rows: 0.25
    bench.send(bench.item(1), bench.item(2, rows=2))
    bench.clock.advance(0.125)
    bench.settle()
    for result in bench.port.answers()[0].results:
        assert (result.batch_rows, result.queue_us, result.run_us) == (3, 125_000, 250_000)


def test_method_that_is_not_batchable_runs_one_by_one() -> None:
    bench = Bench()
    bench.send(*[bench.item(number, method="single") for number in (1, 2)])
    bench.settle()
    assert bench.engine.batches == [["r1"], ["r2"]]


def test_request_that_was_started_before_runs_alone() -> None:
    bench = Bench()
    bench.send(bench.item(1), bench.item(2, starts=1), bench.item(3))
    bench.settle()
    assert ["r2"] in bench.engine.batches
    assert set(bench.results()) == {1, 2, 3}


def test_request_that_must_not_run_twice_is_refused_after_one_start() -> None:
    bench = Bench()
    bench.send(bench.item(1, method="once", starts=1))
    bench.settle()
    assert bench.failures()[1].code == "worker_lost"
    assert bench.engine.batches == []


def test_request_of_an_unknown_method_names_the_nearest() -> None:
    bench = Bench()
    bench.send(bench.item(1, method="singel"), bench.item(2))
    bench.settle()
    assert bench.failures()[1].code == "invalid_parameter"
    assert '"single"' in bench.failures()[1].message
    assert set(bench.results()) == {2}


def test_request_of_too_many_rows_is_refused() -> None:
    bench = Bench(bounds=IntakeLimits(rows_max=4))
    bench.send(bench.item(1, rows=5), bench.item(2, rows=4))
    bench.settle()
    assert bench.failures()[1].code == "too_large"
    assert set(bench.results()) == {2}


def test_malformed_arguments_fail_alone() -> None:
    bench = Bench()
    broken = replace(bench.item(2), packed=[1, [1, [2, 250, [1], b"x"]], {}])
    bench.send(bench.item(1), broken, bench.item(3))
    bench.settle()
    assert bench.failures()[2].code == "invalid_input"
    assert set(bench.results()) == {1, 3}


def test_batch_of_malformed_arguments_only_never_reaches_the_model() -> None:
    bench = Bench()
    bench.send(replace(bench.item(1), packed="nonsense"))
    bench.settle()
    assert bench.failures()[1].code == "invalid_input"
    assert bench.engine.batches == []


def test_refused_request_leaves_its_neighbours_their_results() -> None:
    bench = Bench()
    bench.send(bench.item(1), bench.item(2, -1.0), bench.item(3))
    bench.settle()
    assert bench.failures()[2].code == "model_rejected_input"
    assert set(bench.results()) == {1, 3}


def test_unreadable_message_is_dropped_and_its_peer_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    for parts in ([b"\xc1"], [b""], messages.encode(Answers(ALICE))):
        bench.port.inbound.append((ALICE, list(parts)))
    bench.send(bench.item(1))
    with caplog.at_level(logging.WARNING):
        bench.settle()
    assert bench.host.desk.intake.malformed == 3
    assert [record.__dict__["peer"] for record in caplog.records] == [ALICE.hex()]
    assert set(bench.results()) == {1}


def test_peer_cannot_speak_for_another() -> None:
    bench = Bench()
    bench.port.inbound.append((BOB, messages.encode(Infer(ALICE, (bench.item(1),)))))
    bench.settle()
    assert bench.host.desk.intake.malformed == 1
    assert bench.port.sent == []


def test_duplicate_of_a_live_request_is_answered_once() -> None:
    bench = Bench()
    bench.send(bench.item(1, 1.0), bench.item(1, 5.0), bench.item(1, 7.0, attempt=1))
    bench.settle()
    assert bench.results() == {1: 2.0}
    assert bench.host.desk.intake.duplicates == 2


def test_counters_of_two_api_servers_are_told_apart() -> None:
    bench = Bench()
    bench.send(bench.item(1, 1.0), origin=ALICE)
    bench.send(bench.item(1, 5.0), origin=BOB)
    bench.settle()
    assert (bench.results(ALICE), bench.results(BOB)) == ({1: 2.0}, {1: 10.0})


def test_answered_counter_may_come_again() -> None:
    bench = Bench()
    bench.send(bench.item(1, 1.0))
    bench.settle()
    bench.port.sent.clear()
    bench.send(bench.item(1, 2.0))
    bench.settle()
    assert bench.results() == {1: 4.0}


# Cancels


def test_cancel_of_a_queued_request_returns_its_credit_and_runs_nothing() -> None:
    bench = Bench(max_batch_size=1)
    bench.send(bench.item(1), bench.item(2))
    bench.host.turn()
    bench.cancel(2)
    bench.settle()
    assert bench.failures()[2].code == CANCELLED
    assert bench.engine.batches == [["r1"]]


def test_cancel_in_the_same_round_as_its_request_runs_nothing() -> None:
    bench = Bench()
    bench.send(bench.item(1))
    bench.cancel(1)
    bench.settle()
    assert bench.failures()[1].code == CANCELLED
    assert bench.engine.batches == []


def test_a_request_that_expired_and_was_cancelled_in_the_same_round_is_answered_once() -> None:
    bench = Bench()
    bench.send(bench.item(1, deadline_s=0.2))
    bench.cancel(1)
    bench.clock.advance(1.0)
    bench.settle()
    assert list(bench.failures()) == [1]
    bench.send(bench.item(2))
    bench.settle()
    assert 2 in bench.results()


def test_a_request_that_found_the_queue_full_and_was_cancelled_is_answered_once() -> None:
    bench = Bench(queue_rows_max=2)
    bench.send(*[bench.item(number) for number in range(1, 5)])
    bench.cancel(4)
    bench.settle()
    assert sorted([*bench.failures(), *bench.results()]) == [1, 2, 3, 4]


def test_cancel_of_a_running_request_leaves_it_its_one_answer() -> None:
    bench = Bench()
    bench.engine.while_running = lambda: bench.cancel(1)
    bench.send(bench.item(1))
    bench.settle()
    assert bench.results() == {1: 2.0}
    assert bench.failures() == {}


def test_cancel_of_an_unknown_or_foreign_request_does_nothing() -> None:
    bench = Bench(max_batch_size=1)
    bench.send(bench.item(1), bench.item(2))
    bench.host.turn()
    bench.cancel(2, origin=BOB)
    bench.cancel(99)
    bench.settle()
    assert set(bench.results()) == {1, 2}


# Refusals


def test_deadline_that_passed_in_the_queue_is_deadline_exceeded() -> None:
    bench = Bench()
    bench.send(bench.item(1, deadline_s=0.5))
    bench.clock.advance(1.0)
    bench.settle()
    assert bench.failures()[1].code == "deadline_exceeded"
    assert bench.engine.batches == []


def test_request_that_a_known_table_rules_out_is_infeasible_now() -> None:
    bench = Bench()
    bench.send(bench.item(1, deadline_s=0.005))
    bench.settle()
    assert bench.failures()[1].code == "infeasible_now"
    assert bench.failures()[1].retry_after_s == RETRY_AFTER_S


def test_request_over_the_queues_rows_is_refused_with_a_time_to_retry() -> None:
    bench = Bench(queue_rows_max=8)
    bench.send(*[bench.item(number) for number in range(10)])
    bench.settle()
    codes = {failure.code for failure in bench.failures().values()}
    assert codes == {"queue_full"}
    assert len(bench.results()) == 8
    assert all(failure.retry_after_s is not None for failure in bench.failures().values())


def test_request_over_the_queues_bytes_is_refused() -> None:
    bench = Bench(bounds=IntakeLimits(queue_bytes_max=1000), max_batch_size=1024)
    bench.send(bench.item(1, rows=600))
    bench.send(bench.item(2))
    bench.settle()
    assert set(bench.results()) == {1}
    assert bench.failures()[2].code == "queue_full"
    assert bench.host.desk.intake.inbox.nbytes == 0


def test_refusals_leave_before_the_batch_runs() -> None:
    bench = Bench()
    sent_before: list[int] = []
    bench.engine.while_running = lambda: sent_before.append(len(bench.failures()))
    bench.send(bench.item(1), bench.item(2, method="nothing"))
    bench.settle()
    assert sent_before == [1]


def test_request_that_waits_longer_than_the_queue_timeout_is_answered() -> None:
    bench = Bench(max_batch_size=1, bounds=IntakeLimits(queue_timeout_s=0.015))
    bench.send(*[bench.item(number) for number in range(1, 4)])
    bench.settle()
    assert set(bench.results()) == {1, 2}
    assert bench.failures()[3].code == "deadline_exceeded"
    assert "queue_timeout_ms" in bench.failures()[3].message
    assert bench.host.wake_at() >= bench.clock.now() + INTERVAL_S / 2


# Trouble


def test_lost_device_answers_nothing_and_leaves_the_batch_in_hand() -> None:
    bench = Bench()
    bench.engine.raises = DeviceBroken("device-side assert")
    bench.send(bench.item(1), bench.item(2))
    with pytest.raises(DeviceBroken):
        bench.host.turn()
    assert bench.port.answers() == []
    assert bench.hand.held == [(ALICE, 1), (ALICE, 2)]


def test_batch_stays_in_hand_until_its_answers_left() -> None:
    bench = Bench()
    in_hand: list[tuple[bytes, int]] = []
    bench.port.while_sending = lambda: in_hand.extend(bench.hand.held)
    bench.send(bench.item(1))
    bench.settle()
    assert in_hand == [(ALICE, 1)]
    assert bench.hand.held == []


def test_bug_in_the_engine_is_answered_and_the_next_batch_runs() -> None:
    bench = Bench()
    bench.engine.raises = RuntimeError("bug")
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    bench.engine.raises = None
    bench.send(bench.item(3))
    bench.settle()
    assert {failure.code for failure in bench.failures().values()} == {"internal"}
    assert set(bench.results()) == {3}
    assert bench.hand.held == []


def test_size_that_memory_did_not_hold_is_not_tried_again() -> None:
    bench = Bench()
    bench.engine.cap_rows = 2
    bench.send(*[bench.item(number) for number in range(8)])
    bench.settle()
    bench.engine.batches.clear()
    bench.send(*[bench.item(number) for number in range(10, 18)])
    bench.settle()
    assert [len(batch) for batch in bench.engine.batches] == [2, 2, 2, 2]


def test_counters_are_requests_batches_and_rows_since_the_start() -> None:
    bench = Bench()
    bench.send(bench.item(1, rows=3), bench.item(2))
    bench.send(bench.item(3, method="single"))
    bench.settle()
    assert bench.hand.counters == (3, 2, 5)
    assert bench.hand.held == []


def test_full_pipe_gets_its_answers_later_and_in_order() -> None:
    bench = Bench(max_batch_size=1)
    bench.port.deaf.add(ALICE)
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    assert bench.port.sent == []
    bench.port.deaf.clear()
    bench.clock.advance(bench.host.wake_at() - bench.clock.now())
    bench.settle()
    assert list(bench.results()) == [1, 2]


def test_peer_that_is_gone_loses_its_answers_and_costs_nothing_more() -> None:
    bench = Bench()
    bench.port.deaf.add(ALICE)
    bench.send(bench.item(1))
    bench.settle()
    bench.clock.advance(BACKLOG_S)
    bench.settle()
    assert bench.host.desk.outbox.messages_dropped == 1
    assert bench.host.wake_at() == inf


def test_backlog_of_a_deaf_peer_is_bounded() -> None:
    bench = Bench()
    bench.engine.seconds = lambda rows: 0.0
    bench.port.deaf.add(ALICE)
    for number in range(BACKLOG_MESSAGES_MAX + 10):
        bench.send(bench.item(number))
        bench.settle()
    assert bench.host.desk.outbox.messages_dropped == 10


# Draining


def test_drain_finishes_what_had_come_and_refuses_what_comes_after() -> None:
    bench = Bench(max_batch_size=1)
    bench.send(bench.item(1), bench.item(2))
    bench.host.turn()
    bench.send(bench.item(3))
    bench.host.drain(10.0)
    bench.host.turn()
    bench.send(bench.item(4))
    bench.settle()
    assert bench.host.finished
    assert set(bench.results()) == {1, 2, 3}
    assert bench.failures()[4].code == "draining"


def test_end_of_the_grace_answers_what_is_still_queued() -> None:
    bench = Bench(max_batch_size=1)
    bench.engine.seconds = lambda rows: 1.0
    bench.send(*[bench.item(number, deadline_s=60.0) for number in range(5)])
    bench.host.turn()
    bench.host.drain(1.5)
    bench.settle()
    assert bench.host.finished
    assert len(bench.results()) == 3
    assert {failure.code for failure in bench.failures().values()} == {"draining"}


def test_second_drain_only_shortens_the_grace() -> None:
    bench = Bench(max_batch_size=1)
    bench.send(bench.item(1), bench.item(2))
    bench.host.turn()
    bench.host.drain(0.0)
    bench.host.drain(60.0)
    bench.settle()
    assert bench.host.finished
    assert bench.failures()[2].code == "draining"


def test_idle_host_is_drained_at_once() -> None:
    bench = Bench()
    bench.host.drain(30.0)
    assert bench.host.wake_at() == -inf
    bench.host.turn()
    assert bench.host.finished


# Forecasts


def test_forecast_goes_to_who_sent_requests_and_only_when_it_is_news() -> None:
    bench = Bench()
    bench.send(bench.item(1))
    bench.settle()
    bench.clock.advance(INTERVAL_S)
    bench.settle()
    told = len(bench.port.forecasts(ALICE))
    assert told > 0
    for _ in range(5):
        bench.clock.advance(INTERVAL_S)
        bench.settle()
    assert len(bench.port.forecasts(ALICE)) == told
    assert bench.port.forecasts(BOB) == []
    assert bench.host.wake_at() == inf


def test_newcomer_is_told_what_the_others_know() -> None:
    bench = Bench()
    bench.send(bench.item(1), origin=ALICE)
    bench.settle()
    bench.clock.advance(1.0)
    bench.settle()
    bench.clock.advance(1.0)
    bench.send(bench.item(1), origin=BOB)
    bench.settle()
    assert bench.port.forecasts(BOB)[-1].tables[0].sizes == (1, 8)


def test_busy_host_forecasts_at_most_once_in_an_interval() -> None:
    bench = Bench(max_batch_size=1)
    bench.engine.seconds = lambda rows: 0.001
    bench.send(*[bench.item(number) for number in range(100)])
    bench.settle()
    assert 1 <= len(bench.port.forecasts(ALICE)) <= 0.1 / INTERVAL_S + 1


def test_forecast_before_a_batch_says_when_the_worker_frees() -> None:
    bench = Bench()
    bench.engine.seconds = lambda rows: 0.0
    bench.send(bench.item(1))
    bench.settle()
    assert bench.port.forecasts(ALICE)[0].free_at_ns == (bench.clock.now_ns() + 10_000_000,)


def test_dispatcher_learns_from_the_warm_up() -> None:
    bench = Bench(latency_table=None)
    key = bench.item(1).key
    seen = ((1, 0.1), (2, 0.15), (4, 0.2), (8, 0.3))
    bench.host.learn([Observation("__call__", key, rows, seconds) for rows, seconds in seen])
    bench.send(bench.item(1))
    bench.settle()
    (table,) = bench.port.forecasts(ALICE)[0].tables
    assert dict(zip(table.sizes, table.seconds, strict=True)) == pytest.approx({1: 0.1, 2: 0.15, 4: 0.2, 8: 0.3})


def test_batch_costs_from_its_decision_to_the_next_one() -> None:
    bench = Bench(latency_table=None)
    bench.engine.seconds = lambda rows: 0.03
    for number in range(4):
        bench.send(bench.item(number))
        bench.settle()
        bench.clock.advance(5.0)
    bench.settle()
    assert bench.port.forecasts(ALICE)[-1].tables[0].seconds == pytest.approx((0.03,))


REMOTE = b"\x02" + b"r" * 15


def test_request_from_another_machine_gets_its_times_by_our_clock() -> None:
    bench = Bench(max_batch_size=1, bounds=IntakeLimits(remote_budget_s=60.0))
    late, early = bench.item(1, deadline_s=0.5), bench.item(2, deadline_s=0.005)
    there_ns = 5_000_000_000
    sent = as_sent(
        [
            replace(item, arrival_ns=there_ns - 250_000_000, deadline_ns=there_ns + item.deadline_ns - item.arrival_ns)
            for item in (late, early)
        ],
        there_ns,
    )
    bench.send(*sent, origin=REMOTE)
    bench.settle()
    (failure,) = [failure for answers in bench.port.answers() for failure in answers.failures]
    (result,) = [result for answers in bench.port.answers() for result in answers.results]
    assert (failure.counter, failure.code) == (2, "infeasible_now")
    assert (result.counter, result.queue_us) == (1, 250_000)


def test_request_from_another_machine_has_no_more_time_than_the_server_grants() -> None:
    bench = Bench(max_batch_size=1, bounds=IntakeLimits(remote_budget_s=0.005))
    bench.send(*as_sent([bench.item(1, deadline_s=1e6)], bench.clock.now_ns()), origin=REMOTE)
    bench.settle()
    assert [failure.code for failure in bench.port.answers()[0].failures] == ["infeasible_now"]


def test_answers_leave_the_process_before_a_suspect_runs() -> None:
    bench = Bench()
    bench.send(bench.item(1))
    bench.settle()
    assert bench.port.settled_after == []
    answered = len(bench.port.answers())
    bench.send(bench.item(2, starts=1))
    bench.settle()
    assert 2 in bench.results()
    assert len(bench.port.settled_after) == 1
    assert bench.port.settled_after[0] >= answered == 1
