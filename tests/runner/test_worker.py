"""One real worker process over real channels: what only a process can show. The rules themselves: test_host.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.protocol.channel import fresh_incarnation
from paceline.protocol.control import Drain, State
from paceline.protocol.messages import CANCELLED, Cancel, Failure, Infer, Result
from paceline.protocol.spec import RunnerSpec
from paceline.protocol.tensor import Tensor
from tests.runner.processes import ChildProcess, row, saved_runner, started

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> RunnerSpec:
    return saved_runner(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def worker(runner: RunnerSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChildProcess]:
    """One for all tests that leave it serving."""
    with started(runner, tmp_path_factory.mktemp("run")) as process:
        process.connect()
        yield process


@pytest.fixture
def doomed(runner: RunnerSpec, tmp_path: Path) -> Iterator[ChildProcess]:
    """One for a test that ends it."""
    with started(runner, tmp_path) as process:
        process.connect()
        yield process


def test_worker_says_who_it_is_and_each_state_up_to_ready(worker: ChildProcess) -> None:
    assert [hello.kind for hello in worker.hellos] == ["worker"]
    assert worker.hellos[0].pid == worker.process.pid
    assert [said.state for said in worker.states] == [State.LOADING, State.WARMING, State.READY]


def test_worker_answers_many_requests_each_with_its_own_result(worker: ChildProcess) -> None:
    counters = worker.infer(*[row(float(number)) for number in range(200)])
    for number, answer in enumerate(worker.answers(counters)):
        assert isinstance(answer, Result)
        tree = answer.tree()
        assert isinstance(tree, Tensor)
        assert tree.numpy().tolist() == [[2.0 * number] * 4]
    worker.until(lambda: worker.slot.requests >= 200)
    assert worker.slot.batches < worker.slot.requests


def test_bad_request_fails_alone_in_its_batch(worker: ChildProcess) -> None:
    good, poison, more = worker.answers(worker.infer(row(1), row(1e9), row(3)))
    assert isinstance(good, Result)
    assert isinstance(more, Result)
    assert isinstance(poison, Failure)
    assert poison.code == "model_rejected_input"
    assert "more than a million" in poison.message


def test_queued_request_that_is_cancelled_gives_its_credit_back(worker: ChildProcess) -> None:
    (slow,) = worker.infer(row(2.0), method="hang")  # long enough for the cancel to come in time on a busy machine
    worker.until(lambda: (worker.origin, slow) in worker.slot.in_hand)
    (queued,) = worker.infer(row(1.0))
    worker.send(Cancel(worker.origin, (slow, queued)))
    done, cancelled = worker.answers([slow, queued])
    assert isinstance(done, Result)
    assert isinstance(cancelled, Failure)
    assert cancelled.code == CANCELLED


def test_drain_answers_what_is_queued_and_exits_with_0(doomed: ChildProcess) -> None:
    (slow,) = doomed.infer(row(0.3), method="hang")
    doomed.until(lambda: (doomed.origin, slow) in doomed.slot.in_hand)
    queued = doomed.infer(row(1.0), row(2.0))
    doomed.tell(Drain(10.0))
    assert all(isinstance(answer, Result) for answer in doomed.answers([slow, *queued]))
    assert doomed.exit_code() == 0
    assert doomed.wait_state(State.STOPPED)


def test_sigterm_drains_and_ctrl_c_does_nothing(doomed: ChildProcess) -> None:
    os.kill(doomed.process.pid, signal.SIGINT)
    assert isinstance(doomed.answers(doomed.infer(row(1.0)))[0], Result)
    os.kill(doomed.process.pid, signal.SIGTERM)
    assert doomed.exit_code() == 0


def test_killed_worker_leaves_the_started_requests_in_its_slot(doomed: ChildProcess) -> None:
    started_now = doomed.infer(row(30.0), row(30.0), method="hang")
    doomed.until(lambda: doomed.slot.batch_started_ns > 0 and len(doomed.slot.in_hand) == 2)
    os.kill(doomed.process.pid, signal.SIGKILL)
    assert doomed.exit_code() == -signal.SIGKILL
    assert doomed.slot.known
    assert set(doomed.slot.in_hand) == {(doomed.origin, counter) for counter in started_now}


def test_lost_device_ends_the_worker_at_once_and_unanswered(doomed: ChildProcess) -> None:
    (asked,) = doomed.infer(("x",), method="lose_device")
    assert doomed.exit_code() == 4
    assert doomed.slot.in_hand == ((doomed.origin, asked),)
    assert doomed.answered == {}


def test_garbage_and_false_names_leave_the_worker_serving(worker: ChildProcess) -> None:
    data = worker._data
    assert data is not None
    data.send([b"\xc1 not a head"])
    data.send([b""])
    worker.send(Infer(fresh_incarnation(), (worker.item(row(1.0), "__call__"),)))
    assert isinstance(worker.answers(worker.infer(row(1.0)))[0], Result)


def test_method_that_prints_is_answered(worker: ChildProcess) -> None:
    (answer,) = worker.answers(worker.infer(("hello",), method="shout"))
    assert isinstance(answer, Result)
    assert answer.tree() == "HELLO"


def test_load_error_is_reported_with_its_reason_and_exit_code_3(runner: RunnerSpec, tmp_path: Path) -> None:
    with started(replace(runner, digest="0" * 64), tmp_path) as process:
        said = process.wait_state(State.FAILED)
        assert "StoreError" in said.detail
        assert process.exit_code() == 3
