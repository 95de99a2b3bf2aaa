"""Health, metadata and the other routes over HTTP, and the table of bad input: status, body, nobody disturbed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from paceline.api_server.app import App
from paceline.api_server.model_path import ModelPath, parse_model_path
from paceline.protocol import dtypes
from paceline.protocol.catalog import Catalog
from paceline.protocol.control import FailedRunner
from paceline.protocol.errors import ERRORS_BY_CODE
from paceline.protocol.messages import Failure, InferItem, Result
from paceline.protocol.signature import InputSpec, MethodSpec
from tests.api_server.world import (
    HOST,
    OPEN,
    TYPED,
    FakeHosts,
    Reply,
    Running,
    binary_body,
    good,
    json_body,
    post,
    run,
    runner,
    running,
    serve,
    topology,
    up,
)

EMBED = MethodSpec("embed", inputs=(InputSpec("ids", dtypes.I64, (-1, -1)),), open_inputs=False)
SPEC = serve(runner("net", aliases=("prod",)), runner("typed", TYPED, EMBED), rows_max=100)


async def call(world: Running, data: bytes, has_body: bool = True) -> Reply:
    wire = await world.connect()
    wire.send(data)
    reply = await wire.reply(has_body)
    wire.close()
    return reply


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def answers(*requests: bytes) -> list[Reply]:
    async def scenario() -> list[Reply]:
        async with running(SPEC) as world:
            return [await call(world, request) for request in requests]

    return run(scenario())


def test_live_ready_and_the_models_are_ready_while_hosts_are_up() -> None:
    paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/net/ready", "/v2/models/typed/versions/3/ready"]
    replies = answers(*[get(path) for path in paths])
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"")] * 4


def test_readiness_says_the_truth_about_each_runner() -> None:
    async def scenario() -> None:
        async with running(SPEC) as world:
            paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/net/ready", "/v2/models/typed/ready"]
            world.server.hosts.apply(topology(2, up(HOST, "net"), failed=(FailedRunner("typed", "it crashed"),)))
            assert [(await call(world, get(path))).status for path in paths] == [200, 503, 200, 503]
            world.server.hosts.apply(topology(3, draining=True))
            assert [(await call(world, get(path))).status for path in paths] == [200, 503, 503, 503]

    run(scenario())


def test_server_metadata_names_itself_and_its_extensions() -> None:
    (reply,) = answers(get("/v2"))
    assert reply.json()["name"] == "paceline"
    assert "binary_tensor_data" in reply.json()["extensions"]


def test_metadata_of_open_inputs_says_that_they_are_unspecified() -> None:
    (reply,) = answers(get("/v2/models/net/versions/prod"))
    described = reply.json()
    assert (described["name"], described["versions"], described["platform"]) == ("net", ["3"], "pytorch")
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert described["outputs"] == [{"name": "output_0", "datatype": "FP32", "shape": [-1]}]
    assert described["parameters"]["unspecified"] is True


def test_metadata_of_declared_inputs_has_them_and_every_method() -> None:
    (reply,) = answers(get("/v2/models/typed?x=1"))
    described = reply.json()
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert set(described["parameters"]["methods"]) == {"__call__", "embed"}


@pytest.mark.parametrize("path", ["/v2", "/v2/health/ready", "/v2/models/net", "/metrics"])
def test_head_has_the_headers_and_no_body(path: str) -> None:
    async def scenario() -> None:
        async with running(SPEC) as world:
            wire = await world.connect()
            wire.send(get(path, "HEAD") + get(path))
            head, whole = await wire.reply(has_body=False), await wire.reply()
            assert head.status == whole.status == 200
            assert head.headers["content-length"] == whole.headers["content-length"]

    run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v2/models/net/infer", "POST"),
        ("DELETE", "/v2/models/net/infer", "POST"),
        ("POST", "/v2", "GET, HEAD"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("PUT", "/v2/models/net", "GET, HEAD"),
        ("POST", "/v2/models/net/ready", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_405_with_the_allowed_ones(method: str, path: str, allow: str) -> None:
    (reply,) = answers(get(path, method))
    assert (reply.status, reply.headers["allow"]) == (405, allow)
    assert reply.json()["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/models", "/v2/models/net/explode", "/v2/models/net/versions", "/v2/models/net/infer/x"]
)
def test_an_unknown_path_is_404(path: str) -> None:
    (reply,) = answers(get(path))
    assert (reply.status, reply.json()["code"]) == (404, "path_not_found")


def test_metrics_count_requests_and_errors() -> None:
    async def scenario() -> None:
        async with running(SPEC) as world:
            await call(world, good())
            await call(world, post(b"{"))
            text = (await call(world, get("/metrics"))).body.decode()
            assert "paceline_requests_answered_total 1\n" in text
            assert 'paceline_errors_total{code="invalid_input"} 1\n' in text

    run(scenario())


def test_names_in_paths_are_decoded_once() -> None:
    assert parse_model_path("/v2/models/a%20b/versions/1%2E0/infer") == ModelPath("a b", "1.0", "infer")
    assert parse_model_path("/v2/models/a%252Fb") == ModelPath("a%2Fb", None, "")
    assert parse_model_path("/v2/models//infer") is None
    assert parse_model_path("/v2/models/a/versions//infer") is None


def _big_rows() -> tuple[bytes, int]:
    return binary_body([101, 1], bytes(404))


# name -> (request, status, code, words)
BAD: dict[str, tuple[bytes, int, str, str]] = {
    "unknown model": (post(json_body(), model="nett"), 404, "model_not_found", 'Did you mean "net"'),
    "unknown version": (post(json_body(), model="net/versions/9"), 404, "version_not_found", "Served: 3"),
    "wrong dtype": (
        post(
            json_body(inputs=[{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [1, 2, 3, 4]}]), model="typed"
        ),
        400,
        "invalid_input",
        "expected FP32",
    ),
    "wrong rank": (
        post(json_body(inputs=[{"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}]), model="typed"),
        400,
        "invalid_input",
        "expected rank 2",
    ),
    "wrong number of inputs": (post(json_body(inputs=[])), 400, "invalid_input", "missing: x"),
    "product unlike bytes": (
        post(binary_body([1, 5], bytes(16))[0], head_length=binary_body([1, 5], bytes(16))[1]),
        400,
        "invalid_input",
        "needs 20 bytes, binary_data_size is 16",
    ),
    "truncated body": (
        post(binary_body([1, 4], bytes(16))[0][:-1], head_length=binary_body([1, 4], bytes(16))[1]),
        400,
        "invalid_input",
        "truncated",
    ),
    "not JSON": (post(b"pickle"), 400, "invalid_input", "not JSON"),
    "NaN": (
        post(b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[NaN]}]}'),
        400,
        "invalid_input",
        "NaN",
    ),
    "too many rows": (post(_big_rows()[0], head_length=_big_rows()[1]), 413, "too_large", "limit of 100 rows"),
    "timeout 0": (post(json_body(parameters={"timeout": 0})), 400, "invalid_parameter", "timeout is 0"),
    "timeout header 0": (post(json_body(), "x-request-timeout-ms: 0"), 400, "invalid_parameter", "timeout-ms is '0'"),
    "timeout header negative": (post(json_body(), "x-request-timeout-ms: -5"), 400, "invalid_parameter", "'-5'"),
    "timeout header text": (post(json_body(), "x-request-timeout-ms: soon"), 400, "invalid_parameter", "'soon'"),
    "timeout header nan": (post(json_body(), "x-request-timeout-ms: nan"), 400, "invalid_parameter", "'nan'"),
    "compressed": (post(json_body(), "Content-Encoding: gzip"), 400, "invalid_input", "send identity"),
    "unknown method": (post(json_body(parameters={"method": "f"})), 400, "invalid_parameter", "Expected one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_status_and_disturbs_nobody(name: str) -> None:
    async def scenario() -> None:
        request, status, code, words = BAD[name]
        async with running(SPEC) as world:
            wire = await world.connect()
            wire.send(request)
            reply = await wire.reply()
            assert (reply.status, reply.json()["code"]) == (status, code)
            assert words in reply.json()["error"]
            assert set(reply.json()) == {"error", "code", "request_id"}
            assert reply.headers["content-type"] == "application/json"
            wire.send(good())
            assert (await wire.reply()).status == 200
            assert (await call(world, good())).status == 200
            assert len(world.server.hosts) == 0

    run(scenario())


# A host that drains is no reason to fail: its requests wait for another one.
@pytest.mark.parametrize("code", [code for code in ERRORS_BY_CODE if code != "draining"])
def test_every_error_of_a_host_has_the_status_of_the_table(code: str) -> None:
    def fail(item: InferItem) -> Result | Failure:
        return Failure(item.counter, item.attempt, code, "because", 2.5)

    async def scenario() -> None:
        async with running(SPEC, FakeHosts(fail)) as world:
            reply = await call(world, post(json_body(id="mine")))
            assert reply.status == ERRORS_BY_CODE[code].http_status
            body = reply.json()
            assert (body["code"], body["error"], body["id"]) == (code, "because", "mine")
            assert reply.headers["retry-after"] == "3"

    run(scenario())


def test_the_oip_id_and_the_batch_come_back() -> None:
    (reply,) = answers(post(json_body(id="7")))
    assert reply.json()["id"] == "7"
    assert reply.json()["parameters"] == {"batch_rows": 1}


def budget_ms(*headers: str, spec: Any = None, **request: Any) -> float:
    """The deadline that one request got, from its arrival."""

    async def scenario() -> float:
        hosts = FakeHosts()
        async with running(spec or SPEC, hosts) as world:
            assert (await call(world, post(json_body(**request), *headers))).status == 200
            (item,) = [item for pipe in hosts.pipes for item in pipe.items]
            return (item.deadline_ns - item.arrival_ns) / 1e6

    return run(scenario())


def test_the_deadline_is_the_smallest_that_was_asked_for_capped() -> None:
    assert budget_ms() == 30_000
    assert budget_ms("x-request-timeout-ms: 250.5") == 250.5
    assert budget_ms(parameters={"timeout": 40_000}) == 40
    assert budget_ms("x-request-timeout-ms: 20", parameters={"timeout": 40_000}) == 20
    assert budget_ms("x-request-timeout-ms: 60", parameters={"timeout": 40_000}) == 40
    assert budget_ms("x-request-timeout-ms: 9e9") == 600_000
    own = MethodSpec("__call__", inputs=(InputSpec("x"),), open_inputs=False, latency_budget_ms=125.0)
    assert budget_ms(spec=serve(runner("net", own))) == 125
    assert budget_ms(spec=serve(runner("net", OPEN, latency_budget_ms=75.0))) == 75


def test_a_deadline_that_passes_is_504_with_the_connection_kept() -> None:
    async def scenario() -> None:
        hosts = FakeHosts(reply=None)
        async with running(SPEC, hosts) as world:
            wire = await world.connect()
            wire.send(post(json_body(), "x-request-timeout-ms: 30"))
            reply = await wire.reply()
            assert (reply.status, reply.json()["code"]) == (504, "deadline_exceeded")
            wire.send(get("/v2/health/live"))
            assert (await wire.reply()).status == 200

    run(scenario())


def test_the_infer_route_is_a_plain_asgi_callable_too() -> None:
    async def scenario() -> None:
        async with running(SPEC) as world:
            app = world.server._app
            assert isinstance(app, App)
            status, body = await asgi(app, "/v2/models/net/infer", json_body(id="a"))
            assert (status, json.loads(body)["id"]) == (200, "a")
            status, body = await asgi(app, "/v2/models/net/infer", b" " * (SPEC.http.body_bytes_max + 1))
            assert (status, json.loads(body)["code"]) == (413, "too_large")

    run(scenario())


async def asgi(app: App, path: str, body: bytes) -> tuple[int, bytes]:
    sent: list[Any] = []
    received = [{"type": "http.request", "body": body[i : i + 1_000_000], "more_body": True} for i in (0,)]
    received.append({"type": "http.request", "body": body[1_000_000:], "more_body": False})

    async def receive() -> Any:
        if received:
            return received.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "raw_path": path.encode(), "headers": []}
    await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


def test_models_are_found_by_any_name_of_their_version() -> None:
    catalog = Catalog(SPEC)
    assert {catalog.find("net", version).spec.version for version in (None, "3", "latest", "prod")} == {"3"}
