"""The load generator's HTTP side: prebuilt request bytes over keep-alive connections, as few cycles as Python allows.

Latency runs from the intended send time: in an open loop from the Poisson schedule, whether or not a connection was
free (no coordinated omission); in a closed loop from the send. Called by load_process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

from benchmarks.report import Sample

CONNECTIONS_MAX = 2048


def infer_request(url_host: str, model: str, tensors: dict[str, np.ndarray], headers: dict[str, str]) -> bytes:
    """The bytes of one OIP infer request in the binary tensor extension, asking for binary outputs."""
    names = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8", "float16": "FP16"}
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": names[str(array.dtype)],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in tensors.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    body = head + b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {url_host}",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(body)}",
        *[f"{name}: {value}" for name, value in headers.items()],
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight. `on_answer(connection, status, body)`."""

    def __init__(self, on_answer: Callable[[Connection, int, bytes], None]) -> None:
        self._on_answer = on_answer
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.intended_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream transport, by the way it is made

    def send(self, request: bytes, intended_s: float) -> None:
        self.intended_s = intended_s
        assert self._transport is not None
        self._transport.write(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            self._received = received
            return
        at = received.find(b"ontent-length: ", 0, end)
        if at < 0:
            at = received.find(b"ontent-Length: ", 0, end)
        size = int(received[at + 15 : received.find(b"\r\n", at)]) if at >= 0 else 0
        if len(received) < end + 4 + size:
            self._received = received
            return
        self._received = b""
        self._on_answer(self, int(received[9:12]), received[end + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_answer(self, 0, b"")


class HttpLoad:
    """One process's load: `run` warms up, measures, and gives a Sample."""

    def __init__(self, host: str, port: int, request: bytes, warmup_s: float, duration_s: float) -> None:
        self._host, self._port = host, port
        self._request = request
        self._warmup_s, self._duration_s = warmup_s, duration_s
        self._latencies: list[float] = []
        self._errors: Counter[str] = Counter()
        self._batch_rows: Counter[int] = Counter()
        self._measure_from = self._stop_at = 0.0
        self._idle: deque[Connection] = deque()
        self._backlog: deque[float] = deque()
        self._connections = 0
        self._closed_loop = False
        self._in_flight = 0
        self._finished: asyncio.Event = asyncio.Event()

    async def closed(self, connections: int) -> Sample:
        """Keep `connections` requests in flight."""
        self._closed_loop = True
        opened = [await self._connect() for _ in range(connections)]
        self._start()
        for connection in opened:
            self._in_flight += 1
            connection.send(self._request, time.perf_counter())
        return await self._finish()

    async def open(self, rate: float, seed: int) -> Sample:
        """Send at Poisson times of `rate` per second, whatever the answers do."""
        rng = np.random.default_rng(seed)
        for _ in range(min(64, CONNECTIONS_MAX)):
            self._idle.append(await self._connect())
        self._start()
        at = time.perf_counter()
        while at < self._stop_at:
            at += rng.exponential(1.0 / rate)
            wait_s = at - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._send_open(at)
        return await self._finish()

    async def _send_open(self, intended_s: float) -> None:
        self._in_flight += 1
        if self._idle:
            self._idle.pop().send(self._request, intended_s)
        elif self._connections < CONNECTIONS_MAX:
            (await self._connect()).send(self._request, intended_s)
        else:
            self._backlog.append(intended_s)

    async def _connect(self) -> Connection:
        self._connections += 1
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._answered), self._host, self._port)
        return connection

    def _start(self) -> None:
        now = time.perf_counter()
        self._measure_from = now + self._warmup_s
        self._stop_at = self._measure_from + self._duration_s
        asyncio.get_running_loop().call_later(self._warmup_s, self._mark_cpu)
        self._cpu_from = _cpu_s()

    def _mark_cpu(self) -> None:
        self._cpu_from = _cpu_s()

    async def _finish(self) -> Sample:
        await asyncio.sleep(max(0.0, self._stop_at - time.perf_counter()))
        cpu_s = _cpu_s() - self._cpu_from
        if self._in_flight:
            try:
                await asyncio.wait_for(self._finished.wait(), 30.0)
            except TimeoutError:
                self._errors["no answer within 30 s"] += self._in_flight
        return Sample(np.array(self._latencies), self._errors, self._batch_rows, self._duration_s, cpu_s)

    def _answered(self, connection: Connection, status: int, body: bytes) -> None:
        now = time.perf_counter()
        if not connection.intended_s:  # a server that is not asked anything says 408 (status 0 is its hanging up)
            self._connections -= status == 0
            if connection in self._idle:
                self._idle.remove(connection)
            return
        if status == 0:
            self._connections -= 1
            self._errors["connection lost"] += 1
            self._settle()
            return
        if self._measure_from <= connection.intended_s < self._stop_at:
            self._record(now - connection.intended_s, status, body)
        self._settle()
        connection.intended_s = 0.0
        if self._closed_loop:
            if now < self._stop_at:
                self._in_flight += 1
                connection.send(self._request, now)
        elif self._backlog:
            connection.send(self._request, self._backlog.popleft())
        else:
            self._idle.append(connection)

    def _settle(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0 and time.perf_counter() >= self._stop_at:
            self._finished.set()

    def _record(self, latency_s: float, status: int, body: bytes) -> None:
        if status != 200:
            self._errors[_kind(status, body)] += 1
            return
        self._latencies.append(latency_s)
        at = body.find(b'"batch_rows":', 0, 512)
        if at >= 0:
            digits = body[at + 13 : at + 20]
            self._batch_rows[int(digits[: min(digits.find(b"}") % 8, digits.find(b",") % 8)])] += 1


def _kind(status: int, body: bytes) -> str:
    try:
        return f"{status} {json.loads(body)['code']}"
    except (ValueError, KeyError, TypeError):
        return str(status)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
