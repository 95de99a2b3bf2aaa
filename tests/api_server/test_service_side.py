"""A user's service behind the server: what reaches it, what it may hold, and what becomes of what it does wrong."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from paceline.api_server.front import HttpBounds
from paceline.protocol.errors import InvalidInput
from paceline.protocol.runner_port import RunnerPort
from paceline.protocol.service_app import AsgiApp, Message, Receive, Send, ServicePlan
from tests.api_server.world import FakeHosts, Running, Wire, good, run, running, serve


@dataclass
class TinyService:
    """A ServiceApp around one ASGI callable."""

    app: AsgiApp
    name: str = "tiny"
    log: list[str] = field(default_factory=list)
    port: RunnerPort | None = None

    def plan(self) -> ServicePlan:
        return ServicePlan(self.name, (), ("/run",))

    def bind(self, port: RunnerPort) -> None:
        self.port = port

    def asgi(self) -> AsgiApp:
        return self.app

    async def startup(self) -> None:
        self.log.append("startup")

    async def shutdown(self) -> None:
        self.log.append("shutdown")


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client is gone")
        body += message["body"]
        more = message["more_body"]
    return body


async def reply(send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    size = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [size, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Says which path and request id it saw, and the body."""
    ids = [value.decode() for name, value in scope["headers"] if name == b"x-request-id"]
    body = await body_of(receive)
    await reply(send, json.dumps([scope["path"], ids, body.decode()]).encode())


def with_service(app: AsgiApp, test: Callable[[Running], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with running(service=TinyService(app), **options) as world:
            await test(world)

    run(main())


def request(path: str = "/run", body: bytes = b"", *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_every_path_that_is_not_ours_reaches_the_service_with_a_request_id() -> None:
    async def test(world: Running) -> None:
        wire = await world.connect()
        wire.send(request("/run", b"hello", "X-Request-Id: mine"))
        answer = await wire.reply()
        assert answer.json() == ["/run", ["mine"], "hello"]
        assert answer.headers["x-request-id"] == "mine"
        wire.send(request("/v3/x"))
        answer = await wire.reply()
        path, ids, _ = answer.json()
        assert (path, ids) == ("/v3/x", [answer.headers["x-request-id"]])

    with_service(echo, test)


def test_our_own_routes_stay_ours() -> None:
    async def test(world: Running) -> None:
        wire = await world.connect()
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/net", "/metrics"):
            wire.send(request(path, method="GET"))
            answer = await wire.reply()
            assert answer.status == 200, path
            assert not answer.body.startswith(b'["/')
        wire.send(request("/v2/nothing"))
        assert (await wire.reply()).json()["code"] == "path_not_found"
        wire.send(good())
        assert (await wire.reply()).status == 200

    with_service(echo, test)


def test_request_id_that_is_none_is_refused_before_the_service_sees_it() -> None:
    async def test(world: Running) -> None:
        wire = await world.connect()
        wire.send(request("/run", b"", "X-Request-Id: " + "x" * 200))
        assert (await wire.reply()).json()["code"] == "invalid_parameter"

    with_service(echo, test)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("kind", "status"), [("text/plain", 200), ("application/json", 413)])
def test_bodies_are_bounded_and_those_of_json_more_so(kind: str, status: int, chunked: bool) -> None:
    async def test(world: Running) -> None:
        wire = await world.connect()
        for size, expected in ((100, 200), (101, status), (201, 413)):
            wire = await world.connect()
            if chunked:
                head = f"POST /run HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Type: {kind}\r\n\r\n"
                wire.send(head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size))
            else:
                wire.send(request("/run", b"x" * size, f"Content-Type: {kind}"))
            answer = await wire.reply()
            assert answer.status == expected, size
            if expected == 413:
                assert answer.json()["code"] == "too_large"
                assert await wire.ended()

    with_service(echo, test, bounds=HttpBounds(body_bytes=200, json_bytes=100))


def test_bodies_in_hand_share_one_bound_until_their_answers() -> None:
    gate = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await gate.wait()
        await reply(send, b"done")

    async def test(world: Running) -> None:
        first = await world.connect()
        first.send(request("/run", b"x" * 80))
        await world.open_requests(1)
        second = await world.connect()
        second.send(request("/run", b"x" * 80))
        answer = await second.reply()
        assert (answer.status, answer.json()["code"]) == (429, "queue_full")
        gate.set()
        assert (await first.reply()).body == b"done"
        second.send(request("/run", b"x" * 80))
        assert (await second.reply()).body == b"done"

    with_service(app, test, bounds=HttpBounds(bodies_bytes=100))


def test_requests_in_hand_are_bounded() -> None:
    gate = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await gate.wait()
        await reply(send, b"done")

    async def test(world: Running) -> None:
        first, second = await world.connect(), await world.connect()
        first.send(request())
        await world.open_requests(1)
        second.send(request())
        answer = await second.reply()
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        gate.set()
        assert (await first.reply()).body == b"done"

    with_service(app, test, spec=serve(pending_requests=1))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(InvalidInput("not like this"), 400, "invalid_input"), (RuntimeError("a secret"), 500, "internal")],
)
def test_error_of_user_code_is_an_answer_with_an_id_and_its_traceback_only_in_the_log(
    error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        raise error

    async def test(world: Running) -> None:
        wire = await world.connect()
        for _ in range(2):  # the connection lives on
            wire.send(request())
            answer = await wire.reply()
            assert (answer.status, answer.json()["code"]) == (status, code)
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
            assert "secret" not in answer.body.decode()

    with caplog.at_level(logging.ERROR):
        with_service(app, test)
    assert ("a secret" in caplog.text) == (status == 500)


def test_streams_arrive_piece_by_piece() -> None:
    gate = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await gate.wait()
        await send({"type": "http.response.body", "body": b"two"})

    async def test(world: Running) -> None:
        wire = await world.connect()
        wire.send(request())
        assert (await wire.reply()).headers["transfer-encoding"] == "chunked"
        assert await wire.reader.readexactly(8) == b"3\r\none\r\n"
        gate.set()
        assert await wire.reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        wire.send(request("/v2/health/live", method="GET"))
        assert (await wire.reply()).status == 200

    with_service(app, test)


def test_stream_that_fails_is_cut_off() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise RuntimeError("half-way")

    async def test(world: Running) -> None:
        wire = await world.connect()
        wire.send(request())
        await wire.reply()
        assert await wire.reader.read() == b"3\r\none\r\n"

    with_service(app, test)


def test_client_that_hangs_up_is_heard_of_by_who_listens_and_ends_who_does_not() -> None:
    told: list[str] = []
    ended = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await body_of(receive)
        told.append("begun")
        try:
            if scope["path"] == "/listens":
                told.append((await receive())["type"])
            else:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        finally:
            ended.set()

    async def test(world: Running) -> None:
        for path, end in (("/listens", "http.disconnect"), ("/works", "cancelled")):
            told.clear()
            ended.clear()
            wire = await world.connect()
            wire.send(request(path))
            await world.open_requests(1)
            wire.close()
            await asyncio.wait_for(ended.wait(), 10)
            assert told == ["begun", end]
            await world.open_requests(0)

    with_service(app, test)


def test_drain_refuses_new_requests_and_finishes_those_in_hand_with_their_calls() -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        begun.set()
        await gate.wait()
        await reply(send, b"done")

    async def test(world: Running) -> None:
        first, second = await world.connect(), await world.connect()
        first.send(request())
        await begun.wait()
        draining = asyncio.ensure_future(world.server.drain(10))
        await asyncio.sleep(0)
        second.send(request())
        answer = await second.reply()
        assert (answer.status, answer.json()["code"]) == (503, "draining")
        assert await second.ended()
        assert not draining.done()
        gate.set()
        done = await first.reply()
        assert (done.body, done.headers["connection"]) == (b"done", "close")
        await draining

    with_service(app, test)


def test_what_is_in_hand_when_the_grace_is_over_is_answered_too() -> None:
    begun = asyncio.Event()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        wire: Wire
        async with running(service=TinyService(app)) as world:
            wire = await world.connect()
            wire.send(request())
            await begun.wait()
            await world.server.drain(0)
            answer = asyncio.ensure_future(wire.reply())
        assert (await answer).json()["code"] == "draining"

    run(main())


def test_service_is_bound_to_the_runners() -> None:
    service = TinyService(echo)

    async def main() -> None:
        async with running(service=service, hosts=FakeHosts()):
            assert service.port is not None
            assert set(service.port.methods("net")) == {"__call__"}

    run(main())
