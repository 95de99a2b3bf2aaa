"""Real worker and broker processes over real channels, as the supervisor spawns them, and a model for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

from paceline import pytorch
from paceline.protocol import control, messages
from paceline.protocol.channel import Channels, ClientSocket, fresh_incarnation, ipc_address, wait
from paceline.protocol.control import ChildState, Drain, Hello, State, Topology
from paceline.protocol.measure import measure
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, InferItem, Result, pack_call
from paceline.protocol.slot import SlotView, read_slot
from paceline.protocol.spec import ChildSpec, HttpSpec, RunnerSpec, ServeSpec, encode_child
from paceline.protocol.tensor import Buffer, from_numpy
from paceline.store import ModelStore

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


class ChildProcess:
    """The supervisor's and an API server's end of one worker or broker."""

    def __init__(self, channels: Channels, spec: ChildSpec, process: subprocess.Popen[bytes]) -> None:
        self.origin = fresh_incarnation()
        self.spec = spec
        self.process = process
        self.states: list[ChildState] = []
        self.hellos: list[Hello] = []
        self.channels = channels
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
        self._data = self.channels.connect(self.wait_state(State.READY).address, self.origin)

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

    def send_raw(self, parts: list[Buffer]) -> None:
        assert self._data is not None
        assert self._data.send(parts)

    def tell(self, message: Drain | Topology) -> None:
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


def saved_runner(home: Path) -> RunnerSpec:
    """The stored Doubler as a runner."""
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
def started(runner: RunnerSpec, run_dir: Path, kind: str = "worker", index: int = 0) -> Iterator[ChildProcess]:
    """A spawned child, as the supervisor spawns it; killed at the end if it still lives."""
    spec_read, spec_write = os.pipe()
    lifeline_read, lifeline_write = os.pipe()
    spec = ChildSpec(
        serve=ServeSpec((runner,), HttpSpec(), str(run_dir)),
        kind=kind,
        runner=runner.name,
        index=index,
        incarnation=fresh_incarnation(),
        control_address=ipc_address(run_dir / f"c-{os.urandom(4).hex()}"),
        slot_path=str(run_dir / f"s-{os.urandom(4).hex()}"),
        parent_pid=os.getpid(),
        lifeline_fd=lifeline_read,
    )
    with Channels() as channels:
        process = subprocess.Popen(
            [sys.executable, "-m", f"paceline.runner.{kind}", str(spec_read)], pass_fds=(spec_read, lifeline_read)
        )
        try:
            child = ChildProcess(channels, spec, process)
            os.close(spec_read)
            with os.fdopen(spec_write, "wb") as pipe:
                pipe.write(encode_child(spec))
            yield child
        finally:
            process.kill()
            process.wait()
            os.close(lifeline_read)
            os.close(lifeline_write)


def row(value: float) -> tuple[np.ndarray]:
    return (np.full((1, 4), value, np.float32),)
