"""kill -9 of each process under load, a paused worker, poison: 0 lost, 0 crossed, nothing left, full capacity again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.e2e.harness import Load, Server, infer_body, post, wait_until
from tests.e2e.probe_model import POISON

pytestmark = pytest.mark.e2e


@pytest.fixture
def serve(serve: Callable[..., Server]) -> Callable[..., Server]:
    """As everywhere, but here processes are meant to die."""

    def start(*flags: str) -> Server:
        server = serve(*flags)
        server.deaths_planned = True
        return server

    return start


def test_a_killed_worker_loses_nothing(serve: Callable[..., Server]) -> None:
    server = serve("--api-workers", "2")
    with Load(server) as load:
        load.wait_answered(200)
        for _ in range(2):
            victim = server.pid("worker")
            os.kill(victim, signal.SIGKILL)
            load.wait_answered(200)
            assert server.pid("worker") != victim
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    worker = next(process for process in server.status()["processes"] if process["kind"] == "worker")
    assert worker["restarts"] == 2
    assert "SIGKILL" in worker["last_death"]


def test_readiness_tells_of_a_dead_worker_and_of_its_return(serve: Callable[..., Server]) -> None:
    server = serve()
    began = time.monotonic()
    os.kill(server.pid("worker"), signal.SIGKILL)
    wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 503, 5.0, "readiness to fall")
    assert time.monotonic() - began < 5.0
    wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, 40.0, "readiness to return")
    assert server.infer([[1.0]])[0] == 200


def test_readiness_tells_of_a_long_first_batch_and_of_its_end(serve: Callable[..., Server]) -> None:
    server = serve()
    worker = server.pid("worker")

    async def run() -> list[int]:
        began = time.monotonic()
        nap = asyncio.create_task(post(server.port, infer_body([[4.5]], "nap")))
        await asyncio.to_thread(
            wait_until, lambda: server.request("GET", "/v2/health/ready")[0] == 503, 3.5, "readiness to fall"
        )
        assert time.monotonic() - began < 3.5
        behind = asyncio.create_task(post(server.port, infer_body([[1.0]])))
        statuses = [(await nap)[0], (await behind)[0]]
        wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, 1.0, "readiness to return")
        return statuses

    assert asyncio.run(run()) == [200, 200]
    assert server.pid("worker") == worker


def test_a_killed_api_server_costs_only_its_connections(serve: Callable[..., Server]) -> None:
    server = serve("--api-workers", "2")
    with Load(server) as load:
        load.wait_answered(200)
        victim = server.pid("api_server", 0)
        os.kill(victim, signal.SIGKILL)
        load.wait_answered(400)
        wait_until(lambda: server.pid("api_server", 0) != victim, 20.0, "the API server to return")
        load.wait_answered(100)
    assert (load.errors, load.crossed) == ([], 0)
    assert load.resets <= 8


def test_a_killed_supervisor_leaves_nothing(serve: Callable[..., Server]) -> None:
    server = serve("--api-workers", "2")
    below = server.processes()[1:]
    assert len(below) >= 3
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(5)
    wait_until(lambda: not any(alive(process) for process in below), 2.0, "all children to die")
    again = serve()
    assert again.infer([[1.0]])[0] == 200


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_poison_request_takes_no_neighbour_with_it(serve: Callable[..., Server]) -> None:
    server = serve()

    async def run() -> list[tuple[int, dict[str, object]]]:
        nap = asyncio.create_task(post(server.port, infer_body([[0.5]], "nap")))
        values = [1.0, 2.0, POISON, 4.0, 5.0]
        answers = await asyncio.gather(*[post(server.port, infer_body([[value]])) for value in values])
        await nap
        return list(answers)

    answers = asyncio.run(run())
    assert [status for status, _ in answers] == [200, 200, 503, 200, 200]
    assert answers[2][1]["code"] == "worker_lost"
    worker = next(process for process in server.status()["processes"] if process["kind"] == "worker")
    assert worker["restarts"] <= 2


def test_a_paused_worker_refuses_promptly_in_bounded_memory_and_is_replaced(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_SERVER__WINDOW_REQUESTS", "64")
    monkeypatch.setenv("PACELINE_SERVER__PENDING_REQUESTS", "64")
    server = serve()
    api = psutil.Process(server.pid("api_server"))
    before = api.memory_info().rss
    body = infer_body([[1.0] * 4096])

    async def ask() -> tuple[int, float]:
        began = time.monotonic()
        status, _ = await post(server.port, body)
        return status, time.monotonic() - began

    async def flood() -> list[tuple[int, float]]:
        return await asyncio.gather(*[ask() for _ in range(1280)])

    worker = server.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    answers = asyncio.run(flood())
    statuses = [status for status, _ in answers]
    assert set(statuses) <= {200, 429}, statuses
    assert statuses.count(200) == 128
    refusals = sorted(took_s for status, took_s in answers if status == 429)
    # Every refusal came while the worker stood still, long before it was given up and replaced.
    served = min(took_s for status, took_s in answers if status == 200)
    assert refusals[-1] < served
    assert api.memory_info().rss - before < 64 * 1024 * 1024
    assert server.pid("worker") != worker
    assert server.infer([[1.0]])[0] == 200
