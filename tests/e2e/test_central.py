"""One queue for two workers, with real processes: whatever dies or stops, 0 lost, 0 crossed, full capacity again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import paceline
from paceline.protocol import key_folder
from tests.e2e.harness import Load, Server, infer_body, post, wait_until
from tests.e2e.probe_model import POISON

pytestmark = pytest.mark.e2e

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def serve(serve: Callable[..., Server]) -> Callable[..., Server]:
    """With two workers that are both ready; processes are meant to die."""

    def start(*flags: str) -> Server:
        server = serve("--workers", "2", *flags)
        server.deaths_planned = True
        wait_readied(server, 2)
        return server

    return start


def of_kind(server: Server, kind: str) -> list[dict[str, Any]]:
    return [process for process in server.status()["processes"] if process["kind"] == kind]


def wait_readied(server: Server, count: int) -> None:
    """Until `count` worker processes have been ready in all."""

    def readied() -> int:
        return [event["kind"] for event in list(server.events) if event["event"] == "child_ready"].count("worker")

    wait_until(lambda: readied() >= count, 40.0, f"{count} workers to have been ready")


def test_a_killed_broker_loses_nothing_and_its_workers_live_on(serve: Callable[..., Server]) -> None:
    server = serve("--api-workers", "2")
    workers = [server.pid("worker", index) for index in (0, 1)]
    with Load(server) as load:
        load.wait_answered(200)
        for _ in range(3):
            os.kill(server.pid("broker"), signal.SIGKILL)
            load.wait_answered(200)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    assert [broker["restarts"] for broker in of_kind(server, "broker")] == [3]
    assert [server.pid("worker", index) for index in (0, 1)] == workers


def test_a_killed_worker_loses_nothing_while_the_other_goes_on(serve: Callable[..., Server]) -> None:
    server = serve()
    with Load(server) as load:
        load.wait_answered(100)
        for index in (0, 1):
            os.kill(server.pid("worker", index), signal.SIGKILL)
            load.wait_answered(200)
            assert server.request("GET", "/v2/health/ready")[0] == 200
            wait_readied(server, 3 + index)
        load.wait_answered(100)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    assert [worker["restarts"] for worker in of_kind(server, "worker")] == [1, 1]
    assert [broker["restarts"] for broker in of_kind(server, "broker")] == [0]


def test_broker_and_workers_killed_at_once_lose_nothing(serve: Callable[..., Server]) -> None:
    server = serve()
    with Load(server) as load:
        load.wait_answered(100)
        for pid in (server.pid("broker"), server.pid("worker", 0), server.pid("worker", 1)):
            os.kill(pid, signal.SIGKILL)
        load.wait_answered(200)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)


def test_a_stopped_broker_is_replaced_and_its_queue_with_it(serve: Callable[..., Server]) -> None:
    server = serve()
    with Load(server) as load:
        load.wait_answered(100)
        victim = server.pid("broker")
        os.kill(victim, signal.SIGSTOP)
        load.wait_answered(200)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    assert server.pid("broker") != victim
    assert of_kind(server, "broker")[0]["last_death"].startswith("hang: no sign of life")


def test_readiness_follows_the_workers_behind_the_broker(serve: Callable[..., Server]) -> None:
    server = serve()
    for index in (0, 1):
        os.kill(server.pid("worker", index), signal.SIGKILL)
    wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 503, 5.0, "readiness to fall")
    wait_until(lambda: server.request("GET", "/v2/health/ready")[0] == 200, 40.0, "readiness to return")
    assert server.infer([[1.0]])[0] == 200


def test_a_poison_request_takes_no_neighbour_with_it(serve: Callable[..., Server]) -> None:
    server = serve()

    async def run() -> list[tuple[int, dict[str, object]]]:
        naps = [asyncio.create_task(post(server.port, infer_body([[0.5]], "nap"))) for _ in range(2)]
        values = [1.0, 2.0, POISON, 4.0, 5.0]
        answers = await asyncio.gather(*[post(server.port, infer_body([[value]])) for value in values])
        await asyncio.gather(*naps)
        return list(answers)

    answers = asyncio.run(run())
    assert [status for status, _ in answers] == [200, 200, 503, 200, 200]
    assert answers[2][1]["code"] == "worker_lost"
    assert sum(worker["restarts"] for worker in of_kind(server, "worker")) <= 2


def test_a_drain_finishes_what_waits_in_the_broker(serve: Callable[..., Server]) -> None:
    server = serve("--max-batch-size", "1")

    async def run() -> list[int]:
        naps = [asyncio.create_task(post(server.port, infer_body([[0.3]], "nap"))) for _ in range(6)]
        await asyncio.to_thread(wait_until, lambda: accepted(server) >= 6, 10.0, "all to be accepted")
        server.process.send_signal(signal.SIGTERM)
        return [status for status, _ in await asyncio.gather(*naps)]

    assert asyncio.run(run()) == [200] * 6
    assert server.process.wait(40) == 0
    assert not server.run_dir.exists()


def accepted(server: Server) -> int:
    """How many infer requests the API servers have taken, by the counters in their slots."""
    return sum(int(process["requests"]) for process in of_kind(server, "api_server"))


def test_a_remote_client_talks_to_the_broker_alone(serve: Callable[..., Server], tmp_path: Path) -> None:
    key_folder.create(tmp_path / "keys")
    key_file = key_folder.admit(tmp_path / "keys", "alice")
    server = serve("--native-listen", "tcp://127.0.0.1:0", "--native-keys", str(tmp_path / "keys"))
    event = server.event("ready")
    assert event is not None
    with paceline.Client(str(event["native"]), key_file=key_file) as client:
        np.testing.assert_array_equal(client.predict("probe", X), X + 1)
        os.kill(server.pid("broker"), signal.SIGKILL)
        np.testing.assert_array_equal(client.predict("probe", X - 1), X)
    for kind, index, count in (("broker", 0, 1), ("worker", 0, 0), ("worker", 1, 0)):
        assert len(listening_on_tcp(server.pid(kind, index))) == count, kind


def listening_on_tcp(pid: int) -> set[int]:
    connections = psutil.Process(pid).net_connections("tcp")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}
