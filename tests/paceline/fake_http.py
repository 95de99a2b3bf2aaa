"""A small HTTP server on a thread for client tests: a script decides each reply, everything that came is kept."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
import orjson

from paceline.protocol import dtypes

SILENCE = b"silence"  # never answer, keep the connection
HANG_UP = b"hang up"  # close, after what stands before it


@dataclass(slots=True)
class Request:
    """One request as it came; `connection` counts from 0."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Script: TypeAlias = Callable[[Request], bytes]


@dataclass
class FakeServer:
    """Listens on a free port of 127.0.0.1. `script` may be replaced at any time."""

    script: Script
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop_listening()
        self.drop_connections()

    def stop_listening(self) -> None:
        """New connections are refused."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def drop_connections(self) -> None:
        """Close every open connection, as a server that restarts."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number = self.connections
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        if self.tls is not None:
            try:
                connection = self.tls.wrap_socket(connection, server_side=True)
            except OSError:
                return
        with connection, connection.makefile("rb") as reader:
            try:
                while (request := _read(reader, number)) is not None:
                    self.requests.append(request)
                    reply = self.script(request)
                    if reply != SILENCE:
                        connection.sendall(reply.removesuffix(HANG_UP))
                    if reply.endswith(HANG_UP):
                        connection.shutdown(socket.SHUT_RDWR)
                        return
            except OSError:
                return


def _read(reader: object, number: int) -> Request | None:
    line = reader.readline()  # type: ignore[attr-defined]
    if not line.strip():
        return None
    method, target, _ = line.decode().split()
    headers = {}
    while (line := reader.readline().strip()) != b"":  # type: ignore[attr-defined]
        name, _, value = line.decode().partition(":")
        headers[name] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
    return Request(method, target, headers, body, number)


def reply(status: int, body: bytes = b"", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def error(status: int, code: str, text: str, headers: str = "") -> bytes:
    return reply(status, orjson.dumps({"error": text, "code": code, "request_id": "r"}), headers)


def infer_parts(request: Request) -> tuple[dict[str, object], bytes]:
    """(JSON head, binary rest) of an infer request."""
    size = int(request.headers["inference-header-content-length"])
    return orjson.loads(request.body[:size]), request.body[size:]


def echo(request: Request) -> bytes:
    """A model of one input `x`: metadata, readiness, and infer, which returns each input as an output, in binary."""
    if request.target.endswith("/ready"):
        return reply(200)
    if request.method == "GET":
        inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}, {"name": "y", "datatype": "INT64", "shape": [-1]}]
        return reply(200, orjson.dumps({"name": "echo", "versions": ["1"], "inputs": inputs}))
    head, data = infer_parts(request)
    inputs_given = head["inputs"]
    assert isinstance(inputs_given, list)
    outputs = [{**given, "name": f"output_{index}"} for index, given in enumerate(inputs_given)]
    return binary_reply(outputs, data)


def binary_reply(outputs: list[dict[str, object]], data: bytes) -> bytes:
    json = orjson.dumps({"model_name": "echo", "model_version": "1", "outputs": outputs})
    return reply(200, json + data, f"inference-header-content-length: {len(json)}\r\n")


def binary_output(name: str, array: np.ndarray) -> dict[str, object]:
    dtype = dtypes.from_numpy(array.dtype)
    assert dtype is not None
    parameters = {"binary_data_size": array.nbytes}
    return {"name": name, "datatype": dtype.oip, "shape": list(array.shape), "parameters": parameters}
