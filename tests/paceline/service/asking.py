"""Asks a service's ASGI application, without a socket: whole requests through httpx, and piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from paceline.io import Descriptor
from paceline.service import Service


def ask(service: Service, path: str, method: str = "POST", **request: Any) -> httpx.Response:
    """One answer. `request`: httpx's json, content, files, headers, ..."""

    async def asking() -> httpx.Response:
        transport = httpx.ASGITransport(service.asgi())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(asking())


def echo_service(descriptor: Descriptor, output: Descriptor | None = None) -> tuple[Service, list[Any]]:
    """A service whose `POST /echo` answers what it was given, and the list of what its function got."""
    service = Service(name="echo")
    got: list[Any] = []

    @service.api(input=descriptor, output=output or descriptor)
    async def echo(value: Any) -> Any:
        got.append(value)
        return value

    return service, got


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    """(status, code, text) of an error body, which has exactly the three fields."""
    body = response.json()
    assert set(body) == {"error", "code", "request_id"}
    assert body["request_id"] == response.headers["x-request-id"]
    return response.status_code, body["code"], body["error"]


class Connection:
    """One request by ASGI messages: what is sent is collected, and the client can hang up."""

    def __init__(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self.sent: list[dict[str, Any]] = []
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> dict[str, Any]:
        return await self._incoming.get()

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))
        if message["type"] == "http.response.body" and message.get("body"):
            self.pieces.put_nowait(bytes(message["body"]))

    async def ask(self, service: Service) -> None:
        await service.asgi()(self.scope, self.receive, self.send)
