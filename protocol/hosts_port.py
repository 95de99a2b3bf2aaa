"""The RunnerPort over Hosts: each call a future that the gateway's answer resolves. Used in API servers and locally."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from paceline.protocol.catalog import Catalog
from paceline.protocol.errors import RequestError, TooLarge
from paceline.protocol.hosts import Hosts
from paceline.protocol.measure import Measure
from paceline.protocol.messages import Result
from paceline.protocol.runner_port import RunnerCall
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import ServeSpec


class HostsPort:
    """See the module. `infer` may be awaited in `loop` only, which is that of `hosts`."""

    def __init__(self, hosts: Hosts, serve: ServeSpec, loop: asyncio.AbstractEventLoop) -> None:
        self._hosts = hosts
        self._catalog = Catalog(serve)
        self._rows_max = serve.http.rows_max
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    async def infer(self, call: RunnerCall) -> Result:
        """See RunnerPort."""
        return await self._answer(call, min(call.budget_s, self._budget_s(call)))

    async def answer(self, call: RunnerCall) -> Result:
        """As `infer`, within the budget that the call names, also where the runner's own is smaller."""
        return await self._answer(call, call.budget_s)

    def methods(self, runner: str) -> Mapping[str, MethodSpec]:
        return self._catalog.find(runner).methods

    async def _answer(self, call: RunnerCall, budget_s: float) -> Result:
        if call.rows > self._rows_max:
            raise TooLarge(f"request has {call.rows} rows, over the limit of {self._rows_max} rows; send it in parts")
        waiter = _Waiter(self._loop.create_future())
        counter = self._hosts.submit(
            call.runner,
            call.method,
            call.args,
            call.kwargs,
            measured=Measure(call.key, call.rows, call.length),
            nbytes=call.nbytes,
            budget_s=budget_s,
            priority=call.priority,
            request_id=call.request_id,
            traceparent=call.traceparent,
            waiter=waiter,
            begun=True,  # it is part of a request that was accepted already
        )
        try:
            return await waiter.future
        except asyncio.CancelledError:
            self._hosts.cancel(counter)
            raise

    def _budget_s(self, call: RunnerCall) -> float:
        of_method = call.method.latency_budget_ms
        budget_ms = self._catalog.find(call.runner).spec.latency_budget_ms if of_method is None else of_method
        return budget_ms / 1e3


class _Waiter:
    """Who waits may have gone, and then the future is cancelled."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Result]) -> None:
        self.future = future

    def answered(self, result: Result) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def failed(self, error: RequestError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
