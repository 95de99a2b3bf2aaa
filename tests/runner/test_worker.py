"""One real worker process over real channels: what only a process can show. The rules themselves: test_host.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from paceline import pytorch
from paceline.protocol import control, messages
from paceline.protocol.channel import Channels, ClientSocket, fresh_incarnation, ipc_address, wait
from paceline.protocol.control import ChildState, Drain, Hello, State
from paceline.protocol.measure import measure
from paceline.protocol.messages import CANCELLED, Answers, Cancel, Failure, Infer, InferItem, Result, pack_call
from paceline.protocol.slot import SlotView, read_slot
from paceline.protocol.spec import ChildSpec, HttpSpec, RunnerSpec, ServeSpec, encode_child
from paceline.protocol.tensor import Tensor, from_numpy
from paceline.store import ModelStore

pytestmark = pytest.mark.e2e

T = TypeVar("T")
PATIENCE_S = 30.0
SIGNATURES: dict[str, dict[str, object]] = {
    "__call__": {"batchable": True, "batch_dim": 0},
    "hang": {"batchable": True, "batch_dim": 0},
    "shout": {"batchable": False},
    "lose_device": {"batchable": False},
}


class Doubler(torch.nn.Module):
    """Doubles; refuses other widths than 4; can sleep, and talk."""

    def __init__(self) -> None:
        super().__init__()
        self.two = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > 1e6:
            raise ValueError("more than a million")
        return x * self.two

    def hang(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(float(x[0, 0]))
        return x

    def shout(self, text: str) -> str:
        print(text)  # noqa: T201  # users' models do
        return text.upper()

    def lose_device(self, text: str) -> str:
        raise RuntimeError("CUDA error: device-side assert triggered")


class WorkerProcess:
    """The supervisor's and an API server's end of one worker."""

    def __init__(self, channels: Channels, spec: ChildSpec, process: subprocess.Popen[bytes]) -> None:
        self.origin = fresh_incarnation()
        self.spec = spec
        self.process = process
        self.states: list[ChildState] = []
        self.hellos: list[Hello] = []
        self._channels = channels
        self._control = channels.bind(spec.control_address)
        self._data: ClientSocket | None = None
        self.answered: dict[int, Result | Failure] = {}
        self._counter = 0

    @property
    def slot(self) -> SlotView:
        view = read_slot(Path(self.spec.slot_path))
        assert view is not None
        return view

    def wait_state(self, state: State) -> ChildState:
        self.until(lambda: any(said.state in (state, State.FAILED) for said in self.states))
        return next(said for said in self.states if said.state in (state, State.FAILED))

    def connect(self) -> None:
        self._data = self._channels.connect(self.wait_state(State.READY).address, self.origin)

    def infer(self, *calls: tuple[object, ...], method: str = "__call__", deadline_s: float = 30.0) -> list[int]:
        """Send one message of one request per call; returns their counters."""
        items = [self.item(call, method, deadline_s) for call in calls]
        self.send(Infer(self.origin, tuple(items)))
        return [item.counter for item in items]

    def item(self, call: tuple[object, ...], method: str, deadline_s: float = 30.0) -> InferItem:
        self._counter += 1
        args = tuple(from_numpy(arg) if isinstance(arg, np.ndarray) else arg for arg in call)
        spec = next(spec for spec in self.spec.serve.runners[0].methods if spec.name == method)
        measured = measure(spec, args, {})  # type: ignore[arg-type]  # the tests' calls are trees
        packed, frames = pack_call(args, {})  # type: ignore[arg-type]
        now_ns = time.monotonic_ns()
        deadline_ns = now_ns + round(deadline_s * 1e9)
        return InferItem(
            self._counter,
            0,
            0,
            False,
            now_ns,
            deadline_ns,
            0,
            measured.rows,
            measured.length,
            method,
            measured.key,
            f"r{self._counter}",
            "",
            packed,
            frames,
        )

    def send(self, message: Infer | Cancel) -> None:
        assert self._data is not None
        assert self._data.send(messages.encode(message))

    def tell(self, message: Drain) -> None:
        assert self._control.send(self.spec.incarnation, control.encode(message))

    def answers(self, counters: list[int]) -> list[Result | Failure]:
        self.until(lambda: all(counter in self.answered for counter in counters))
        return [self.answered[counter] for counter in counters]

    def until(self, condition: Callable[[], T]) -> T:
        """Hear what comes until `condition` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {PATIENCE_S} s; states {self.states}"
            sockets = [socket for socket in (self._control, self._data) if socket is not None]
            wait(sockets, 0.005)
            self._hear()
        return value

    def exit_code(self) -> int:
        self.until(lambda: self.process.poll() is not None)
        return self.process.wait()

    def _hear(self) -> None:
        for peer, parts in self._control.drain():
            message = control.decode(parts)
            assert peer == self.spec.incarnation
            if isinstance(message, ChildState):
                self.states.append(message)
            elif isinstance(message, Hello):
                self.hellos.append(message)
        if self._data is None:
            return
        for parts in self._data.drain():
            answer = messages.decode(parts)
            if isinstance(answer, Answers):
                assert answer.origin == self.origin
                for result in answer.results:
                    self._settle(result)
                for failure in answer.failures:
                    self._settle(failure)

    def _settle(self, answer: Result | Failure) -> None:
        assert answer.counter not in self.answered, f"{answer} is a second answer"
        self.answered[answer.counter] = answer


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> RunnerSpec:
    """The stored Doubler as a runner."""
    home = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACELINE_HOME", str(home))
        zeros = np.zeros((1, 4), np.float32)
        samples = {"__call__": zeros, "hang": zeros}
        saved = pytorch.save(Doubler(), "doubler", signatures=SIGNATURES, sample_inputs=samples)
        version = ModelStore().get(str(saved))
    return RunnerSpec(
        name="doubler",
        model="doubler",
        version=str(version.tag.version),
        digest=version.digest,
        framework="pytorch",
        store_home=str(home),
        methods=tuple(version.manifest.methods.values()),
        trust=True,
    )


@contextmanager
def started(runner: RunnerSpec, run_dir: Path) -> Iterator[WorkerProcess]:
    """A spawned worker, as the supervisor spawns it; killed at the end if it still lives."""
    spec_read, spec_write = os.pipe()
    lifeline_read, lifeline_write = os.pipe()
    spec = ChildSpec(
        serve=ServeSpec((runner,), HttpSpec(), str(run_dir)),
        kind="worker",
        runner=runner.name,
        index=0,
        incarnation=fresh_incarnation(),
        control_address=ipc_address(run_dir / "control.sock"),
        slot_path=str(run_dir / "slot"),
        parent_pid=os.getpid(),
        lifeline_fd=lifeline_read,
    )
    with Channels() as channels:
        process = subprocess.Popen(
            [sys.executable, "-m", "paceline.runner.worker", str(spec_read)], pass_fds=(spec_read, lifeline_read)
        )
        try:
            worker = WorkerProcess(channels, spec, process)
            os.close(spec_read)
            with os.fdopen(spec_write, "wb") as pipe:
                pipe.write(encode_child(spec))
            yield worker
        finally:
            process.kill()
            process.wait()
            os.close(lifeline_read)
            os.close(lifeline_write)


@pytest.fixture(scope="module")
def worker(runner: RunnerSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One for all tests that leave it serving."""
    with started(runner, tmp_path_factory.mktemp("run")) as process:
        process.connect()
        yield process


@pytest.fixture
def doomed(runner: RunnerSpec, tmp_path: Path) -> Iterator[WorkerProcess]:
    """One for a test that ends it."""
    with started(runner, tmp_path) as process:
        process.connect()
        yield process


def row(value: float) -> tuple[np.ndarray]:
    return (np.full((1, 4), value, np.float32),)


def test_worker_says_who_it_is_and_each_state_up_to_ready(worker: WorkerProcess) -> None:
    assert [hello.kind for hello in worker.hellos] == ["worker"]
    assert worker.hellos[0].pid == worker.process.pid
    assert [said.state for said in worker.states] == [State.LOADING, State.WARMING, State.READY]


def test_worker_answers_many_requests_each_with_its_own_result(worker: WorkerProcess) -> None:
    counters = worker.infer(*[row(float(number)) for number in range(200)])
    for number, answer in enumerate(worker.answers(counters)):
        assert isinstance(answer, Result)
        tree = answer.tree()
        assert isinstance(tree, Tensor)
        assert tree.numpy().tolist() == [[2.0 * number] * 4]
    worker.until(lambda: worker.slot.requests >= 200)
    assert worker.slot.batches < worker.slot.requests


def test_bad_request_fails_alone_in_its_batch(worker: WorkerProcess) -> None:
    good, poison, more = worker.answers(worker.infer(row(1), row(1e9), row(3)))
    assert isinstance(good, Result)
    assert isinstance(more, Result)
    assert isinstance(poison, Failure)
    assert poison.code == "model_rejected_input"
    assert "more than a million" in poison.message


def test_queued_request_that_is_cancelled_gives_its_credit_back(worker: WorkerProcess) -> None:
    (slow,) = worker.infer(row(2.0), method="hang")  # long enough for the cancel to come in time on a busy machine
    worker.until(lambda: (worker.origin, slow) in worker.slot.in_hand)
    (queued,) = worker.infer(row(1.0))
    worker.send(Cancel(worker.origin, (slow, queued)))
    done, cancelled = worker.answers([slow, queued])
    assert isinstance(done, Result)
    assert isinstance(cancelled, Failure)
    assert cancelled.code == CANCELLED


def test_drain_answers_what_is_queued_and_exits_with_0(doomed: WorkerProcess) -> None:
    (slow,) = doomed.infer(row(0.3), method="hang")
    doomed.until(lambda: (doomed.origin, slow) in doomed.slot.in_hand)
    queued = doomed.infer(row(1.0), row(2.0))
    doomed.tell(Drain(10.0))
    assert all(isinstance(answer, Result) for answer in doomed.answers([slow, *queued]))
    assert doomed.exit_code() == 0
    assert doomed.wait_state(State.STOPPED)


def test_sigterm_drains_and_ctrl_c_does_nothing(doomed: WorkerProcess) -> None:
    os.kill(doomed.process.pid, signal.SIGINT)
    assert isinstance(doomed.answers(doomed.infer(row(1.0)))[0], Result)
    os.kill(doomed.process.pid, signal.SIGTERM)
    assert doomed.exit_code() == 0


def test_killed_worker_leaves_the_started_requests_in_its_slot(doomed: WorkerProcess) -> None:
    started_now = doomed.infer(row(30.0), row(30.0), method="hang")
    doomed.until(lambda: doomed.slot.batch_started_ns > 0 and len(doomed.slot.in_hand) == 2)
    os.kill(doomed.process.pid, signal.SIGKILL)
    assert doomed.exit_code() == -signal.SIGKILL
    assert doomed.slot.known
    assert set(doomed.slot.in_hand) == {(doomed.origin, counter) for counter in started_now}


def test_lost_device_ends_the_worker_at_once_and_unanswered(doomed: WorkerProcess) -> None:
    (asked,) = doomed.infer(("x",), method="lose_device")
    assert doomed.exit_code() == 4
    assert doomed.slot.in_hand == ((doomed.origin, asked),)
    assert doomed.answered == {}


def test_garbage_and_false_names_leave_the_worker_serving(worker: WorkerProcess) -> None:
    data = worker._data
    assert data is not None
    data.send([b"\xc1 not a head"])
    data.send([b""])
    worker.send(Infer(fresh_incarnation(), (worker.item(row(1.0), "__call__"),)))
    assert isinstance(worker.answers(worker.infer(row(1.0)))[0], Result)


def test_method_that_prints_is_answered(worker: WorkerProcess) -> None:
    (answer,) = worker.answers(worker.infer(("hello",), method="shout"))
    assert isinstance(answer, Result)
    assert answer.tree() == "HELLO"


def test_load_error_is_reported_with_its_reason_and_exit_code_3(runner: RunnerSpec, tmp_path: Path) -> None:
    with started(replace(runner, digest="0" * 64), tmp_path) as process:
        said = process.wait_state(State.FAILED)
        assert "StoreError" in said.detail
        assert process.exit_code() == 3
