"""The pytest plugin: a fixture `paceline_server` that starts real servers for a test and ends them after it.

pytest finds it by the entry point of the installed package. Imported by every run of pytest where Paceline is, so it
imports nothing of Paceline until a server is asked for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paceline.client import Client

START_S = 120.0
_STOP_S = 60.0
_LOG_CHARS_MAX = 8000


class TestServer:
    """One `paceline serve` on a free port of 127.0.0.1. `url` is there once it is ready."""

    __test__ = False  # its name begins like that of a test class

    def __init__(self, targets: Sequence[str], flags: Sequence[str], working_dir: Path | None) -> None:
        self.url = ""
        # Short: the names of sockets have a limit.
        self._folder = Path(tempfile.mkdtemp(prefix="paceline-"))
        self._log = self._folder / "log"
        self._come = threading.Event()
        options = ["--port", "0", "--json", "--run-dir", str(self._folder / "run"), *flags]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "paceline", "serve", *targets, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=working_dir,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def log(self) -> str:
        """What the server and its processes wrote so far."""
        return self._log.read_text()

    def client(self) -> Client:
        """A client of this server; close it, or use it in a `with`."""
        from paceline.client import Client

        return Client(self.url)

    def wait_ready(self, seconds: float) -> None:
        """Until requests are answered. Raises RuntimeError with the end of the log if that does not happen."""
        if not self._come.wait(seconds) or not self.url:
            why = f"ended with exit code {self._process.wait(_STOP_S)}" if self._come.is_set() else "is not ready"
            raise RuntimeError(f"the server {why}:\n{self.log[-_LOG_CHARS_MAX:]}")

    def stop(self) -> int:
        """Let it finish what it has accepted, and end. Its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready" and not self.url:
                self.url = event["url"]
                self._come.set()
        self._come.set()


@pytest.fixture
def paceline_server() -> Iterator[Callable[..., TestServer]]:
    """A function that starts a server and waits until it is ready; after the test all of them are stopped.

    targets: as `paceline serve` takes them. flags: of `paceline serve`. working_dir: where the service's module is.

    Example::

        def test_predict(paceline_server):
            server = paceline_server("service:svc", working_dir="src")
            with server.client() as client:
                assert client.predict("my_model", images).shape == (1, 10)
    """
    servers: list[TestServer] = []

    def start(
        *targets: str, flags: Sequence[str] = (), working_dir: str | Path | None = None, start_s: float = START_S
    ) -> TestServer:
        server = TestServer(targets, flags, None if working_dir is None else Path(working_dir))
        servers.append(server)
        server.wait_ready(start_s)
        return server

    yield start
    for server in servers:
        server.stop()
        server.remove()
