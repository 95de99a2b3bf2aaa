"""Starts and stops the servers that a benchmark measures; waits for their own word, never for a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import Workload

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers: its process, URL, and (Paceline's) run directory and seconds from start to ready."""

    process: subprocess.Popen[str]
    url: str
    run_dir: Path | None = None
    ready_s: float = 0.0


@contextlib.contextmanager
def baseline_server(workload: Workload) -> Iterator[Running]:
    """The model inline in a bare uvicorn app."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.baseline", workload.name, str(port)], text=True)
    try:
        wait_listening(process, port)
        yield Running(process, f"http://127.0.0.1:{port}")
    finally:
        stop(process)


@contextlib.contextmanager
def paceline_server(workload: Workload, store_home: Path, **settings: object) -> Iterator[Running]:
    """`paceline serve WORKLOAD` from `store_home`: one API server, one worker with one torch thread. The
    runner's `settings` may say otherwise."""
    run_dir = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    command = [
        *[sys.executable, "-m", "paceline", "serve", f"{workload.name}:latest", "--port", "0", "--json"],
        *["--run-dir", str(run_dir / "run")],
    ]
    environ = os.environ | {"PACELINE_HOME": str(store_home)}
    for name, value in {"workers": 1, "threads": 1, **settings}.items():
        environ[f"PACELINE_RUNNER__{workload.name.upper()}__{name.upper()}"] = str(value)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        url = wait_ready(process)
        yield Running(process, url, run_dir / "run", time.monotonic() - began)
    finally:
        stop(process)
        shutil.rmtree(run_dir, ignore_errors=True)


def wait_ready(process: subprocess.Popen[str]) -> str:
    """The URL that `paceline serve --json` says when it is ready."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "ready":
            return str(event["url"])
    raise SystemExit(f"the server ended with code {process.wait()} before it was ready; its output is above")


def wait_listening(process: subprocess.Popen[str], port: int) -> None:
    """Until something accepts connections on `port`."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise SystemExit(f"the baseline ended with code {process.returncode}; its output is above")
    raise SystemExit(f"the baseline did not listen on port {port} within {START_S} s")


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM, and half a minute to obey."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
