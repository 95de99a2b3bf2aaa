"""Starts and stops the guide's service in each product, in the settings that are compared."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import paceline.pytorch
from benchmarks import workloads
from benchmarks.peers.service_file import service_text
from benchmarks.servers import START_S, free_port, stop, wait_ready
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[2]

# 64 requests in flight need 64 connections to the runner, else they wait for each other: the default is 16. Access logs
# are off in Paceline.
ONE_PROCESS_YAML = """\
version: 1
api_server:
  max_runner_connections: 128
  logging: {access: {enabled: false}}
runners:
  logging: {access: {enabled: false}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A product in one setting. `port` once it runs."""

    product: str
    setting: str
    port: int

    @property
    def name(self) -> str:
        return f"{self.product}, {self.setting}"

    def predict(self, body: str) -> list[float]:
        """One answer of the service."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/predict", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            scores: list[float] = json.load(response)
        return scores


@contextlib.contextmanager
def paceline_peer(folder: Path, setting: str) -> Iterator[Peer]:
    """One API process and one worker with one torch thread; or the defaults."""
    flags, environ = [], os.environ | {"PACELINE_HOME": str(folder / "paceline_home")}
    if setting == "one process":
        flags = ["--api-workers", "1", "--workers", "1"]
        environ["PACELINE_RUNNER__MY_TORCH_MODEL__THREADS"] = "1"
    command = [
        *[sys.executable, "-m", "paceline", "serve", "service:svc", "--port", "0", "--json"],
        *["--working-dir", str(_folder(folder, "paceline")), "--run-dir", str(folder / f"run-{setting[:3]}"), *flags],
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        yield Peer("Paceline", setting, int(wait_ready(process).rsplit(":", 1)[1]))
    finally:
        stop(process)


@contextlib.contextmanager
def bentoml_peer(python: Path, folder: Path, setting: str) -> Iterator[Peer]:
    """One API process that may have 128 requests at the runner, its logs of accesses off; or the defaults. What it
    prints goes to a file."""
    port, flags, environ = free_port(), [], bentoml_environ(folder)
    if setting == "one process":
        config = folder / "bentoml.yaml"
        config.write_text(ONE_PROCESS_YAML)
        flags, environ = ["--api-workers", "1"], environ | {"BENTOML_CONFIG": str(config)}
    command = [str(python.with_name("bentoml")), "serve", "service:svc", "--port", str(port), "--host", "127.0.0.1"]
    log = folder / f"bentoml-{setting[:3]}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *flags],
            cwd=_folder(folder, "bentoml"),
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        _wait_answers(process, f"http://127.0.0.1:{port}/readyz", log)
        yield Peer("BentoML", setting, port)
    finally:
        stop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # runners that it left behind


def save_models(python: Path, folder: Path) -> dict[str, str]:
    """The same weights saved with both products; the versions in BentoML's environment."""
    os.environ["PACELINE_HOME"] = str(folder / "paceline_home")
    paceline.pytorch.save(
        WORKLOADS["net"].model(),
        "my_torch_model",
        signatures={"__call__": {"batchable": True, "batch_dim": 0}},
        external_modules=[workloads],
        sample_inputs=torch.zeros(WORKLOADS["net"].shape),
    )
    command = [str(python), "-m", "benchmarks.peers.bentoml_model"]
    output = subprocess.check_output(command, env=bentoml_environ(folder), text=True)
    versions: dict[str, str] = json.loads(output.splitlines()[-1])
    return versions


def bentoml_environ(folder: Path) -> dict[str, str]:
    """A store of its own, nothing reported to anyone, and this repository's modules for the model's class."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("BENTOML_", "PACELINE_"))}
    return ours | {
        "BENTOML_HOME": str(folder / "bentoml_home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": str(ROOT),
    }


def _folder(folder: Path, product: str) -> Path:
    place = folder / product
    place.mkdir(exist_ok=True)
    (place / "service.py").write_text(service_text(product))
    return place


def _wait_answers(process: subprocess.Popen[str], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise SystemExit(f"BentoML ended with code {process.returncode}:\n{log.read_text()}")
    raise SystemExit(f"BentoML was not ready within {START_S:g} s:\n{log.read_text()}")
