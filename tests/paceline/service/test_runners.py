"""A service and its runners: calls go through the port, errors keep their code, and who is not listed is named."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from paceline.handle import Runner
from paceline.io import JSON, JSONSerializable
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import InvalidInput, NoWorker, QueueFull, StartError
from paceline.protocol.messages import Result
from paceline.protocol.runner_port import RunnerCall
from paceline.protocol.signature import MethodSpec
from paceline.protocol.tensor import Tensor, from_numpy
from paceline.protocol.tree import pack_tree
from paceline.service import Service
from tests.paceline.service.asking import Connection, ask, error_of

METHODS = {"__call__": MethodSpec("__call__", batchable=True)}


class DoublingPort:
    """A RunnerPort that doubles the one tensor of each call, or raises what it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[RunnerCall] = []
        self.cancelled = 0
        self.hold: asyncio.Event | None = None
        self._error = error

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def infer(self, call: RunnerCall) -> Result:
        self.calls.append(call)
        if self._error is not None:
            raise self._error
        if self.hold is not None:
            await self._held(self.hold)
        (tensor,) = call.args
        assert isinstance(tensor, Tensor)
        return Result(0, 0, 1, 0, 0, pack_tree(from_numpy(tensor.numpy() * 2), []))

    async def _held(self, hold: asyncio.Event) -> None:
        try:
            await hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def methods(self, runner: str) -> Mapping[str, MethodSpec]:
        return METHODS


def net(name: str = "net") -> Runner:
    return Runner.of_model("net:1", METHODS, name, {})


def guide_service(port: DoublingPort | None) -> Service:
    """The guide's, word for word."""
    runner = net()

    svc = Service(name="test_service", runners=[runner])

    @svc.api(input=JSON(), output=JSON())
    async def predict(json_obj: JSONSerializable) -> JSONSerializable:
        batch_ret = await runner.async_run([json_obj])
        return batch_ret[0]  # type: ignore[no-any-return]  # as the guide has it

    if port is not None:
        svc.bind(port)
    return svc


def test_the_guides_service_answers_through_the_port_it_is_bound_to() -> None:
    port = DoublingPort()
    assert ask(guide_service(port), "/predict", json=[1.5, 2]).json() == [3.0, 4.0]
    assert [(call.runner, call.rows) for call in port.calls] == [("net", 1)]


def test_the_plan_names_the_services_runners() -> None:
    plan = guide_service(None).plan()
    assert [runner.name for runner in plan.runners] == ["net"]


def test_a_call_gets_the_time_that_its_request_has_left() -> None:
    port = DoublingPort()
    began_at = SystemClock.now()
    ask(guide_service(port), "/predict", json=[1.5], headers={"x-request-timeout-ms": "5000"})
    assert 5.0 - (SystemClock.now() - began_at) <= port.calls[0].budget_s <= 5.0


@pytest.mark.parametrize(
    "error", [QueueFull("full", retry_after_s=3.0), NoWorker("none", retry_after_s=1.0), InvalidInput("bad")]
)
def test_a_runners_error_keeps_its_code_and_its_retry_after(error: Any) -> None:
    response = ask(guide_service(DoublingPort(error)), "/predict", json=[1.5])
    assert error_of(response) == (error.http_status, error.code, error.message)
    expected = None if error.retry_after_s is None else str(int(error.retry_after_s))
    assert response.headers.get("retry-after") == expected


def test_a_client_that_hangs_up_cancels_its_runner_call() -> None:
    async def scenario() -> int:
        port = DoublingPort()
        port.hold = asyncio.Event()
        connection = Connection("/predict", b"[1.5]")
        asking = asyncio.create_task(connection.ask(guide_service(port)))
        while not port.calls:
            await asyncio.sleep(0)
        connection.hang_up()
        await asking
        return port.cancelled

    assert asyncio.run(scenario()) == 1


def test_a_function_in_a_thread_calls_runners_through_the_loop() -> None:
    runner = net()
    service = Service(name="s", runners=[runner])

    @service.api(input=JSON(), output=JSON())
    def predict(value: Any) -> Any:
        return runner.run(np.array([value], np.float32))[0]

    async def scenario() -> Any:
        port = LoopPort(asyncio.get_running_loop())
        service.bind(port)
        connection = Connection("/predict", b"[1.5]")
        await connection.ask(service)
        return await connection.pieces.get()

    assert asyncio.run(scenario()) == b"[3.0]"


class LoopPort(DoublingPort):
    """As DoublingPort, seen from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop


def test_two_runners_of_one_name_are_an_error_at_load() -> None:
    with pytest.raises(StartError, match="two runners named 'net'"):
        Service(name="s", runners=[net(), net("other"), net()])


def test_a_runner_that_is_used_and_not_listed_is_an_error_at_load() -> None:
    runner = net("forgotten")
    service = Service(name="s")

    @service.api(input=JSON(), output=JSON())
    async def predict(value: Any) -> Any:
        return await runner.async_run(value)

    with pytest.raises(StartError, match=r"'predict' uses the runner 'forgotten'.*runners=\[\.\.\., runner\]"):
        service.plan()


def test_a_runner_that_is_reached_by_other_ways_says_so_when_it_is_called() -> None:
    runners = {"hidden": net("hidden")}
    service = Service(name="s")

    @service.api(input=JSON(), output=JSON())
    async def predict(value: Any) -> Any:
        return await runners["hidden"].async_run(value)

    service.plan()
    status, code, text = error_of(ask(service, "/predict", json=[1.5]))
    assert (status, code) == (500, "model_error")
    assert "runner 'hidden' is not connected" in text
    assert "runners=[...]" in text


def test_a_runner_of_this_process_need_not_be_listed() -> None:
    runner = net()
    service = Service(name="s")

    @service.api(input=JSON(), output=JSON())
    async def predict(value: Any) -> Any:
        return await runner.async_run(np.asarray([value], np.float32))

    async def scenario() -> None:
        runner.bind(DoublingPort())
        service.plan()

    asyncio.run(scenario())
