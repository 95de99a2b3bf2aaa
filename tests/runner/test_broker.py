"""One real broker and real workers over real channels, the supervisor played by the test: what only processes can show.
The rules themselves: test_pool.py and test_station.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.protocol import limits
from paceline.protocol.control import Drain, Host, LostHost, State, Topology
from paceline.protocol.messages import Failure, Infer, Result
from paceline.protocol.spec import RunnerSpec
from paceline.protocol.tensor import Tensor
from paceline.runner.supervision import START_FAILED_EXIT
from tests.runner.processes import ChildProcess, row, saved_runner, started

pytestmark = pytest.mark.e2e


class Ward:
    """The pool as the supervisor of these processes would show it."""

    def __init__(self, runner: RunnerSpec, run_dir: Path, stack: ExitStack) -> None:
        self._runner = runner
        self._run_dir = run_dir
        self._stack = stack
        self._version = 0
        self._lost: list[LostHost] = []
        self.alive: list[ChildProcess] = []

    def start(self, kind: str = "worker", **changes: str) -> ChildProcess:
        """A new process; its READY is not waited for. `changes` of the RunnerSpec that it is told."""
        runner = replace(self._runner, **changes)  # type: ignore[arg-type]  # the tests change texts only
        child = self._stack.enter_context(started(runner, self._run_dir, kind, len(self.alive)))
        self.alive.append(child)
        return child

    def show(self) -> None:
        """Tell everybody alive of everybody READY."""
        hosts = [
            Host(self._runner.name, child.spec.incarnation, child.wait_state(State.READY).pool_address, State.READY)
            for child in self.alive
        ]
        self._version += 1
        for child in self.alive:
            child.tell(Topology(self._version, False, tuple(hosts), tuple(self._lost), ()))

    def kill(self, child: ChildProcess) -> None:
        """SIGKILL, and what a burial does."""
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self.alive.remove(child)
        if child.spec.kind == "worker":
            started_ids = child.slot.started
            self._lost.append(LostHost(self._runner.name, child.spec.incarnation, "killed", True, True, started_ids))
        else:
            os.unlink(child.wait_state(State.READY).pool_address.removeprefix("ipc://"))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> RunnerSpec:
    return replace(saved_runner(tmp_path_factory.mktemp("store")), dispatch="central", workers=2)


@pytest.fixture
def ward(runner: RunnerSpec, tmp_path: Path) -> Iterator[Ward]:
    with ExitStack() as stack:
        yield Ward(runner, tmp_path, stack)


def numbers(answers: list[Result | Failure]) -> list[float]:
    """The first number of each result."""
    found = []
    for answer in answers:
        assert isinstance(answer, Result), answer
        tree = answer.tree()
        assert isinstance(tree, Tensor)
        found.append(float(tree.numpy().flat[0]))
    return found


def in_hand(worker: ChildProcess, broker: ChildProcess, counter: int) -> Callable[[], bool]:
    return lambda: (broker.origin, counter) in worker.slot.in_hand


def throw_garbage(broker: ChildProcess) -> None:
    """At both sockets, from strangers and in another's name."""
    stranger = broker.channels.connect(broker.wait_state(State.READY).pool_address, b"\x01" + b"?" * 15)
    for parts in ([b"\xc1 not a head"], [b""], [b"x"] * 5):
        stranger.send(parts)
        broker.send_raw(list(parts))
    broker.send(Infer(b"\x01" + b"?" * 15, (broker.item(row(1.0), "__call__"),)))


def test_workers_of_a_broker_answer_whatever_else_comes_until_all_are_drained(ward: Ward) -> None:
    broker = ward.start("broker")
    workers = [ward.start(), ward.start()]
    ready = broker.wait_state(State.READY)
    assert "/h-" in ready.address
    assert "/p-" in ready.pool_address
    assert [hello.kind for hello in broker.hellos] == ["broker"]
    assert workers[0].wait_state(State.READY).address == ""
    ward.show()
    broker.connect()
    throw_garbage(broker)
    counters = broker.infer(*[row(float(number)) for number in range(300)])
    assert numbers(broker.answers(counters)) == [2.0 * number for number in range(300)]
    broker.until(lambda: broker.slot.requests >= 300)
    assert sum(worker.slot.requests for worker in workers) == 300
    assert "libtorch" not in Path(f"/proc/{broker.process.pid}/maps").read_text()
    (slow,) = broker.infer(row(0.5), method="hang")
    last = broker.infer(row(1.0))
    for child in (broker, *workers):
        child.tell(Drain(10.0))
        assert child is not broker or numbers(broker.answers([slow, *last])) == [0.5, 2.0]
        assert child.exit_code() == 0


def test_worker_dies_with_a_batch_running_and_the_next_answers_that_and_what_waited(ward: Ward) -> None:
    broker, first = ward.start("broker"), ward.start()
    ward.show()
    broker.connect()
    (running,) = broker.infer(row(0.3), method="hang")
    broker.until(in_hand(first, broker, running))
    queued = broker.infer(*[row(float(number)) for number in range(5)])
    ward.kill(first)
    second = ward.start()
    ward.show()
    assert numbers(broker.answers([running, *queued])) == [pytest.approx(0.3), *[2.0 * number for number in range(5)]]
    assert second.slot.requests == 6


def test_worker_lives_on_when_its_broker_dies_and_serves_the_next(ward: Ward) -> None:
    first, worker = ward.start("broker"), ward.start()
    ward.show()
    first.connect()
    (running,) = first.infer(row(0.5), method="hang")
    first.until(in_hand(worker, first, running))
    ward.kill(first)
    ward.show()
    second = ward.start("broker")
    ward.show()
    second.connect()
    assert numbers(second.answers(second.infer(row(4.0)))) == [8.0]
    worker.tell(Drain(10.0))
    assert worker.exit_code() == 0


def test_broker_that_cannot_bind_says_failed_with_the_reason(runner: RunnerSpec, tmp_path: Path) -> None:
    folder = tmp_path / ("d" * (limits.IPC_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - 15))
    folder.mkdir()  # names as short as the test's own fit, those of a broker's sockets do not
    with started(runner, folder, "broker") as broker:
        said = broker.wait_state(State.FAILED)
        assert (said.state, broker.exit_code()) == (State.FAILED, START_FAILED_EXIT)
    assert "choose a shorter run directory" in said.detail


def test_worker_of_another_model_is_refused_and_says_failed_with_both_digests(ward: Ward, runner: RunnerSpec) -> None:
    ward.start("broker", digest="cd" * 32)
    worker = ward.start()
    ward.show()
    failed = worker.wait_state(State.STOPPED)
    assert failed.state == State.FAILED
    assert runner.digest in failed.detail
    assert "cd" * 32 in failed.detail
    assert worker.exit_code() == 3
