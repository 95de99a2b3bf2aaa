"""HTTP for asyncio: keep-alive connections of one event loop. The same rules as http_blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from paceline.client.address import HttpAddress
from paceline.client.call import ANSWER_GRACE_S, Call, Outputs
from paceline.client.errors import ServerUnreachable
from paceline.client.http1 import Response, ResponseParser, request_head
from paceline.client.http_blocking import (
    CONNECT_PAUSE_S,
    CONNECT_TRIES,
    IDLE_MAX,
    StaleConnection,
    after_loss,
    closed_early,
    secure_context,
    unreachable,
)
from paceline.client.oip import HttpRequest
from paceline.client.steps import Pause, PredictSteps, Steps, metadata_steps, ready_steps
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded, ProtocolError
from paceline.protocol.tensor import Buffer

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
_JOIN_BYTES_MAX = 64 * 1024


class AsyncHttp:
    """A server's connections in the running loop."""

    def __init__(
        self, address: HttpAddress, retries: int, headers: Mapping[str, str], ssl_context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._steps = PredictSteps(retries)
        self._headers = headers
        self._ssl_context = ssl_context
        self._idle: list[_Connection] = []
        self._closed = False

    async def predict(self, call: Call) -> Outputs:
        return await self._run(self._steps.predict(call), call.deadline)

    async def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]:
        return await self._run(metadata_steps(model, version), deadline)

    async def ready(self, model: str | None, version: str | None, deadline: float) -> bool:
        try:
            return await self._run(ready_steps(model, version), deadline)
        except (ServerUnreachable, DeadlineExceeded):
            return False

    def close(self) -> None:
        """Close what is idle; connections in use are closed when their answer is there."""
        self._closed = True
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _run(self, steps: Steps[T], deadline: float) -> T:
        """Drive `steps` to their value. Raises ServerUnreachable, DeadlineExceeded and what the steps raise."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(await self._exchange(step, deadline))
        except StopIteration as done:
            value: T = done.value
            return value

    async def _exchange(self, request: HttpRequest, deadline: float) -> Response:
        head = request_head(
            request.method,
            self._address.prefix + request.target,
            self._address.authority,
            {**self._headers, **request.headers},
            sum(map(len, request.parts)),
        )
        lost = False
        while True:
            try:
                connection = self._kept() or await self._connect(deadline)
            except ServerUnreachable as error:
                raise (after_loss(self._address) if lost else error) from error.__cause__
            try:
                response = await connection.exchange(head, request.parts, deadline + ANSWER_GRACE_S)
            except StaleConnection:
                lost = True  # the next one is kept and sound, or fresh
            except BaseException:
                connection.close()
                raise
            else:
                self._keep(connection, response.reusable)
                return response

    def _kept(self) -> _Connection | None:
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.loop is loop and connection.usable:
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection, reusable: bool) -> None:
        if reusable and connection.usable and not self._closed and len(self._idle) < IDLE_MAX:
            connection.kept = True
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self, deadline: float) -> _Connection:
        address = self._address
        for attempt in count(1):
            left_s = deadline - SystemClock.now()
            try:
                async with asyncio.timeout(left_s):
                    return await self._open()
            except TimeoutError as error:
                raise unreachable(address, error) from error
            except ConnectionRefusedError as error:
                pause_s = CONNECT_PAUSE_S * attempt
                if attempt >= CONNECT_TRIES or pause_s >= left_s:
                    raise unreachable(address, error) from error
                await asyncio.sleep(pause_s)
            except OSError as error:
                raise unreachable(address, error) from error
        raise AssertionError("the loop ends by return or raise")

    async def _open(self) -> _Connection:
        address = self._address
        loop = asyncio.get_running_loop()
        context = secure_context(self._ssl_context) if address.secure else None
        _, connection = await loop.create_connection(
            lambda: _Connection(loop, address), address.host, address.port, ssl=context
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection: one exchange at a time. asyncio sets TCP_NODELAY itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: HttpAddress) -> None:
        self.loop = loop
        self.kept = False
        self.usable = True
        self._address = address
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None

    async def exchange(self, head: bytes, parts: tuple[Buffer, ...], until: float) -> Response:
        """Send and wait for the whole answer. Raises StaleConnection, ServerUnreachable, DeadlineExceeded."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise StaleConnection if self.kept else closed_early(self._address, None)
        waiter: asyncio.Future[Response] = self.loop.create_future()
        self._waiter = waiter
        timer = self.loop.call_later(max(0.0, until - SystemClock.now()), self._expire)
        try:
            self._send(transport, head, parts)
            return await waiter
        finally:
            self._waiter = None
            timer.cancel()

    def close(self) -> None:
        self.usable = False
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.close()  # what nobody asked for, such as a 408 to an idle connection
            return
        try:
            response = self._parser.feed(data)
        except ProtocolError as error:
            waiter.set_exception(error)
            return
        if response is not None:
            self._settle(waiter, response)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        response = self._parser.feed_eof()
        if response is not None:
            waiter.set_result(response)
        elif self.kept and not self._parser.started:
            waiter.set_exception(StaleConnection())
        else:
            waiter.set_exception(closed_early(self._address, error if isinstance(error, OSError) else None))

    def _send(self, transport: asyncio.Transport, head: bytes, parts: tuple[Buffer, ...]) -> None:
        small = [head]
        for part in parts:
            if len(part) > _JOIN_BYTES_MAX:
                transport.write(b"".join(small))
                transport.write(part)
                small = []
            else:
                small.append(bytes(part))
        if small:
            transport.write(b"".join(small))

    def _settle(self, waiter: asyncio.Future[Response], response: Response) -> None:
        if self._transport is not None and self._transport.get_write_buffer_size():
            response.reusable = False  # answered before the request was sent: the rest of it would go nowhere
        waiter.set_result(response)

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(DeadlineExceeded("the server did not answer within the time-out"))
