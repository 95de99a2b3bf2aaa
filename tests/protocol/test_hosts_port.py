"""The runner port over Hosts: what it passes on, and what becomes of who waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paceline.protocol.errors import ModelNotFound, NoWorker, TooLarge
from paceline.protocol.hosts import Hosts, Waiter
from paceline.protocol.hosts_port import HostsPort
from paceline.protocol.messages import Result
from paceline.protocol.runner_port import RunnerCall
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import HttpSpec, RunnerSpec, ServeSpec

QUICK = MethodSpec("quick", latency_budget_ms=100.0)
USUAL = MethodSpec("usual")
SERVE = ServeSpec(
    (RunnerSpec("net", "net", "1", "d", "pytorch", "/home", (QUICK, USUAL), latency_budget_ms=2000.0),),
    HttpSpec(rows_max=10),
    "",
)
RESULT = Result(1, 0, 1, 0, 0, None)


class FakeHosts(Hosts):
    """Keeps what is submitted."""

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: list[int] = []

    def submit(self, runner: str, method: MethodSpec, args: Any, kwargs: Any, **options: Any) -> int:
        self.submitted.append({"runner": runner, "method": method, **options})
        return len(self.submitted)

    def cancel(self, counter: int) -> None:
        self.cancelled.append(counter)

    @property
    def waiter(self) -> Waiter:
        waiter: Waiter = self.submitted[-1]["waiter"]
        return waiter


def call(method: MethodSpec = USUAL, budget_s: float = float("inf"), rows: int = 1) -> RunnerCall:
    return RunnerCall("net", method, (), {}, b"k", rows, 5, 24, budget_s, 3, "id", "trace")


def with_port(test: Any) -> None:
    async def main() -> None:
        hosts = FakeHosts()
        await test(hosts, HostsPort(hosts, SERVE, asyncio.get_running_loop()))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "left_s", "budget_s"),
    [(USUAL, float("inf"), 2.0), (USUAL, 1.5, 1.5), (USUAL, 3.0, 2.0), (QUICK, 1.5, 0.1), (QUICK, 0.05, 0.05)],
)
def test_call_has_what_its_caller_and_its_method_both_allow(method: MethodSpec, left_s: float, budget_s: float) -> None:
    async def test(hosts: FakeHosts, port: HostsPort) -> None:
        waiting = asyncio.create_task(port.infer(call(method, left_s)))
        await asyncio.sleep(0)
        assert hosts.submitted[-1]["budget_s"] == budget_s
        hosts.waiter.answered(RESULT)
        assert await waiting is RESULT

    with_port(test)


def test_call_is_passed_on_as_part_of_something_accepted() -> None:
    async def test(hosts: FakeHosts, port: HostsPort) -> None:
        waiting = asyncio.create_task(port.answer(call(budget_s=9.0)))
        await asyncio.sleep(0)
        given = dict(hosts.submitted[-1])
        assert (given["measured"].key, given["measured"].rows, given["measured"].length) == (b"k", 1, 5)
        assert (given["nbytes"], given["priority"], given["request_id"], given["traceparent"]) == (24, 3, "id", "trace")
        assert (given["begun"], given["budget_s"]) == (True, 9.0)
        hosts.waiter.failed(NoWorker("gone"))
        with pytest.raises(NoWorker, match="gone"):
            await waiting

    with_port(test)


def test_cancelled_call_is_cancelled_and_its_late_answer_ignored() -> None:
    async def test(hosts: FakeHosts, port: HostsPort) -> None:
        waiting = asyncio.create_task(port.infer(call()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert hosts.cancelled == [1]
        hosts.waiter.answered(RESULT)
        hosts.waiter.failed(NoWorker("late"))

    with_port(test)


def test_rows_over_the_servers_limit_are_refused_and_methods_are_those_served() -> None:
    async def test(hosts: FakeHosts, port: HostsPort) -> None:
        with pytest.raises(TooLarge, match="11 rows, over the limit of 10"):
            await port.infer(call(rows=11))
        assert hosts.submitted == []
        assert port.methods("net") == {"quick": QUICK, "usual": USUAL}
        with pytest.raises(ModelNotFound, match='Did you mean "net"'):
            port.methods("nett")

    with_port(test)
