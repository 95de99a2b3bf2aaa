"""A server of fake children in a process of its own, and a short private directory for its sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.protocol import channel, control
from paceline.protocol.channel import Channels, fresh_incarnation
from paceline.protocol.control import Hello, Topology

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PATIENCE_S = 15.0


class Server:
    """`fake_serve.py` at work; `wait_for` reads its events."""

    def __init__(self, run_dir: Path, *targets: str, **flags: object) -> None:
        self.run_dir = run_dir
        self.events: list[dict[str, Any]] = []
        self._read = 0
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fake_serve.py"), str(run_dir)]
            + [f"{key}={value}" for key, value in flags.items()]
            + ["--", *(targets or ("good",))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def port(self) -> int:
        return int(self.wait_for("Starting", again=True)["url"].rpartition(":")[2])

    def wait_for(self, kind: str, again: bool = False, **fields: object) -> dict[str, Any]:
        """The next event of `kind` with these fields; `again`: an earlier one will do."""
        at = 0 if again else self._read
        while True:
            while at < len(self.events):
                event = self.events[at]
                at += 1
                if event["event"] == kind and all(event[key] == value for key, value in fields.items()):
                    self._read = max(self._read, at)
                    return event
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            if not line:
                pytest.fail(f"the server ended without {kind} {fields}: {self.events}\n{self.errors()}")
            self.events.append(json.loads(line))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Its exit code, once it has exited by itself; reads the remaining events."""
        assert self.process.stdout is not None
        self.events += [json.loads(line) for line in self.process.stdout]
        return self.process.wait(PATIENCE_S)

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Native:
    """A native client's view: the topologies that the supervisor sends."""

    def __init__(self, channels: Channels, run_dir: Path) -> None:
        incarnation = fresh_incarnation()
        self.socket = channels.connect(f"ipc://{run_dir}/control.sock", incarnation)
        self.socket.send(control.encode(Hello("client", "", 0, incarnation, os.getpid())))
        self.messages: list[control.ControlMessage] = []

    def wait_for(self, condition: Callable[[Topology], bool]) -> Topology:
        """The first topology that meets `condition`."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            channel.wait([self.socket], deadline - time.monotonic())
            for parts in self.socket.drain():
                message = control.decode(parts)
                self.messages.append(message)
                if isinstance(message, Topology) and condition(message):
                    return message
        pytest.fail(f"no such topology: {self.messages[-3:]}")


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Does not exist yet; below a directory that is short enough for sockets."""
    base = Path(tempfile.mkdtemp(prefix="pl-"))
    yield base / "r"
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def start(run_dir: Path) -> Iterator[Callable[..., Server]]:
    """`start("good", workers=2)` starts a server that is gone after the test."""
    servers: list[Server] = []

    def starting(*targets: str, at: Path | None = None, **flags: object) -> Server:
        servers.append(Server(at or run_dir, *targets, **flags))
        return servers[-1]

    yield starting
    for server in servers:
        server.close()


@pytest.fixture
def native(run_dir: Path) -> Iterator[Callable[[], Native]]:
    with Channels() as channels:
        yield lambda: Native(channels, run_dir)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait for a condition, at most PATIENCE_S."""

    def wait_until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition was not met in time"
            signal.sigtimedwait([], 0.005)

    return wait_until
