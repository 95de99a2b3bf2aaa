"""The per-request edge of an API: read, call, write; and for whatever goes wrong, one error of the table.

The deadline and the client's hanging up both cancel the function. What a function raises reaches the client as type and
message, its traceback the log alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from paceline import handle
from paceline.context import Context
from paceline.io.payload import BODY_BYTES_MAX_KEY
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ModelError, RequestError
from paceline.service.api import Api
from paceline.service.deadline import TIMEOUT, RequestDeadline, seconds_of
from paceline.service.replies import REQUEST_ID, ReplyCutOff, error_reply, new_request_id, request_id_of
from paceline.service.threads import FunctionThreads

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)

_END = object()


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one request: the time it gets, unasked and at most, and its body."""

    budget_s: float
    budget_s_max: float
    body_bytes: int


class Edge:
    """One API as an ASGI application."""

    def __init__(self, api: Api, threads: FunctionThreads, state: dict[str, Any], bounds: Bounds) -> None:
        self._api = api
        self._threads = threads
        self._state = state
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began_at = SystemClock.now()
        reply = _Reply(send)
        scope[BODY_BYTES_MAX_KEY] = self._bounds.body_bytes
        request = Request(scope, receive)
        request_id = ""
        try:
            request_id = request_id_of(request.headers)
            handle.request_id.set(request_id)  # for the calls of runners; each request is a task with its own context
            async with self._deadline(request, began_at) as until:
                value = None if self._api.input is None else await self._api.input.read(request)
                async with _hung_up_cancels(receive, reply):
                    await self._answer(value, Context(self._state, request, request_id), reply, until)
        except ClientDisconnect:
            return
        except RequestError as error:
            if reply.started:  # no status says it any more
                logger.warning("stream cut off: %s", error, extra={"api": self._api.name, "request_id": request_id})
            await self._failed(error, request_id or new_request_id(), reply)
        except Exception as error:  # the per-request edge: user code failed, which answers one request and is logged
            logger.exception("api function failed", extra={"api": self._api.name, "request_id": request_id})
            text = f"{self._api.name} raised {type(error).__name__}: {error}"
            await self._failed(ModelError(text), request_id, reply)

    def _deadline(self, request: Request, began_at: float) -> RequestDeadline:
        given = request.headers.get(TIMEOUT)
        if given is None:
            return RequestDeadline(began_at + self._bounds.budget_s, of_client=False)
        return RequestDeadline(began_at + min(seconds_of(given), self._bounds.budget_s_max), of_client=True)

    async def _answer(self, value: Any, ctx: Context, reply: _Reply, until: RequestDeadline) -> None:
        api = self._api
        result = api.call(value, ctx) if api.on_loop else await self._threads.run(api.call, value, ctx)
        if inspect.isawaitable(result):
            result = await result
        if hasattr(result, "__aiter__"):
            await self._stream(aiter(result), ctx, reply, until)
        elif inspect.isgenerator(result):
            await self._stream(self._of_thread(result), ctx, reply, until)
        else:
            response = result if isinstance(result, Response) else api.output.write(result, ctx)
            ctx.apply(response)
            if hasattr(response, "body_iterator"):
                until.stream_begins()
            else:
                until.answer_begins()
            await reply.whole(response, ctx)

    async def _stream(self, items: AsyncIterator[Any], ctx: Context, reply: _Reply, until: RequestDeadline) -> None:
        output = self._api.output
        content_type = output.stream_type
        try:
            # The first piece comes before the status is sent: what fails until then is an error like any other.
            first = await anext(items, _END)
            head = Response(None, headers={"content-type": content_type})
            del head.headers["content-length"]
            ctx.apply(head)
            until.stream_begins()
            await reply.start(head, ctx)
            if first is not _END:
                await reply.piece(output.chunk(first))
                async for item in items:
                    await reply.piece(output.chunk(item))
            await reply.end()
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _of_thread(self, items: Generator[Any, Any, Any]) -> AsyncIterator[Any]:
        """The pieces of a generator that is not async, each made in a thread."""
        try:
            while (item := await self._threads.run(next, items, _END)) is not _END:
                yield item
        finally:
            # One that a thread is still in cannot be closed; it is when that thread lets go of it.
            with contextlib.suppress(ValueError):
                items.close()

    async def _failed(self, error: RequestError, request_id: str, reply: _Reply) -> None:
        if reply.started:
            raise ReplyCutOff(f"{self._api.name}: {error.message}") from None
        await reply.error(error_reply(error, request_id))


class _Reply:
    """What is sent to one client, and whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.ended = False

    async def whole(self, response: Response, ctx: Context) -> None:
        response.headers.setdefault(REQUEST_ID, ctx.request_id)
        self.started = True
        # A response of the function's own may be a stream; ours are sent in one go.
        self.ended = not hasattr(response, "body_iterator")
        await response(ctx.request.scope, ctx.request.receive, self._send)

    async def start(self, head: Response, ctx: Context) -> None:
        head.headers.setdefault(REQUEST_ID, ctx.request_id)
        self.started = True
        await self._send({"type": "http.response.start", "status": head.status_code, "headers": head.raw_headers})

    async def piece(self, data: bytes) -> None:
        if data:  # an empty piece would be the end for some
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def error(self, response: Response) -> None:
        self.started = self.ended = True
        head = {"status": response.status_code, "headers": response.raw_headers}
        await self._send({"type": "http.response.start", **head})
        await self._send({"type": "http.response.body", "body": response.body})


@contextlib.asynccontextmanager
async def _hung_up_cancels(receive: Receive, reply: _Reply) -> AsyncIterator[None]:
    """Cancels what is in here if the client hangs up before its reply has ended, and raises ClientDisconnect. The body
    must have been read."""
    working = asyncio.current_task()
    assert working is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if not reply.ended:
            gone = True
            working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and working.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
