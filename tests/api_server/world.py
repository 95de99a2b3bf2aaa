"""What the API server's tests share: specs, a fake host behind a fake pipe, a virtual loop, an in-process server."""

from __future__ import annotations

import asyncio
import heapq
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

from paceline.api_server.front import HttpBounds
from paceline.api_server.server import HttpServer
from paceline.protocol import dtypes
from paceline.protocol.clock import VirtualClock
from paceline.protocol.control import Host, Topology
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, InferItem, Result, decode, encode
from paceline.protocol.service_app import ServiceApp
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec
from paceline.protocol.tensor import Buffer

T = TypeVar("T")

ORIGIN = b"\x01" + b"o" * 15
HOST = b"\x01" + b"h" * 15
OTHER_HOST = b"\x01" + b"i" * 15

OPEN = MethodSpec("__call__", batchable=True, inputs=(InputSpec("x"),), open_inputs=False)
TYPED = MethodSpec("__call__", batchable=True, inputs=(InputSpec("x", dtypes.F32, (-1, 4)),), open_inputs=False)


def runner(name: str = "net", *methods: MethodSpec, **options: Any) -> RunnerSpec:
    return RunnerSpec(name, name, "3", "d" * 64, "pytorch", "/store", methods or (OPEN,), **options)


def serve(*runners: RunnerSpec, **http: Any) -> ServeSpec:
    return ServeSpec(runners or (runner(),), HttpSpec(**http), "/run")


def topology(version: int, *hosts: Host, **rest: Any) -> Topology:
    return Topology(version, rest.get("draining", False), hosts, rest.get("lost", ()), rest.get("failed", ()))


def up(incarnation: bytes = HOST, name: str = "net", state: str = "ready") -> Host:
    return Host(name, incarnation, "ipc://nowhere", state)


@dataclass
class FakePipe:
    """A host: it holds what it was sent until told to answer, or answers each message by `reply` at once."""

    on_message: Callable[[list[Buffer]], None]
    reply: Callable[[InferItem], Result | Failure] | None = None
    accepts: bool = True
    closed: bool = False
    inferred: list[Infer] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    arrived: list[Result | Failure] = field(default_factory=list)

    def send(self, parts: list[Buffer]) -> bool:
        if not self.accepts:
            return False
        message = decode([bytes(part) for part in parts])
        if isinstance(message, Cancel):
            self.cancelled.extend(message.counters)
        elif isinstance(message, Infer):
            self.inferred.append(message)
            if self.reply is not None:
                asyncio.get_running_loop().call_soon(self.answer, [self.reply(item) for item in message.items])
        return True

    def answer(self, answers: list[Result | Failure]) -> None:
        results = tuple(a for a in answers if isinstance(a, Result))
        failures = tuple(a for a in answers if isinstance(a, Failure))
        self.on_message(encode(Answers(ORIGIN, results, failures)))

    def deliver(self) -> None:
        arrived, self.arrived = self.arrived, []
        self.answer(arrived)

    def close(self) -> None:
        self.closed = True

    @property
    def items(self) -> list[InferItem]:
        return [item for message in self.inferred for item in message.items]


def echo(item: InferItem) -> Result:
    """The first argument back, as a batch of one."""
    return Result(item.counter, item.attempt, item.rows, 1, 1, item.packed[1][1], item.frames)  # type: ignore[index]


class FakeHosts:
    """Stands for `connector(...)`: a FakePipe per connection, newest last."""

    def __init__(self, reply: Callable[[InferItem], Result | Failure] | None = echo) -> None:
        self.reply = reply
        self.pipes: list[FakePipe] = []

    def __call__(self, address: str, on_message: Callable[[list[Buffer]], None]) -> FakePipe:
        self.pipes.append(FakePipe(on_message, self.reply))
        return self.pipes[-1]


@dataclass(order=True)
class _Timer:
    at: float
    number: int
    callback: Callable[..., None] = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class VirtualLoop:
    """The part of an event loop that Hosts uses, on a virtual clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self._soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._timers: list[_Timer] = []
        self._numbers = 0

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self._soon.append((callback, args))

    def call_later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> _Timer:
        self._numbers += 1
        timer = _Timer(self.clock.now() + delay_s, self._numbers, callback, args)
        heapq.heappush(self._timers, timer)
        return timer

    def tick(self) -> None:
        """Run what is due now."""
        while self._soon:
            callback, args = self._soon.pop(0)
            callback(*args)

    def advance(self, seconds: float) -> None:
        """Move the clock, running each timer at its own time."""
        ends_at = self.clock.now() + seconds
        self.tick()
        while self._timers and self._timers[0].at <= ends_at:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                self.clock.advance(max(0.0, timer.at - self.clock.now()))
                timer.callback(*timer.args)
                self.tick()
        self.clock.advance(max(0.0, ends_at - self.clock.now()))


@dataclass
class Running:
    """A server in this process and its port."""

    server: HttpServer
    hosts: FakeHosts
    port: int

    async def open_requests(self, count: int) -> None:
        """Until the service has `count` requests in hand."""
        async with asyncio.timeout(10):
            while self.server.service_requests != count:
                await asyncio.sleep(0.001)

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port))


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Wire:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self, has_body: bool = True) -> Reply:
        """The next answer; fails at the end of the stream."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        line, *lines = head.decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
        size = int(headers.get("content-length", "0")) if has_body else 0
        return Reply(int(line.split()[1]), headers, await self.reader.readexactly(size))

    async def ended(self) -> bool:
        """Whether the server ended the connection and sent nothing more."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def running(
    spec: ServeSpec | None = None,
    hosts: FakeHosts | None = None,
    bounds: HttpBounds | None = None,
    sweep_s: float = 0.05,
    service: ServiceApp | None = None,
) -> AsyncIterator[Running]:
    """An HttpServer on a free port whose every runner has one fake host up."""
    spec = spec or serve()
    hosts = hosts or FakeHosts()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = HttpServer(spec, ORIGIN, hosts, [listening], bounds, sweep_s, service)
    ups = [up(b"\x01" + name.encode().ljust(15, b"h"), name) for name in (r.name for r in spec.runners)]
    server.hosts.apply(topology(1, *ups))
    await server.start()
    try:
        yield Running(server, hosts, port)
    finally:
        await server.stop()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_:
        return runner_.run(coroutine)


def binary_body(
    shape: list[int], data: bytes, *, name: str = "x", datatype: str = "FP32", **extra: Any
) -> tuple[bytes, int]:
    """(body, length of its JSON head) of a request with one binary input and binary outputs."""
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}} | extra).encode()
    return head + data, len(head)


def post(body: bytes, *headers: str, model: str = "net", head_length: int | None = None) -> bytes:
    """A whole infer request."""
    lines = [f"POST /v2/models/{model}/infer HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    if head_length is not None:
        lines.append(f"Inference-Header-Content-Length: {head_length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def json_body(**request: Any) -> bytes:
    default = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    return json.dumps(default | request).encode()


def good() -> bytes:
    body, head_length = binary_body([1, 4], bytes(16))
    return post(body, head_length=head_length)
