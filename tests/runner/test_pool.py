"""The broker's rules, on fakes and a virtual clock: who gets which batch, and what becomes of it when somebody dies."""

from __future__ import annotations

import logging
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from paceline.protocol import messages, pool
from paceline.protocol.messages import CANCELLED, Cancel, pack_call
from paceline.protocol.pool import Done, Join, Observation, Refused, Released
from paceline.protocol.tensor import Buffer, from_numpy
from paceline.runner.bulletin import INTERVAL_S
from paceline.runner.desk import CAP_S
from paceline.runner.intake import IntakeLimits
from paceline.runner.outbox import BACKLOG_S
from paceline.runner.parcels import WORK_FRAMES_CUT
from tests.runner.host_fakes import ALICE, BOB
from tests.runner.pool_fakes import ANN, BEN, DIGEST, PoolBench


def lost(bench: PoolBench, worker: bytes, *begun: int, alive: tuple[bytes, ...] = ()) -> None:
    """The supervisor says that `worker` died, having begun these requests of ALICE."""
    bench.picture(alive=alive, lost=[(worker, begun)], origin=ALICE)


# Batches


def test_requests_of_one_tick_go_to_a_worker_as_one_batch_and_their_answers_back() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(*[bench.item(number, float(number)) for number in range(1, 5)])
    bench.settle()
    (work,) = bench.works(ANN)
    assert bench.batches(ANN) == [[1, 2, 3, 4]]
    assert (work.final, work.rows) == (True, 4)
    bench.finish(ANN, work)
    bench.settle()
    assert bench.results() == {1: 2.0, 2: 4.0, 3: 6.0, 4: 8.0}
    assert len(bench.exchange.desk.inbox) == 0
    assert bench.counted == (4, 1, 4)


def test_requests_wait_for_the_first_worker() -> None:
    bench = PoolBench()
    bench.send(bench.item(1))
    bench.settle()
    bench.join(ANN)
    assert bench.batches(ANN) == [[1]]


def test_one_batch_holds_requests_of_several_api_servers_and_each_gets_its_answers() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(bench.item(1, 1.0), origin=ALICE)
    bench.send(bench.item(1, 5.0), origin=BOB)
    bench.settle()
    bench.finish(ANN, bench.works(ANN)[0])
    bench.settle()
    assert (bench.results(ALICE), bench.results(BOB)) == ({1: 2.0}, {1: 10.0})


def test_requests_go_on_as_they_came() -> None:
    bench = PoolBench()
    bench.join(ANN)
    _, frames = pack_call((from_numpy(np.arange(5000, dtype=np.float32).reshape(1, -1)),), {})
    item = replace(bench.item(1), packed=[1, [1, [2, 11, [1, 5000], 0]], {}], frames=frames)
    bench.send(item)
    bench.settle()
    (infer,) = bench.works(ANN)[0].requests
    assert infer.origin == ALICE
    assert infer.items == (item,)
    sent = next(parts for peer, parts in bench.workers.sent if peer == ANN)
    assert sent[1] is frames[0], "a frame is forwarded, not copied"


def test_two_workers_share_the_queue() -> None:
    bench = PoolBench(max_batch_size=2)
    bench.join(ANN, BEN)
    bench.send(*[bench.item(number) for number in range(1, 5)])
    bench.settle()
    assert sorted([*bench.batches(ANN), *bench.batches(BEN)]) == [[1, 2], [3, 4]]


def test_next_batch_is_bound_shortly_before_the_present_one_ends_and_no_third() -> None:
    bench = PoolBench(max_batch_size=2, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in range(1, 7)])
    bench.settle()
    assert bench.batches(ANN) == [[1, 2]]
    bench.clock.advance(0.0095)
    bench.settle()
    assert bench.batches(ANN) == [[1, 2], [3, 4]]
    bench.clock.advance(0.05)
    bench.settle()
    assert len(bench.batches(ANN)) == 2


def test_batch_too_large_for_one_message_is_several_of_which_the_last_is_final() -> None:
    bench = PoolBench(max_batch_size=256)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in range(1, 131)])
    bench.settle()
    works = bench.works(ANN)
    assert [len(work.requests[0].items) for work in works] == [64, 64, 2]
    assert [work.final for work in works] == [False, False, True]
    assert {work.batch_id for work in works} == {works[0].batch_id}
    assert {work.rows for work in works} == {130}


def test_batch_of_many_frames_is_cut_by_these() -> None:
    bench = PoolBench()
    bench.join(ANN)
    frames = tuple([b"x"] * (WORK_FRAMES_CUT // 2 + 1))
    bench.send(*[replace(bench.item(number), frames=frames) for number in (1, 2)])
    bench.settle()
    assert bench.batches(ANN) == [[1], [2]]


def test_answers_in_several_messages_go_on_as_they_come_and_the_last_ends_the_batch() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(bench.item(1))
    bench.settle()
    (work,) = bench.works(ANN)
    bench.answer_part(ANN, work)
    bench.settle()
    assert bench.results() == {1: 2.0}
    assert len(bench.exchange.desk.inbox) == 1
    bench.say(ANN, Done(work.batch_id, True, 0.01, True, None, ()))
    bench.settle()
    assert len(bench.exchange.desk.inbox) == 0


def test_size_that_a_workers_memory_did_not_hold_is_not_tried_again() -> None:
    bench = PoolBench(max_batch_size=8)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in range(8)])
    bench.settle()
    bench.finish(ANN, bench.works(ANN)[0], cap_rows=2)
    bench.send(*[bench.item(number) for number in range(10, 14)])
    bench.settle()
    assert bench.batches(ANN)[1] == [10, 11]
    bench.finish(ANN, bench.works(ANN)[1])
    bench.clock.advance(CAP_S + 1)
    bench.send(*[bench.item(number) for number in range(20, 24)])
    bench.settle()
    bench.finish(ANN, bench.works(ANN)[-1])
    bench.settle()
    assert [20, 21, 22, 23] in bench.batches(ANN)


def test_answers_for_an_api_server_whose_pipe_is_full_are_kept_a_while() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(bench.item(1))
    bench.settle()
    bench.port.deaf.add(ALICE)
    bench.finish(ANN, bench.works(ANN)[0])
    bench.settle()
    bench.port.deaf.clear()
    bench.clock.advance(BACKLOG_S / 2)
    bench.settle()
    assert bench.results() == {1: 2.0}


def test_dispatcher_learns_once_from_the_ladders_of_a_kind() -> None:
    bench = PoolBench(latency_table=None)
    key = bench.item(1).key
    bench.join(ANN, ladder=tuple(Observation("__call__", key, rows, 0.01 * rows) for rows in (1, 8)))
    bench.join(BEN, ladder=(Observation("__call__", key, 1, 5.0),))
    bench.clock.advance(INTERVAL_S)
    bench.send(bench.item(1))
    bench.settle()
    (table,) = bench.port.forecasts(ALICE)[0].tables
    assert dict(zip(table.sizes, table.seconds, strict=True)) == pytest.approx({1: 0.01, 8: 0.08})


def test_batch_is_on_its_way_before_anybody_is_told_of_it() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.clock.advance(INTERVAL_S)
    sent_before: list[int] = []
    bench.port.while_sending = lambda: sent_before.append(len(bench.batches(ANN)))
    bench.send(bench.item(1))
    bench.settle()
    assert sent_before == [1]


# Who may join


def test_worker_with_another_digest_is_refused_and_both_are_named() -> None:
    bench = PoolBench()
    bench.join(ANN, digest="cd" * 32)
    (refused,) = bench.told(ANN)
    assert isinstance(refused, Refused)
    assert "cd" * 32 in refused.reason
    assert DIGEST in refused.reason
    bench.send(bench.item(1))
    bench.settle()
    assert bench.batches(ANN) == []


def test_join_that_comes_after_the_news_of_the_workers_death_counts_for_nothing() -> None:
    bench = PoolBench()
    lost(bench, ANN)
    bench.settle()
    bench.join(ANN)
    bench.send(bench.item(1))
    bench.settle()
    assert len(bench.exchange.pool) == 0
    assert bench.batches(ANN) == []


def test_what_cannot_be_read_is_counted_and_its_sender_asked_to_end(caplog: pytest.LogCaptureFixture) -> None:
    bench = PoolBench()
    bench.join(ANN)
    with caplog.at_level(logging.WARNING):
        unreadable: list[list[Buffer]] = [[b"\xc1"], [b""], messages.encode(Cancel(ALICE, ())), pool.encode(Released())]
        for parts in unreadable:
            bench.workers.inbound.append((ANN, parts))
            bench.workers.inbound.append((BEN, parts))
        bench.say(ANN, Join("cpu", DIGEST))
        bench.settle()
    assert bench.exchange.pool.malformed == 9
    assert [record.__dict__["peer"] for record in caplog.records] == [ANN.hex(), BEN.hex()]
    assert [type(message) for message in bench.told(ANN)] == [Refused] * 5
    assert bench.told(BEN) == []
    bench.send(bench.item(1))
    bench.settle()
    assert bench.batches(ANN) == [[1]]


# Fencing


def test_answers_of_a_batch_that_the_worker_does_not_have_are_dropped() -> None:
    bench = PoolBench()
    bench.join(ANN, BEN)
    bench.send(bench.item(1))
    bench.settle()
    (work,) = bench.works(ANN)
    bench.finish(BEN, work)
    bench.finish(ANN, replace(work, batch_id=work.batch_id + 1))
    bench.finish(b"\x01" + b"?" * 15, work)
    bench.settle()
    assert bench.port.answers() == []
    assert bench.exchange.pool.late == 3
    bench.finish(ANN, work)
    bench.finish(ANN, work)
    bench.settle()
    assert bench.results() == {1: 2.0}
    assert bench.exchange.pool.late == 4


def test_late_answer_of_a_lost_worker_is_dropped() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(bench.item(1))
    bench.settle()
    (work,) = bench.works(ANN)
    lost(bench, ANN, 1)
    bench.settle()
    bench.finish(ANN, work)
    bench.settle()
    assert bench.port.answers() == []
    bench.join(BEN)
    bench.finish(BEN, bench.works(BEN)[0])
    bench.settle()
    assert bench.results() == {1: 2.0}


def test_what_a_worker_answered_before_it_died_is_done() -> None:
    bench = PoolBench()
    bench.join(ANN, BEN)
    bench.send(bench.item(1))
    bench.settle()
    lost(bench, ANN, 1, alive=(BEN,))
    bench.finish(ANN, bench.works(ANN)[0])
    bench.settle()
    assert bench.results() == {1: 2.0}
    assert bench.batches(BEN) == []
    assert bench.workers.settled_after, "what was on its way is waited for"


# Deaths


def test_dead_workers_batches_run_again_the_begun_one_as_suspects_and_the_bound_one_as_if_nothing_had_been() -> None:
    bench = PoolBench(max_batch_size=2, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in range(1, 5)])
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    assert bench.batches(ANN) == [[1, 2], [3, 4]]
    lost(bench, ANN, 1, 2)
    bench.join(BEN)
    for _ in range(3):
        bench.finish(BEN, bench.works(BEN)[-1])
        bench.settle()
    assert sorted(bench.batches(BEN)) == [[1], [2], [3, 4]]
    starts = {item.counter: (item.starts, item.suspect) for work in bench.works(BEN) for item in work.requests[0].items}
    assert starts == {1: (1, True), 2: (1, True), 3: (0, False), 4: (0, False)}
    assert set(bench.results()) == {1, 2, 3, 4}


def test_worker_whose_batches_are_not_known_may_have_begun_both() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.picture(lost=[(ANN, None)])
    bench.join(BEN)
    bench.finish(BEN, bench.works(BEN)[0])
    bench.settle()
    assert [work.requests[0].items[0].starts for work in bench.works(BEN)] == [1, 1]


def test_worker_that_vanishes_from_the_picture_is_lost() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.picture(alive=[ANN])
    bench.send(bench.item(1))
    bench.settle()
    bench.picture(alive=[])
    bench.join(BEN)
    assert bench.batches(BEN) == [[1]]


def test_worker_that_no_picture_has_shown_yet_is_not_lost() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.picture(alive=[])
    bench.send(bench.item(1))
    bench.settle()
    assert bench.batches(ANN) == [[1]]


def test_request_ends_with_its_second_dead_worker() -> None:
    bench = PoolBench()
    bench.send(bench.item(1))
    for worker in (ANN, BEN):
        bench.join(worker)
        lost(bench, worker, 1)
        bench.settle()
    assert bench.failures()[1].code == "worker_lost"
    assert len(bench.exchange.desk.inbox) == 0


def test_request_that_must_not_run_twice_ends_with_its_worker_only_if_it_had_begun() -> None:
    bench = PoolBench(prefetch_s=0.001)
    bench.join(ANN)
    bench.send(bench.item(1, method="once"))
    bench.settle()
    bench.send(bench.item(2), bench.item(3))
    bench.clock.advance(0.0095)
    bench.settle()
    assert bench.batches(ANN) == [[1], [2, 3]]
    lost(bench, ANN, 1)
    bench.settle()
    assert {number: failure.code for number, failure in bench.failures().items()} == {1: "worker_lost"}
    bench.join(BEN)
    assert bench.batches(BEN) == [[2, 3]]


def test_suspect_is_with_its_worker_alone() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(bench.item(1), bench.item(2, starts=1), bench.item(3))
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    assert bench.batches(ANN) == [[1]], "held back until the answers before it have left"
    bench.finish(ANN, bench.works(ANN)[0])
    bench.settle()
    assert bench.batches(ANN) == [[1], [2]]
    bench.clock.advance(0.0095)
    bench.settle()
    assert bench.batches(ANN) == [[1], [2]], "nothing waits behind it"
    bench.finish(ANN, bench.works(ANN)[1])
    bench.settle()
    assert bench.batches(ANN) == [[1], [2], [3]]


def test_batch_held_back_for_a_suspect_had_not_begun_when_its_worker_died() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(bench.item(1, starts=1), bench.item(2))
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.picture(lost=[(ANN, None)])
    bench.join(BEN)
    assert bench.failures()[1].code == "worker_lost"
    assert [work.requests[0].items[0].starts for work in bench.works(BEN)] == [0]


def test_requests_whose_wait_is_limited_are_not_timed_out_for_the_death_of_their_worker() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001, bounds=IntakeLimits(queue_timeout_s=0.02))
    bench.join(ANN)
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.clock.advance(0.1)
    bench.settle()
    lost(bench, ANN, 1)
    bench.settle()
    assert bench.failures()[2].code == "deadline_exceeded", "it never had a start"
    bench.join(BEN)
    assert bench.batches(BEN) == [[1]]


# Cancels


def test_cancel_of_queued_bound_and_running_requests() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in (1, 2, 3)])
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.cancel(1, 2, 3)
    bench.settle()
    assert {number: failure.code for number, failure in bench.failures().items()} == {3: CANCELLED}
    for work in bench.works(ANN):
        bench.finish(ANN, work)
        bench.settle()
    assert set(bench.results()) == {1, 2}
    assert bench.batches(ANN) == [[1], [2]]


def test_cancelled_request_does_not_run_again_when_its_worker_dies_and_gives_its_credit_back() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    bench.cancel(1)
    bench.settle()
    lost(bench, ANN, 1, 2)
    bench.join(BEN)
    assert bench.batches(BEN) == [[2]]
    assert {number: failure.code for number, failure in bench.failures().items()} == {1: CANCELLED}


# Leaving


def test_worker_that_leaves_gets_nothing_new_and_is_released_behind_its_last_work() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(*[bench.item(number) for number in (1, 2, 3)])
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.leave(ANN)
    bench.settle()
    assert [type(message).__name__ for message in bench.told(ANN)] == ["Work", "Work", "Released"]
    for work in bench.works(ANN):
        bench.finish(ANN, work)
        bench.settle()
    assert set(bench.results()) == {1, 2}
    assert len(bench.exchange.pool) == 0
    bench.join(BEN)
    assert bench.batches(BEN) == [[3]]


def test_worker_that_leaves_while_a_batch_is_held_back_is_released_behind_that() -> None:
    bench = PoolBench(max_batch_size=1, prefetch_s=0.001)
    bench.join(ANN)
    bench.send(bench.item(1, starts=1), bench.item(2))
    bench.settle()
    bench.clock.advance(0.0095)
    bench.settle()
    bench.leave(ANN)
    bench.settle()
    assert [type(message).__name__ for message in bench.told(ANN)] == ["Work"]
    bench.finish(ANN, bench.works(ANN)[0])
    bench.settle()
    assert [type(message).__name__ for message in bench.told(ANN)] == ["Work", "Work", "Released"]


def test_idle_worker_that_leaves_is_released_at_once_and_may_be_forgotten() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.picture(alive=[ANN])
    bench.leave(ANN)
    bench.settle()
    assert [type(message).__name__ for message in bench.told(ANN)] == ["Released"]
    bench.picture(alive=[])
    bench.settle()
    assert bench.workers.settled_after == []


def test_leave_of_a_stranger_is_answered_so_that_it_can_go() -> None:
    bench = PoolBench()
    bench.leave(ANN)
    bench.settle()
    assert [type(message).__name__ for message in bench.told(ANN)] == ["Released"]


# Draining


def test_drain_refuses_what_comes_and_ends_when_all_is_answered() -> None:
    bench = PoolBench(max_batch_size=1)
    bench.join(ANN)
    bench.send(bench.item(1), bench.item(2))
    bench.settle()
    bench.exchange.drain(10.0)
    bench.settle()
    bench.send(bench.item(3))
    bench.settle()
    assert bench.failures()[3].code == "draining"
    for work_number in (0, 1):
        assert not bench.exchange.finished
        bench.finish(ANN, bench.works(ANN)[work_number])
        bench.settle()
    assert bench.exchange.finished
    assert set(bench.results()) == {1, 2}


def test_end_of_the_grace_answers_what_is_queued() -> None:
    bench = PoolBench()
    bench.send(bench.item(1))
    bench.settle()
    bench.exchange.drain(1.0)
    bench.settle()
    assert bench.exchange.wake_at() <= bench.clock.now() + 1.0
    bench.clock.advance(1.0)
    bench.settle()
    assert bench.failures()[1].code == "draining"
    assert bench.exchange.finished


def test_idle_exchange_sleeps() -> None:
    bench = PoolBench()
    bench.join(ANN)
    bench.picture(alive=[ANN])
    assert bench.exchange.wake_at() == -inf
    bench.settle()
    bench.clock.advance(1.0)
    bench.settle()
    assert bench.exchange.wake_at() == inf
