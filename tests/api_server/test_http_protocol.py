"""The hardened protocol over raw sockets: what is ambiguous, oversized or slow is refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from paceline.api_server.front import HttpBounds
from paceline.api_server.http_protocol import DIRECT_BODY_BYTES, HttpProtocol
from paceline.protocol.messages import Failure, InferItem, Result
from tests.api_server.world import (
    FakeHosts,
    Reply,
    Running,
    binary_body,
    echo,
    good,
    json_body,
    post,
    run,
    running,
)

HEAD = "POST /v2/models/net/infer HTTP/1.1\r\nHost: test\r\n"
BINARY_HEAD = HEAD.encode() + b"Inference-Header-Content-Length: 100\r\n"
INNER = b"POST /v2/models/net/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"

AMBIGUOUS: dict[str, bytes] = {
    "content-length and chunked": HEAD.encode()
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(INNER))
    + INNER,
    "chunked and content-length": HEAD.encode()
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    + INNER,
    "two different content-lengths": HEAD.encode() + b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + INNER,
    "the same content-length twice": HEAD.encode() + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n" + INNER,
    "signed content-length": HEAD.encode() + b"Content-Length: +3\r\n\r\nabc" + INNER,
    "negative content-length": HEAD.encode() + b"Content-Length: -3\r\n\r\nabc" + INNER,
    "list of content-lengths": HEAD.encode() + b"Content-Length: 3, 3\r\n\r\nabc" + INNER,
    "xchunked": HEAD.encode() + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + INNER,
    "chunked, identity": HEAD.encode() + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + INNER,
    "gzip, chunked": HEAD.encode() + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two transfer-encodings": HEAD.encode()
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + INNER,
    "hexadecimal prefix in a chunk size": HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "bad end of a chunk": HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
    "bare line feeds": b"GET /v2 HTTP/1.1\nHost: test\n\n",
    "folded header": b"GET /v2 HTTP/1.1\r\nHost: test\r\nX-A: 1\r\n 2\r\n\r\n",
    "space before the colon": b"GET /v2 HTTP/1.1\r\nHost : test\r\n\r\n",
    "two hosts": b"GET /v2 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\nX-A: 1\r\n\r\n",
    "HTTP 0.9": b"GET /v2\r\n\r\n",
    "HTTP 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "chunked on HTTP/1.0": b"POST /v2 HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length of the JSON given twice": post(b"{}", "Inference-Header-Content-Length: 0", head_length=2),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


async def still_serves(world: Running) -> None:
    """A good request on another connection answers."""
    wire = await world.connect()
    wire.send(good())
    assert (await wire.reply()).status == 200
    wire.close()


async def refused(world: Running, data: bytes) -> Reply:
    """The one answer to `data`, after which the connection must end."""
    wire = await world.connect()
    wire.send(data)
    reply = await wire.reply()
    assert await wire.ended()
    wire.close()
    await still_serves(world)
    return reply


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_nothing_behind_it_is_served(name: str) -> None:
    async def scenario() -> None:
        async with running() as world:
            reply = await refused(world, AMBIGUOUS[name])
            assert reply.status == 400
            assert reply.headers["connection"] == "close"
            assert reply.json().keys() == {"error", "code", "request_id"}
            assert reply.headers["x-request-id"] == reply.json()["request_id"]

    run(scenario())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\nX-A: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(100)) + b"\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(10_000)) + b"\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\nX-A: " + b"a" * 40_000, 431),
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 414),
        (b"GET /" + b"a" * 9_000, 414),
        (HEAD.encode() + b"Content-Length: 2001\r\n\r\n", 413),
        (HEAD.encode() + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n", 413),
        (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + (b"3e8\r\n" + b"a" * 1000 + b"\r\n") * 3, 413),
        (HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 101, 413),
        (b"GET /v2 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 101, 413),
    ],
)
def test_what_is_over_a_bound_is_refused_before_it_is_buffered(data: bytes, status: int) -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(body_bytes=2000, chunks=100)) as world:
            assert (await refused(world, data)).status == status

    run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Length: 2001\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + (b"3e8\r\n" + b"a" * 1000 + b"\r\n") * 3,
    ],
)
def test_json_over_its_bound_is_refused_before_it_is_buffered_and_told_of_the_binary_form(data: bytes) -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(json_bytes=2000)) as world:
            reply = await refused(world, HEAD.encode() + data)
            assert (reply.status, reply.json()["code"]) == (413, "too_large")
            assert "binary_data_size" in reply.json()["error"]
            body, head_length = binary_body([1, 1000], bytes(4000))
            wire = await world.connect()
            wire.send(post(body, head_length=head_length))
            assert (await wire.reply()).status == 200

    run(scenario())


def test_headers_and_bodies_of_exactly_the_bound_are_taken() -> None:
    async def scenario() -> None:
        body = json_body() + b" " * 1000
        async with running(bounds=HttpBounds(body_bytes=len(body))) as world:
            wire = await world.connect()
            wire.send(post(body, "X-A: " + "a" * 16_000))
            assert (await wire.reply()).status == 200
            wire.send(post(body, *[f"X-{i}: 1" for i in range(98)]))
            assert (await wire.reply()).status == 200

    run(scenario())


def test_a_huge_header_is_not_kept() -> None:
    async def scenario() -> None:
        async with running() as world:
            wire = await world.connect()
            wire.send(b"GET /v2 HTTP/1.1\r\nHost: t\r\nX-A: ")
            for _ in range(64):
                wire.send(b"a" * 65_536)
            assert (await wire.reply()).status == 431
            for connection in world.server.front.connections:
                assert isinstance(connection, HttpProtocol)
                assert connection.headers == [(b"host", b"t")]

    run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nHost: t\r\nX-A"])
def test_silence_in_a_head_is_ended_with_408(sent: bytes) -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(headers_s=0.1)) as world:
            assert (await refused(world, sent)).status == 408

    run(scenario())


def test_silence_in_a_body_is_ended_with_408() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(body_idle_s=0.1)) as world:
            assert (await refused(world, HEAD.encode() + b"Content-Length: 100\r\n\r\nabc")).status == 408
            large = HEAD.encode() + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1000
            assert (await refused(world, large)).status == 408

    run(scenario())


def test_a_body_that_only_trickles_is_ended_with_408() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(body_s=0.2)) as world:
            wire = await world.connect()
            wire.send(HEAD.encode() + b"Content-Length: 100000\r\n\r\n")
            reading = asyncio.ensure_future(wire.reply())
            while not reading.done():
                wire.send(b"a")
                await asyncio.wait([reading], timeout=0.01)
            assert (await reading).status == 408

    run(scenario())


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(keep_alive_s=0.1)) as world:
            wire = await world.connect()
            wire.send(good())
            assert (await wire.reply()).status == 200
            assert await wire.ended()

    run(scenario())


def test_a_body_in_chunks_is_one_body() -> None:
    async def scenario() -> None:
        body = json_body()
        async with running() as world:
            wire = await world.connect()
            wire.send(HEAD.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            for byte in body:
                wire.send(b"1\r\n%c\r\n" % byte)
            wire.send(b"0\r\nX-Request-Id: of-a-trailer\r\n\r\n")
            reply = await wire.reply()
            assert reply.status == 200
            assert reply.json()["outputs"][0]["data"] == [1, 2, 3, 4]
            assert reply.headers["x-request-id"] != "of-a-trailer"

    run(scenario())


def test_a_large_body_is_read_straight_into_place_and_the_connection_goes_on() -> None:
    async def scenario() -> None:
        data = bytes(range(256)) * 8192
        body, head_length = binary_body([1, len(data) // 4], data)
        assert len(data) > DIRECT_BODY_BYTES
        async with running() as world:
            wire = await world.connect()
            for request in (body, body):
                wire.send(post(request, head_length=head_length) + good())
                first, second = await wire.reply(), await wire.reply()
                assert first.status == second.status == 200
                assert first.body.endswith(data)
            assert world.server.front._bodies_bytes == 0

    run(scenario())


def test_an_idle_connection_keeps_nothing_of_its_last_request() -> None:
    async def scenario() -> None:
        body, head_length = binary_body([1, 100_000], bytes(400_000))
        async with running() as world:
            wire = await world.connect()
            wire.send(post(body, head_length=head_length))
            assert (await wire.reply()).status == 200
            (connection,) = world.server.front.connections
            assert isinstance(connection, HttpProtocol)
            assert (connection.cycle.body, connection.cycle.exchange) == (b"", None)

    run(scenario())


def test_a_client_that_leaves_inside_a_large_body_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with running() as world:
            wire = await world.connect()
            wire.send(BINARY_HEAD + b"Content-Length: 5000000\r\n\r\n" + b"a" * 100_000)
            await until(lambda: world.server.front._bodies_bytes == 100_000)
            wire.close()
            await until(lambda: world.server.front._bodies_bytes == 0)

    run(scenario())


def test_bodies_that_come_in_are_bounded_together() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(bodies_bytes=1_500_000)) as world:
            first = await world.connect()
            first.send(BINARY_HEAD + b"Content-Length: 2000000\r\n\r\n" + b"a" * 1_000_000)
            await until(lambda: world.server.front._bodies_bytes == 1_000_000)
            reply = await refused(world, BINARY_HEAD + b"Content-Length: 1000000\r\n\r\n" + b"a" * 900_000)
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1
            first.close()
            await until(lambda: world.server.front._bodies_bytes == 0)

    run(scenario())


def test_what_is_only_announced_takes_nobodys_place() -> None:
    async def scenario() -> None:
        body, head_length = binary_body([1, 100_000], bytes(400_000))
        async with running(bounds=HttpBounds(bodies_bytes=1_000_000)) as world:
            slow = [await world.connect() for _ in range(10)]
            for each in slow:
                each.send(BINARY_HEAD + b"Content-Length: 60000000\r\n\r\n" + b"a" * 1000)
            await until(lambda: world.server.front._bodies_bytes == 10_000)
            wire = await world.connect()
            wire.send(post(body, head_length=head_length))
            assert (await wire.reply()).status == 200
            for each in slow:
                each.close()

    run(scenario())


@pytest.mark.parametrize("length", [b"5000", b"100000"])
def test_a_body_below_the_least_rate_is_ended_with_408_and_one_above_is_not(length: bytes) -> None:
    async def scenario() -> None:
        bounds = HttpBounds(body_grace_s=0.2, body_bytes_per_s=1000.0)
        async with running(bounds=bounds) as world:
            wires = [await world.connect() for _ in range(2)]
            for wire in wires:
                wire.send(HEAD.encode() + b"Content-Length: " + length + b"\r\n\r\n" + b"a" * 1000)
            slow, fast = [asyncio.ensure_future(wire.reply()) for wire in wires]
            while not slow.done():
                wires[0].send(b"a")
                wires[1].send(b"a" * 40)
                await asyncio.wait([slow], timeout=0.01)
            assert (await slow).status == 408
            if length == b"100000":
                assert not fast.done()
            fast.cancel()
            wires[1].close()

    run(scenario())


def test_pipelined_requests_are_answered_in_order_whatever_order_the_host_has() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            ids = [f"r{i}" for i in range(20)]
            mixed = [post(json_body(), f"x-request-id: {i}") for i in ids]
            mixed.insert(3, b"GET /v2 HTTP/1.1\r\nHost: t\r\nx-request-id: get\r\n\r\n")
            wire.send(b"".join(mixed))
            pipe = hosts.pipes[0]
            pipe.reply = echo
            await until(lambda: len(pipe.items) >= 1)
            if not any(item.attempt for item in pipe.items[1:]):
                pipe.answer([echo(pipe.items[0])])
            replies = [await wire.reply() for _ in range(21)]
            assert [r.headers["x-request-id"] for r in replies] == [*ids[:3], "get", *ids[3:]]
            assert {r.status for r in replies} == {200}

    run(scenario())


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.send(good() + b"GET /v2 HTTP/1.1\r\n\r\n" + good())
            await until(lambda: len(hosts.pipes[0].items) == 1)
            hosts.pipes[0].answer([echo(hosts.pipes[0].items[0])])
            assert [(await wire.reply()).status for _ in range(2)] == [200, 400]
            assert await wire.ended()

    run(scenario())


def test_too_many_pipelined_requests_end_the_connection() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(pipelined=4)) as world:
            wire = await world.connect()
            wire.send(good() * 10)
            assert [(await wire.reply()).status for _ in range(6)] == [200] * 5 + [400]
            assert await wire.ended()

    run(scenario())


def test_connection_close_ends_after_the_answer_and_serves_nothing_behind_it() -> None:
    async def scenario() -> None:
        async with running() as world:
            wire = await world.connect()
            wire.send(post(json_body(), "Connection: close") + good())
            reply = await wire.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await wire.ended()

    run(scenario())


def test_http_1_0_is_answered_and_closed() -> None:
    async def scenario() -> None:
        body = json_body()
        async with running() as world:
            wire = await world.connect()
            wire.send(b"POST /v2/models/net/infer HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert (await wire.reply()).status == 200
            assert await wire.ended()

    run(scenario())


def test_expect_100_continue_is_told_to_go_on() -> None:
    async def scenario() -> None:
        body = json_body()
        async with running() as world:
            wire = await world.connect()
            wire.send(HEAD.encode() + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
            assert (await wire.reply()).status == 100
            wire.send(body)
            assert (await wire.reply()).status == 200

    run(scenario())


def test_the_body_of_a_request_that_asks_for_an_upgrade_arrives_whole() -> None:
    async def scenario() -> None:
        data = bytes(300_000)
        body, head_length = binary_body([1, 75_000], data)
        request = post(body, "Connection: Upgrade", "Upgrade: h2c", head_length=head_length)
        async with running() as world:
            for cut in (len(request) - len(body), len(request) - 10, 200_000):
                wire = await world.connect()
                wire.send(request[:cut])
                await asyncio.sleep(0)
                wire.send(request[cut:])
                assert (await wire.reply()).body.endswith(data)
                assert await wire.ended()

    run(scenario())


def test_an_upgrade_is_ignored_and_ends_the_connection_after_the_answer() -> None:
    async def scenario() -> None:
        async with running() as world:
            for data in (
                post(json_body(), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
                b"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            ):
                wire = await world.connect()
                wire.send(data)
                assert (await wire.reply()).status == 200
                assert await wire.ended()

    run(scenario())


@pytest.mark.parametrize("half_closed", [True, False])
def test_a_client_that_hangs_up_cancels_its_request(half_closed: bool) -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.send(good())
            await until(lambda: len(hosts.pipes[0].items) == 1)
            if half_closed:
                wire.writer.write_eof()
            else:
                wire.close()
            await until(lambda: len(hosts.pipes[0].cancelled) == 1)
            assert len(world.server.hosts) == 0

    run(scenario())


@pytest.mark.parametrize("half_closed", [True, False])
def test_a_pipelining_client_that_hangs_up_cancels_all_its_requests(half_closed: bool) -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.send(good() * 3)
            await until(lambda: len(hosts.pipes[0].items) == 1)
            await asyncio.sleep(0.02)
            if half_closed:
                wire.writer.write_eof()
            else:
                wire.close()
            await until(lambda: len(hosts.pipes[0].cancelled) == 1)
            await asyncio.sleep(0.05)
            assert len(world.server.hosts) == 0
            assert len(hosts.pipes[0].items) == 1

    run(scenario())


def test_reading_ahead_of_a_running_request_is_bounded() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            sent = [post(json_body() + b" " * 30_000, f"x-request-id: r{i}") for i in range(40)]
            for request in sent:
                wire.send(request)
                await asyncio.sleep(0.001)
            (connection,) = world.server.front.connections
            assert isinstance(connection, HttpProtocol)
            await until(lambda: connection.flow.read_paused)
            assert len(connection.pipeline) < 30
            hosts.pipes[0].reply = echo
            hosts.pipes[0].answer([echo(hosts.pipes[0].items[0])])
            replies = [await wire.reply() for _ in sent]
            assert [reply.headers["x-request-id"] for reply in replies] == [f"r{i}" for i in range(40)]

    run(scenario())


def test_a_client_that_does_not_read_stops_being_read() -> None:
    async def scenario() -> None:
        data = bytes(400_000)
        body, head_length = binary_body([1, 100_000], data)
        hosts = FakeHosts()
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.reader._transport.pause_reading()  # type: ignore[attr-defined]
            wire.send(post(body, head_length=head_length) * 100)
            paused = lambda: any(  # noqa: E731
                isinstance(c, HttpProtocol) and c.flow.write_paused for c in world.server.front.connections
            )
            await until(paused)
            await still_serves(world)
            assert len(hosts.pipes[0].items) < 60
            wire.reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(100):
                assert (await wire.reply()).body.endswith(data)

    run(scenario())


def test_answers_that_nobody_reads_are_bounded_together_and_a_reader_is_not_hurt() -> None:
    async def scenario() -> None:
        data = bytes(8_000_000)
        body, head_length = binary_body([1, 2_000_000], data)
        request = post(body, head_length=head_length)
        async with running(bounds=HttpBounds(answers_bytes=20_000_000)) as world:
            unsent = world.server.front.unsent
            slow: list[socket.socket] = []
            for _ in range(6):
                client = socket.create_connection(("127.0.0.1", world.port))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await asyncio.to_thread(client.sendall, request)
                slow.append(client)
                reader = await world.connect()
                reader.send(request)
                assert (await reader.reply()).body.endswith(data)
                reader.close()
                # Whole answers: what the kernel took of one gives none of its memory back.
                assert unsent.nbytes >= 8_000_000
                assert unsent.nbytes <= 20_000_000
            await until(lambda: len(world.server.front.connections) <= 2)
            for client in slow:
                client.close()
            await until(lambda: unsent.nbytes == 0)

    run(scenario())


def test_too_many_connections_are_told_so() -> None:
    async def scenario() -> None:
        async with running(bounds=HttpBounds(connections=1)) as world:
            first = await world.connect()
            first.send(good())
            assert (await first.reply()).status == 200
            second = await world.connect()
            assert (await second.reply()).status == 503
            assert await second.ended()

    run(scenario())


def test_a_draining_server_refuses_finishes_and_closes() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            first, second, third = [await world.connect() for _ in range(3)]
            first.send(good())
            await until(lambda: len(hosts.pipes[0].items) == 1)
            draining = asyncio.ensure_future(world.server.drain(10))
            await asyncio.sleep(0)
            second.send(b"GET /v2/health/ready HTTP/1.1\r\nHost: t\r\n\r\n")
            assert (await second.reply()).status == 503
            third.send(post(json_body(id="mine")))
            reply = await third.reply()
            assert (reply.status, reply.json()["code"], reply.json()["id"]) == (503, "draining", "mine")
            assert (reply.headers["connection"], reply.headers["retry-after"]) == ("close", "1")
            assert await third.ended()
            hosts.pipes[0].answer([echo(hosts.pipes[0].items[0])])
            reply = await first.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await first.ended()
            await asyncio.wait_for(draining, 0.3)

    run(scenario())


def test_a_draining_server_answers_what_comes_on_kept_connections_for_a_short_while() -> None:
    async def scenario() -> None:
        async with running() as world:
            busy, asking, idle = [await world.connect() for _ in range(3)]
            for wire in (busy, asking, idle):
                wire.send(good())
                assert (await wire.reply()).status == 200
            began = asyncio.get_running_loop().time()
            draining = asyncio.ensure_future(world.server.drain(10))
            await asyncio.sleep(0.1)
            busy.send(good())
            reply = await busy.reply()
            assert (reply.status, reply.json()["code"], reply.headers["connection"]) == (503, "draining", "close")
            asking.send(b"GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n")
            reply = await asking.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert await busy.ended()
            assert await asking.ended()
            assert not draining.done()
            await draining
            assert 0.4 < asyncio.get_running_loop().time() - began < 1

    run(scenario())


def test_a_drain_with_nothing_connected_is_over_at_once() -> None:
    async def scenario() -> None:
        async with running() as world:
            await asyncio.wait_for(world.server.drain(10), 0.2)

    run(scenario())


def test_a_drain_serves_what_was_pipelined_before_it_closes() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(hosts=hosts) as world:
            wire = await world.connect()
            wire.send(good() * 2)
            await until(lambda: len(hosts.pipes[0].items) == 1)
            draining = asyncio.ensure_future(world.server.drain(10))
            await asyncio.sleep(0)
            hosts.pipes[0].answer([echo(hosts.pipes[0].items[0])])
            first, second = await wire.reply(), await wire.reply()
            assert (first.status, second.status, second.headers["connection"]) == (200, 503, "close")
            await draining

    run(scenario())


def test_a_reply_is_one_segment() -> None:
    """Head and body in two writes cost 40 ms a call where the peer delays its acknowledgements."""

    async def scenario() -> None:
        writes: list[bytes] = []
        async with running() as world:
            wire = await world.connect()
            wire.send(good())
            await wire.reply()
            (connection,) = world.server.front.connections
            assert isinstance(connection, HttpProtocol)
            write = connection.transport.write
            connection.transport = Recording(connection.transport, writes)  # type: ignore[assignment]
            assert write is not None
            wire.send(good())
            await wire.reply()
            assert len(writes) == 1
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    run(scenario())


class Recording:
    """A transport that notes each write."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def test_every_kind_of_answer_echoes_the_request_id() -> None:
    async def scenario() -> None:
        def reply(item: InferItem) -> Result | Failure:
            return Failure(item.counter, item.attempt, "model_error", "boom")

        async with running(hosts=FakeHosts(reply)) as world:
            wire = await world.connect()
            for data in (post(json_body(), "x-request-id: abc-1"), post(b"no", "x-request-id: abc-1")):
                wire.send(data)
                answer = await wire.reply()
                assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc-1"
            for bad in ("a b", "ü", "a" * 129):
                wire.send(post(json_body(), f"x-request-id: {bad}"))
                answer = await wire.reply()
                assert (answer.status, answer.json()["code"]) == (400, "invalid_parameter")
                assert answer.json()["request_id"] == answer.headers["x-request-id"] != bad

    run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
