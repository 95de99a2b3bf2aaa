"""`dispatch` against its default, with real processes: several queues for two workers, a broker for one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Load, Server, wait_until

pytestmark = pytest.mark.e2e


def kinds(server: Server) -> list[str]:
    return sorted(process["kind"] for process in server.status()["processes"])


def state_of(server: Server, kind: str, index: int) -> str:
    processes = server.status()["processes"]
    return next(str(each["state"]) for each in processes if (each["kind"], each["index"]) == (kind, index))


def headers(path: Path) -> list[dict[str, object]]:
    """The headers in a recording, one for each process that wrote to it."""
    return [line for line in map(json.loads, path.read_text().splitlines()) if "format" in line]


def test_workers_with_queues_of_their_own_share_the_load_without_a_broker(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--workers", "2", "--dispatch", "worker", "--record", str(tmp_path / "decisions.jsonl"))
    server.deaths_planned = True
    assert kinds(server) == ["api_server", "supervisor", "worker", "worker"]
    workers = [("worker", 0), ("worker", 1)]
    wait_until(lambda: all(state_of(server, *worker) == "ready" for worker in workers), 40.0, "both workers")
    with Load(server) as load:
        load.wait_answered(100)
        os.kill(server.pid("worker", 0), signal.SIGKILL)
        load.wait_answered(200)
        wait_until(lambda: state_of(server, "worker", 0) == "ready", 40.0, "the successor")
        load.wait_answered(100)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    assert all(process["requests"] > 0 for process in server.status()["processes"] if process["kind"] == "worker")
    assert server.stop() == 0
    assert [len(headers(tmp_path / f"decisions.probe-{index}.jsonl")) for index in (0, 1)] == [2, 1]


def test_a_single_worker_may_have_a_broker(serve: Callable[..., Server]) -> None:
    server = serve("--workers", "1", "--dispatch", "central")
    assert kinds(server) == ["api_server", "broker", "supervisor", "worker"]
    with Load(server) as load:
        load.wait_answered(100)
    assert (load.errors, load.crossed, load.resets) == ([], 0, 0)
    assert server.stop() == 0
