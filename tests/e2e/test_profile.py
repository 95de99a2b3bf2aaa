"""A real server is profiled while it serves: the operators of its model are in the table and in the trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paceline.protocol.control import process_name
from tests.e2e.harness import ROOT, Server, wait_until

pytestmark = pytest.mark.e2e

_SAVE = """
import torch, paceline
paceline.pytorch.save(torch.nn.Linear(2, 2), "linear", signatures={"__call__": {"batchable": True}})
"""


@pytest.fixture
def linear(store_home: Path, serve: Callable[..., Server]) -> Server:
    """Serves one torch.nn.Linear."""
    environ = os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", _SAVE], check=True, env=environ, cwd=ROOT)
    return serve(target="linear:latest")


class Profile:
    """`paceline profile --json` at work."""

    def __init__(self, server: Server, *words: str) -> None:
        command = [sys.executable, "-m", "paceline", "profile", "--json", "--run-dir", str(server.run_dir), *words]
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd="/")

    def result(self) -> tuple[int, dict[str, Any]]:
        """(exit code, what it printed)."""
        text, _ = self.process.communicate(timeout=60)
        return self.process.returncode, json.loads(text)


def ask(server: Server) -> None:
    tensor = {"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    status, answer = server.request("POST", "/v2/models/linear/infer", body)
    assert status == 200, answer


def test_profile_of_a_serving_worker_has_the_operators_of_its_model(linear: Server, tmp_path: Path) -> None:
    output = tmp_path / "trace.json"
    profile = Profile(linear, "linear", "--seconds", "1", "--output", str(output))
    while profile.process.poll() is None:
        ask(linear)
    code, shown = profile.result()
    assert code == 0, shown
    assert (shown["worker"], shown["full"]) == (process_name("worker", "linear", 0), False)
    operators = {each["name"]: each for each in shown["operators"]}
    assert operators["aten::addmm"]["calls"] == shown["batches"] > 0
    assert operators["aten::addmm"]["self_cpu_us"] > 0
    names = {event.get("name") for event in json.loads(output.read_text())["traceEvents"]}
    assert "aten::linear" in names
    assert output.stat().st_mode & 0o777 == 0o600
    assert not list(linear.run_dir.glob("t-*"))


def test_profile_of_a_worker_that_dies_or_drains_is_answered(linear: Server, tmp_path: Path) -> None:
    code, shown = Profile(linear, "linaer").result()
    assert (code, shown["code"]) == (2, "model_not_found")
    assert 'Did you mean "linear"?' in shown["error"]
    linear.deaths_planned = True
    dying = Profile(linear, "linear", "--seconds", "60", "--output", str(tmp_path / "a.json"))
    wait_until(lambda: "profiler_start" in "".join(linear.stderr), 40, "the recording")
    pid = linear.pid("worker")
    os.kill(pid, 9)
    code, shown = dying.result()
    assert (code, shown["code"]) == (1, "worker_lost")
    assert "SIGKILL" in shown["error"]
    wait_until(lambda: linear.request("GET", "/v2/models/linear/ready")[0] == 200, 40, "the successor")
    drained = Profile(linear, "linear", "--seconds", "60", "--output", str(tmp_path / "b.json"))
    wait_until(lambda: "".join(linear.stderr).count("profiler_start") == 2, 40, "the second recording")
    assert linear.stop() == 0
    code, shown = drained.result()
    assert (code, shown["batches"], shown["operators"]) == (0, 0, [])
    assert len([event for event in linear.events if event["event"] == "child_died"]) == 1
