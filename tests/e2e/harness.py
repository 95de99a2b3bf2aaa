"""Starts a real server for a test, talks to it, and looks at its processes from outside."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


class Server:
    """One `paceline serve` in a child process; its JSON events are collected as they come."""

    def __init__(self, store_home: Path, run_dir: Path, target: str = "probe:latest", *flags: str) -> None:
        self.run_dir = run_dir
        self._environ = os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)}
        self._command = [
            *[sys.executable, "-m", "paceline", "serve", target, "--port", "0", "--json", "--run-dir", str(run_dir)],
            *flags,
        ]
        self.events: list[dict[str, Any]] = []
        self.deaths_planned = False  # a test that kills, or makes a process die, says so
        self.process: subprocess.Popen[str]

    def start(self) -> Server:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environ, cwd="/"
        )
        self.stderr: list[str] = []
        threading.Thread(target=self._read_events, daemon=True).start()
        threading.Thread(target=self._read_stderr, daemon=True).start()
        wait_until(
            lambda: self.event("ready") is not None or self.process.poll() is not None, START_S, "a ready server"
        )
        assert self.event("ready") is not None, f"exit code {self.process.returncode}\n" + "".join(self.stderr)
        return self

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        self.stderr.extend(self.process.stderr)

    def event(self, name: str) -> dict[str, Any] | None:
        """The latest event `name`, None if there was none."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def check_unharmed(self) -> None:
        """No process died that the test did not kill."""
        died = [event for event in self.events if event["event"] == "child_died"]
        assert self.deaths_planned or not died, died

    @property
    def url(self) -> str:
        event = self.event("ready")
        assert event is not None
        return str(event["url"])

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def status(self) -> dict[str, Any]:
        """`paceline status --json`."""
        done = subprocess.run(
            [sys.executable, "-m", "paceline", "status", "--run-dir", str(self.run_dir), "--json"],
            check=True,
            capture_output=True,
            text=True,
            env=self._environ,
            cwd="/",
        )
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def pid(self, kind: str, index: int = 0) -> int:
        """The pid of one process of `kind`, as `paceline status` says."""
        for process in self.status()["processes"]:
            if process["kind"] == kind and process["index"] == index:
                return int(process["pid"])
        raise AssertionError(f"no {kind} {index} in the status")

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """(status, JSON body) of one HTTP request on a fresh connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            raw = response.read()
            return response.status, json.loads(raw) if raw else {}
        finally:
            connection.close()

    def infer(
        self, rows: list[list[float]], method: str | None = None, **parameters: Any
    ) -> tuple[int, dict[str, Any]]:
        """(status, body) of one JSON infer request to the probe model."""
        body = infer_body(rows, method, **parameters)
        return self.request("POST", "/v2/models/probe/infer", body)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send `signum`, wait for the end, give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        return self.process.wait(40)


def infer_body(rows: list[list[float]], method: str | None = None, **parameters: Any) -> bytes:
    """An OIP infer request with one FP32 input x."""
    if method is not None:
        parameters["method"] = method
    flat = [value for row in rows for value in row]
    tensor = {"name": "x", "shape": [len(rows), len(rows[0])], "datatype": "FP32", "data": flat}
    return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll `condition` until it holds; fail after `timeout_s` naming `what` was waited for."""
    until = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        pause.wait(0.01)


async def post(port: int, body: bytes, path: str = "/v2/models/probe/infer") -> tuple[int, dict[str, Any]]:
    """(status, JSON body) of one POST on a connection of its own; (0, {}) if the connection was reset."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, {}
    try:
        writer.write(f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head[9:12]), json.loads(await reader.readexactly(size))
    except (OSError, EOFError):
        return 0, {}
    finally:
        writer.close()


class Load:
    """`clients` callers in threads, each asking one value after the other and checking each answer against it."""

    def __init__(self, server: Server, clients: int = 8, pause_s: float = 0.0) -> None:
        self._server = server
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answered = self.resets = self.crossed = 0
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n, pause_s), daemon=True) for n in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)

    def wait_answered(self, count: int, timeout_s: float = 40.0) -> None:
        """Until `count` more requests than now have been answered."""
        goal = self.answered + count
        wait_until(lambda: self.answered >= goal or self.errors, timeout_s, f"{count} more answers")

    def _run(self, number: int, pause_s: float) -> None:
        connection: http.client.HTTPConnection | None = None
        value = number * 1_000_000 + 1000
        while not self._stop.wait(pause_s):
            value += 1
            connection = connection or http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=35)
            try:
                connection.request("POST", "/v2/models/probe/infer", infer_body([[float(value)]]))
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = None
                with self._lock:
                    self.resets += 1
                continue
            with self._lock:
                self._check(value, status, body)

    def _check(self, value: int, status: int, body: bytes) -> None:
        if status != 200:
            self.errors.append(f"{status} {body.decode()}")
        elif json.loads(body)["outputs"][0]["data"] != [float(value) + 1.0]:
            self.crossed += 1
        else:
            self.answered += 1
