"""The pytest plugin, with real servers."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paceline.testing import TestServer, paceline_server

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["paceline_server"]

SERVICE = """
import torch
import paceline

class Doubler(paceline.Runnable):
    def __init__(self, factor=2):
        self.factor = factor

    @paceline.Runnable.method(batchable=True)
    def double(self, x):
        return x * self.factor

runner = paceline.Runner(Doubler, init={"factor": 4})
svc = paceline.Service("doubling", runners=[runner])

@svc.api
async def predict(rows: list) -> list:
    return (await runner.double.async_run(rows)).tolist()

@svc.api
def predict_in_a_thread(rows: list) -> list:
    return runner.run(rows).tolist()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.e2e
def test_service_with_a_runnable_answers_through_real_processes(
    paceline_server: Callable[..., TestServer], folder: Path
) -> None:
    import httpx

    server = paceline_server("service:svc", working_dir=folder)
    for route in ("predict", "predict_in_a_thread"):
        reply = httpx.post(f"{server.url}/{route}", json=[[1.0, 2.0]])
        assert (reply.status_code, reply.json()) == (200, [[4.0, 8.0]])
    with server.client() as client:
        result = client.predict("doubler", np.ones((1, 2), np.float32))
        assert isinstance(result, np.ndarray)
        assert result.tolist() == [[4.0, 4.0]]
    assert server.stop() == 0


@pytest.mark.e2e
def test_server_that_cannot_start_shows_its_log(paceline_server: Callable[..., TestServer], folder: Path) -> None:
    (folder / "service.py").write_text("import paceline\nraise KeyError('mine')\n")
    with pytest.raises(RuntimeError, match=r"(?s)ended with exit code \d+:.*KeyError: 'mine'"):
        paceline_server("service:svc", working_dir=folder)


def test_plugin_is_an_entry_point_of_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"paceline": "paceline.testing"}


def test_plugin_costs_a_run_of_pytest_nothing() -> None:
    code = "import sys, paceline.testing; print([m for m in ('numpy', 'torch', 'zmq', 'msgpack') if m in sys.modules])"
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
