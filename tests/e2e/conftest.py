"""A store with the probe model, made once, and servers that never outlive their test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Server

_SAVE = """
import torch, paceline
from tests.e2e import probe_model
paceline.pytorch.save(
    probe_model.Probe(), "probe", signatures=probe_model.SIGNATURES, external_modules=[probe_model]
)
"""


@pytest.fixture(scope="session")
def store_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds probe:1."""
    home = tmp_path_factory.mktemp("store")
    environ = os.environ | {"PACELINE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", _SAVE], check=True, env=environ, cwd=ROOT)
    return home


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path: socket names have a limit."""
    folder = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    yield folder / "run"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def serve(store_home: Path, run_dir: Path) -> Iterator[Callable[..., Server]]:
    """`serve("--api-workers", "2")` gives a ready Server; it is killed with all its processes after the test."""
    servers: list[Server] = []

    def start(*flags: str, target: str = "probe:latest") -> Server:
        server = Server(store_home, run_dir, target, *flags)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        left = server.processes() if server.process.poll() is None else []
        for process in left:
            process.kill()
        server.process.wait(10)
        server.check_unharmed()
