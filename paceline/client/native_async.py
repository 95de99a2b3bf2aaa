"""The native client for asyncio: no task, thread or HTTP between the caller's coroutine and the ledger."""

from __future__ import annotations

import asyncio

from paceline.client.call import Call, Outputs, retry_pause_s
from paceline.client.errors import ServerUnreachable
from paceline.client.native_call import outputs_of
from paceline.client.native_link import NativeLink, open_link
from paceline.client.native_route import Route
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded, RequestError
from paceline.protocol.messages import Result


class FutureWaiter:
    """Who waits for one answer, as a future of the loop."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Result]) -> None:
        self.future = future

    def answered(self, result: Result) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, error: RequestError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class AsyncNative:
    """A server's dispatch hosts in the running loop."""

    def __init__(self, route: Route, retries: int) -> None:
        self._route = route
        self._retries = retries
        self._link: NativeLink | None = None
        self._opening: asyncio.Lock | None = None

    async def predict(self, call: Call) -> Outputs:
        link = self._link
        tries = 0
        while True:
            if link is None or not link.usable or link.loop is not asyncio.get_running_loop():
                link = await self.link(call.deadline)
            try:
                return await _predict_once(link, call)
            except RequestError as error:
                pause_s = retry_pause_s(error, tries, self._retries, call)
                if pause_s is None:
                    raise
            tries += 1
            await asyncio.sleep(pause_s)

    async def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]:
        return (await self.link(deadline)).calls.metadata(model, version)

    async def ready(self, model: str | None, version: str | None, deadline: float) -> bool:
        try:
            link = await self.link(deadline)
        except (ServerUnreachable, DeadlineExceeded):
            return False
        if model is None:
            return link.hosts.all_ready()
        return link.calls.knows(model, version) and link.hosts.ready(model)

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            _part_with(link)

    async def link(self, deadline: float) -> NativeLink:
        """A link that takes requests, opened if need be: once, however many ask."""
        loop = asyncio.get_running_loop()
        if self._link is not None and self._link.loop is not loop:
            _part_with(self._link)
            self._link, self._opening = None, None
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._link is not None and self._link.usable:
                return self._link
            timeout_s = deadline - SystemClock.now()
            if timeout_s <= 0:
                raise DeadlineExceeded("the connection to the server could not be opened within the time-out")
            if self._link is not None:
                self._link.retire()
                self._link = None
            self._link = await open_link(self._route, timeout_s)
            return self._link


def _part_with(link: NativeLink) -> None:
    if link.loop.is_closed():
        link.drop()
    else:
        link.close()


async def _predict_once(link: NativeLink, call: Call) -> Outputs:
    native = link.calls.prepare(call)
    future: asyncio.Future[Result] = link.loop.create_future()
    counter = link.hosts.submit(
        native.runner,
        native.method,
        native.args,
        native.kwargs,
        measured=native.measured,
        nbytes=native.nbytes,
        budget_s=link.calls.budget_s(call, native),
        priority=call.priority,
        request_id=call.request_id or "",
        traceparent="",
        waiter=FutureWaiter(future),
    )
    try:
        result = await future
    except asyncio.CancelledError:
        link.hosts.cancel(counter)
        raise
    return outputs_of(result)
