"""The real process under a fake supervisor and a fake host: ready by message, serves, drains, exits 0; no torch."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from paceline.protocol import control, messages
from paceline.protocol.channel import Channels, ServerSocket, fresh_incarnation, ipc_address, wait
from paceline.protocol.control import ChildState, Drain, Hello, Host, Seen, State
from paceline.protocol.messages import Infer, InferItem
from paceline.protocol.slot import read_slot
from paceline.protocol.spec import ChildSpec, HttpSpec, RunnerSpec, ServeSpec, encode_child
from tests.api_server.fake_host import answer
from tests.api_server.world import OPEN, json_body, topology

T = TypeVar("T")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the process ties itself to its parent as Linux does")


@dataclass
class Supervised:
    """The process and both of its peers."""

    channels: Channels
    process: subprocess.Popen[bytes]
    supervisor: ServerSocket
    host: ServerSocket
    host_incarnation: bytes
    incarnation: bytes
    port: int
    slot: Path

    def control(self, wanted: type[T], matching: Callable[[T], bool] = lambda _: True) -> T:
        """The next control message of this kind."""
        while True:
            assert wait([self.supervisor], 20)
            for _, parts in self.supervisor.drain():
                message = control.decode(parts)
                if isinstance(message, wanted) and matching(message):
                    return message

    def ready(self) -> None:
        self.control(ChildState, lambda state: state.state == State.READY)
        up = Host("net", self.host_incarnation, self.host.address, State.READY)
        self.supervisor.send(self.incarnation, control.encode(topology(1, up)))

    def received(self) -> tuple[bytes, Infer]:
        while True:
            assert wait([self.host], 20)
            for peer, parts in self.host.drain():
                message = messages.decode(parts)
                if isinstance(message, Infer):
                    return peer, message

    def answer(self, peer: bytes, infer: Infer) -> InferItem:
        self.host.send(peer, messages.encode(answer(infer)))
        return infer.items[0]

    def post(self, **headers: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST", "/v2/models/net/infer", json_body(), headers)
        return connection


@contextmanager
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    incarnation, host_incarnation = fresh_incarnation(), fresh_incarnation()
    with Channels() as channels, socket.create_server(("127.0.0.1", 0)) as listening:
        supervisor = channels.bind(ipc_address(tmp_path / "c"))
        host = channels.bind(ipc_address(tmp_path / "h"))
        lifeline, lifeline_end = os.pipe()
        spec_read, spec_write = os.pipe()
        runner = RunnerSpec("net", "net", "1", "d", "pytorch", "/store", (OPEN,))
        spec = ChildSpec(
            ServeSpec((runner,), HttpSpec(drain_grace_s=5.0), str(tmp_path)),
            "api_server",
            "",
            0,
            incarnation,
            supervisor.address,
            str(tmp_path / "slot"),
            os.getpid(),
            lifeline,
            (listening.fileno(),),
        )
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "paceline.api_server.server", str(spec_read)],
            pass_fds=(spec_read, lifeline, listening.fileno()),
            stderr=subprocess.PIPE,
        )
        with os.fdopen(spec_write, "wb") as pipe:
            pipe.write(encode_child(spec))
        os.close(spec_read)
        port = listening.getsockname()[1]
        try:
            yield Supervised(
                channels, process, supervisor, host, host_incarnation, incarnation, port, tmp_path / "slot"
            )
        finally:
            process.kill()
            process.communicate()
            os.close(lifeline)
            os.close(lifeline_end)


def test_it_says_hello_is_ready_serves_and_drains_on_sigterm(tmp_path: Path) -> None:
    with supervised(tmp_path) as world:
        hello = world.control(Hello)
        assert (hello.kind, hello.incarnation, hello.pid) == ("api_server", world.incarnation, world.process.pid)
        world.ready()
        first = world.post()
        peer, infer = world.received()
        world.answer(peer, infer)
        reply = first.getresponse()
        assert (reply.status, json.loads(reply.read())["outputs"][0]["data"]) == (200, [1, 2, 3, 4])

        first.request("POST", "/v2/models/net/infer", json_body())
        peer, infer = world.received()
        world.process.send_signal(signal.SIGINT)
        world.process.send_signal(signal.SIGTERM)
        world.control(ChildState, lambda state: state.state == State.DRAINING)
        refused = world.post().getresponse()
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        world.answer(peer, infer)
        assert first.getresponse().status == 200
        _, errors = world.process.communicate(timeout=20)
        assert world.process.returncode == 0
        imported = {line.rpartition(b"|")[2].strip().decode() for line in errors.splitlines() if b"|" in line}
        assert "uvicorn" in imported
        assert not {name for name in imported if name.split(".")[0] == "torch" or name.startswith("paceline.runner")}
        slot = read_slot(world.slot)
        assert slot is not None
        assert slot.beat_ns > 0


def test_it_drains_on_the_supervisors_word_and_answers_the_rest_at_the_end_of_the_grace(tmp_path: Path) -> None:
    with supervised(tmp_path) as world:
        world.ready()
        connection = world.post()
        world.received()
        world.supervisor.send(world.incarnation, control.encode(Drain(0.1)))
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["code"]) == (503, "draining")
        world.process.communicate(timeout=20)
        assert world.process.returncode == 0


def test_it_says_which_picture_it_goes_by_and_is_ready_by_then(tmp_path: Path) -> None:
    with supervised(tmp_path) as world:
        world.ready()
        assert world.control(Seen).version == 1
        connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=30)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200


def test_the_open_requests_of_a_lost_host_go_to_the_next_one(tmp_path: Path) -> None:
    with supervised(tmp_path) as world:
        world.ready()
        connection = world.post()
        _, infer = world.received()
        lost = control.LostHost("net", world.host_incarnation, "signal 9", True, True, ())
        # As a new worker does: a fresh address, where this process's identity is unknown yet.
        world.host = world.channels.bind(ipc_address(tmp_path / "h2"))
        again = Host("net", fresh_incarnation(), world.host.address, State.READY)
        world.supervisor.send(world.incarnation, control.encode(topology(2, again, lost=(lost,))))
        peer, second = world.received()
        assert (second.items[0].counter, second.items[0].attempt) == (infer.items[0].counter, 1)
        world.answer(peer, second)
        assert connection.getresponse().status == 200
