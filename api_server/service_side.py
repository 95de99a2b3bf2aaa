"""The user's service at its edge: every request gets an id, bounds on its body, and an answer, whatever user code does.

Called by App for all paths that are not ours. Knows an ASGI callable and nothing of what is in it.
"""

from __future__ import annotations

import asyncio
import logging

from paceline.api_server.answer import Answer, error_answer
from paceline.api_server.front import Front
from paceline.protocol.errors import Draining, Internal, QueueFull, RequestError, TooLarge
from paceline.protocol.service_app import AsgiApp, Message, Receive, Send

logger = logging.getLogger(__name__)

_REQUEST_ID = b"x-request-id"


class ServiceSide:
    """`app` with its bounds: those of `front` for bodies, and `open_max` requests that may be in its hands at once.

    The app finds the request's id in the header x-request-id, given or made here, and the response has it too.
    """

    def __init__(self, app: AsgiApp, front: Front, open_max: int) -> None:
        self._app = app
        self._front = front
        self._open_max = open_max
        self.open = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            request_id = self._front.ids.of(headers)
        except RequestError as error:
            await send_answer(error_answer(error, self._front.ids.next()), send)
            return
        if _REQUEST_ID not in headers:
            scope["headers"] = [*scope["headers"], (_REQUEST_ID, request_id)]
        exchange = _Exchange(self._front, headers, request_id, receive, send)
        try:
            self._admit()
        except RequestError as error:
            await exchange.fail(error)
            return
        self.open += 1
        try:
            await self._run(scope, exchange)
        finally:
            self.open -= 1
            exchange.release()

    def _admit(self) -> None:
        if self._front.draining:
            raise Draining("the server is draining; send the request to another one", retry_after_s=1.0)
        if self.open >= self._open_max:
            raise QueueFull(f"the service has {self.open} requests in hand, its limit; retry later", retry_after_s=1.0)

    async def _run(self, scope: Message, exchange: _Exchange) -> None:
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # its client is gone, which hears nothing of this, or the drain's time is over
            await exchange.fail(Draining("the server stopped before this request was answered; send it to another one"))
        except RequestError as error:
            await exchange.fail(error)
        except Exception:  # the per-request edge: user code that fails answers one request and is logged
            if not exchange.is_gone:
                logger.exception("service request failed", extra={"request_id": exchange.request_id.decode()})
            await exchange.fail(Internal("the service failed on this request; its log names the request id"))


class _Exchange:
    """One request: counts what comes in, completes what goes out."""

    __slots__ = ("_front", "_is_json", "_limit", "_receive", "_received", "_send", "_started", "is_gone", "request_id")

    def __init__(
        self, front: Front, headers: dict[bytes, bytes], request_id: bytes, receive: Receive, send: Send
    ) -> None:
        self._is_json = b"json" in headers.get(b"content-type", b"").lower()
        self._limit = front.bounds.json_bytes if self._is_json else front.bounds.body_bytes
        self._front = front
        self._receive = receive
        self._received = 0
        self._send = send
        self._started = False
        self.is_gone = False
        self.request_id = request_id

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif size := len(message.get("body", b"")):
            self._front.reserve(size)
            self._received += size
            if self._received > self._limit:
                what = "a body of JSON" if self._is_json else "the body"
                raise TooLarge(f"{what} is over the limit of {self._limit} bytes")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
            if all(name != _REQUEST_ID for name, _ in headers):
                headers.append((_REQUEST_ID, self.request_id))
            if self._front.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def fail(self, error: RequestError) -> None:
        """Answer with `error`, if there is no answer yet; a response that has begun is cut off by the HTTP side."""
        if self._started:
            return
        answer = error_answer(error, self.request_id)
        # The rest of a body that was not read would stand before the next request.
        answer.close = answer.close or error.http_status == 413
        await send_answer(answer, self._send)

    def release(self) -> None:
        self._front.release(self._received)


async def send_answer(answer: Answer, send: Send) -> None:
    """An answer of ours the ASGI way."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.header_pairs()})
    await send({"type": "http.response.body", "body": b"".join(answer.body)})
