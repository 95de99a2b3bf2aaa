"""A server for native clients on a thread: a control socket and dispatch hosts that speak the real protocol.

python -m tests.paceline.fake_native RUN_DIR        echoes, in a process of its own, to measure a client alone
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from paceline.protocol import channel, control, dtypes
from paceline.protocol.channel import Channels, ServerSocket, fresh_incarnation, ipc_address
from paceline.protocol.control import FailedRunner, Hello, Host, LostHost, State, Topology, Welcome
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, InferItem, Result, decode, encode, pack_result
from paceline.protocol.padding import Padding
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec, encode_serve
from paceline.protocol.tree import Tree

Reply: TypeAlias = Result | Failure | None
Script: TypeAlias = Callable[[InferItem], Reply]

CALL = MethodSpec(
    "__call__", batchable=True, inputs=(InputSpec("x"), InputSpec("y", required=False)), open_inputs=False
)
TYPED = MethodSpec(
    "typed",
    batchable=True,
    inputs=(InputSpec("x", dtypes.F32, (-1, 3)),),
    open_inputs=False,
    latency_budget_ms=100.0,
)
ANY = MethodSpec("anything")
PADDED = MethodSpec(
    "padded",
    batchable=True,
    inputs=(InputSpec("x"), InputSpec("mask", required=False), InputSpec("y", required=False)),
    open_inputs=False,
    padding=Padding(1, 8, inputs=("x",), mask="mask"),
)


def serve_spec(run_dir: Path, model: str = "echo", version: str = "3") -> ServeSpec:
    runner = RunnerSpec(
        model, model, version, "d" * 64, "pytorch", "/none", (CALL, TYPED, ANY, PADDED), aliases=("prod",)
    )
    return ServeSpec((runner,), HttpSpec(rows_max=1000), str(run_dir))


def echo(item: InferItem) -> Reply:
    """The first argument; all of them as a tuple, or by name, if there are more."""
    args, kwargs = item.call()
    if kwargs:
        return result(item, {f"{name}_out": value for name, value in kwargs.items()})
    return result(item, args[0] if len(args) == 1 else args)


def result(item: InferItem, tree: Tree) -> Result:
    return Result(item.counter, item.attempt, item.rows, 1, 1, *pack_result(tree))


def failure(item: InferItem, code: str, text: str, retry_after_s: float | None = None) -> Failure:
    return Failure(item.counter, item.attempt, code, text, retry_after_s)


class FakeHost:
    """One dispatch host: `requests` are the items that came, `cancelled` the counters, `messages` their number."""

    def __init__(self, address: str, socket: ServerSocket) -> None:
        self.address = address
        self.socket = socket
        self.incarnation = fresh_incarnation()
        self.requests: list[InferItem] = []
        self.origins: list[bytes] = []
        self.cancelled: list[int] = []
        self.messages = 0


class FakeNative:
    """A supervisor and its hosts for the runner "echo". All sockets live in one thread; `do` runs something there."""

    def __init__(self, run_dir: Path, script: Script = echo, spec: ServeSpec | None = None, hosts: int = 1) -> None:
        self.run_dir = run_dir
        self.url = f"ipc://{run_dir}"
        self.script = script
        self.spec = spec or serve_spec(run_dir)
        self.hosts: list[FakeHost] = []
        self.hellos: list[Hello] = []
        self.deaf = False  # answer no Hello
        self._count = hosts
        self._version = 0
        self._draining = False
        self._lost: tuple[LostHost, ...] = ()
        self._failed: tuple[FailedRunner, ...] = ()
        self._tasks: deque[Callable[[], None]] = deque()
        self._stopped = False
        self._wake_reader, self._wake_writer = os.pipe()
        self.came = threading.Condition()

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.do(self._stop)
        self._thread.join()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def do(self, *tasks: Callable[[], None]) -> None:
        """Run `tasks` in the thread of the sockets, and wait until they are done."""
        done = threading.Event()

        def run() -> None:
            for task in tasks:
                task()
            done.set()

        self._tasks.append(run)
        os.write(self._wake_writer, b"x")
        assert done.wait(10)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until `condition` holds: it is looked at after every round."""
        with self.came:
            assert self.came.wait_for(condition, 10)

    def add_host(self) -> None:
        """One more host is ready (call within `do`)."""
        socket = self.bind(f"h-{os.urandom(4).hex()}")
        self.hosts.append(FakeHost(socket.address, socket))
        self._publish()

    def bind(self, name: str) -> ServerSocket:
        """A socket of that name (within the thread)."""
        return self._channels.bind(ipc_address(self.run_dir / name))

    def kill_host(self, host: FakeHost, started: tuple[tuple[bytes, int], ...] | None = ()) -> None:
        """A host died with `started` in hand, None = unknown (call within `do`)."""
        host.socket.close()
        self.hosts.remove(host)
        self._lost = (LostHost("echo", host.incarnation, "signal 9", started is not None, True, started or ()),)
        self._publish()

    def give_up(self, reason: str) -> None:
        """The runner is not started again (call within `do`)."""
        self._failed = (FailedRunner("echo", reason),)
        self._publish()

    def drain(self) -> None:
        """(call within `do`)."""
        self._draining = True
        self._publish()

    def _stop(self) -> None:
        self._stopped = True

    def _publish(self) -> None:
        self._version += 1
        for hello in self.hellos:
            self._control.send(hello.incarnation, control.encode(self._topology()))

    def _topology(self) -> Topology:
        hosts = tuple(Host("echo", host.incarnation, host.address, State.READY) for host in self.hosts)
        return Topology(self._version, self._draining, hosts, self._lost, self._failed)

    def _run(self, started: threading.Event) -> None:
        with Channels() as self._channels:
            self._control = self.bind("control.sock")
            for _ in range(self._count):
                self.add_host()
            started.set()
            while not self._stopped:
                self._round()

    def _round(self) -> None:
        channel.wait([self._control, *[host.socket for host in self.hosts]], None, [self._wake_reader])
        while self._tasks:
            os.read(self._wake_reader, 1)
            self._tasks.popleft()()
        for peer, parts in self._control.drain():
            self._on_control(peer, control.decode(parts))
        for host in self.hosts:
            for peer, parts in host.socket.drain():
                self._on_data(host, peer, decode(parts))
        with self.came:
            self.came.notify_all()

    def _on_control(self, peer: bytes, message: object) -> None:
        assert isinstance(message, Hello)
        self.hellos.append(message)
        if not self.deaf:
            self._control.send(peer, control.encode(Welcome(encode_serve(self.spec))))
            self._control.send(peer, control.encode(self._topology()))

    def _on_data(self, host: FakeHost, peer: bytes, message: object) -> None:
        if isinstance(message, Cancel):
            host.cancelled.extend(message.counters)
            return
        assert isinstance(message, Infer)
        host.messages += 1
        host.requests.extend(message.items)
        host.origins.append(message.origin)
        replies = [self.script(item) for item in message.items]
        results = tuple(reply for reply in replies if isinstance(reply, Result))
        failures = tuple(reply for reply in replies if isinstance(reply, Failure))
        if results or failures:
            host.socket.send(peer, encode(Answers(message.origin, results, failures)))


def echo_packed(item: InferItem) -> Reply:
    """As echo for one argument, forwarded as it came: costs the host as little as can be."""
    first = item.packed[1][1]  # type: ignore[index]
    return Result(item.counter, item.attempt, item.rows, 1, 1, first, item.frames)


if __name__ == "__main__":
    with FakeNative(Path(sys.argv[1]), echo_packed):
        threading.Event().wait()
