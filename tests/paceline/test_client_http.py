"""Client and AsyncClient over HTTP against a scripted server: the same promises for both."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import orjson
import pytest

from paceline.client import AsyncClient, Client, Prediction, ServerUnreachable
from paceline.protocol.errors import (
    ConfigError,
    DeadlineExceeded,
    Draining,
    Internal,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    NoWorker,
    ProtocolError,
    QueueFull,
)
from tests.paceline.async_face import OneByOne
from tests.paceline.fake_http import (
    HANG_UP,
    SILENCE,
    FakeServer,
    Request,
    binary_output,
    binary_reply,
    echo,
    error,
    infer_parts,
    reply,
)

IMAGE = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(params=[Client, OneByOne], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type[Client]:
    made: type[Client] = request.param
    return made


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(echo) as server:
        yield server


def test_one_output_is_the_array_itself_and_writable(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        result = client.predict("echo", IMAGE)
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, IMAGE)
    assert result.dtype == np.float32
    result += 1


def test_several_outputs_are_a_dict_by_name_in_order(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        result = client.predict("echo", IMAGE, y=np.array([3], np.int64))
    assert isinstance(result, dict)
    assert list(result) == ["output_0", "output_1"]
    np.testing.assert_array_equal(result["output_1"], [3])


def test_named_predictions_are_a_dict_also_for_one_output(server: FakeServer) -> None:
    async def run() -> dict[str, np.ndarray]:
        async with AsyncClient(server.url) as client:
            return await client.predict_named("echo", IMAGE)

    with Client(server.url) as client:
        assert list(client.predict_named("echo", IMAGE)) == list(asyncio.run(run())) == ["output_0"]


def test_inputs_of_unknown_dtype_are_not_taken_for_declared(kind: type[Client], server: FakeServer) -> None:
    open_input = {"name": "x", "datatype": "FP32", "shape": [-1]}
    second = {"name": "ids", "datatype": "INT32", "shape": [-1, 8]}
    described = {
        "inputs": [open_input],
        "parameters": {
            "unspecified": True,
            "methods": {"embed": {"inputs": [open_input, second], "unspecified": True}},
        },
    }
    server.script = lambda request: echo(request) if request.method == "POST" else reply(200, orjson.dumps(described))
    with kind(server.url) as client:
        assert np.asarray(client.predict("echo", [1, 2])).dtype == np.int64
        result = client.predict("echo", [1, 2], [3, 4], method="embed")
        assert isinstance(result, dict)
        assert [array.dtype for array in result.values()] == [np.int64, np.int32]
    named = [given["name"] for given in infer_parts(server.requests[-1])[0]["inputs"]]  # type: ignore[attr-defined]
    assert named == ["x", "ids"]


def test_a_request_is_the_binary_extension_with_names_from_the_metadata(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url + "/prefix", headers={"authorization": "Bearer k"}) as client:
        client.predict("echo", IMAGE, method="classify", version=3, priority=-1, request_id="r-1", timeout_s=2.5)
    asked, infer = server.requests
    assert asked.target == "/prefix/v2/models/echo/versions/3"
    assert (infer.method, infer.target) == ("POST", "/prefix/v2/models/echo/versions/3/infer")
    head, data = infer_parts(infer)
    assert head["inputs"] == [
        {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}},
    ]
    assert head["parameters"] == {"binary_data_output": True, "method": "classify", "priority": -1}
    assert head["id"] == infer.headers["x-request-id"] == "r-1"
    assert data == IMAGE.tobytes()
    assert 2000 < int(infer.headers["x-request-timeout-ms"]) <= 2500
    assert infer.headers["authorization"] == "Bearer k"
    assert infer.headers["host"] == f"127.0.0.1:{server.port}"


def test_without_a_time_out_the_models_budget_is_the_deadline(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
    with kind(server.url, timeout_s=5) as client:
        client.predict("echo", x=IMAGE)
    first, second = server.requests
    assert "x-request-timeout-ms" not in first.headers
    assert 4000 < int(second.headers["x-request-timeout-ms"]) <= 5000


def test_metadata_is_asked_once_and_not_at_all_for_named_arrays(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
        assert len(server.requests) == 1
        client.predict("echo", IMAGE)
        client.predict("echo", IMAGE)
    assert [request.method for request in server.requests] == ["POST", "GET", "POST", "POST"]


def test_plain_numbers_take_the_declared_dtype_and_strings_go_as_bytes(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        numbers = client.predict("echo", [[1, 2], [3, 4]], [5, 6])
        strings = client.predict("echo", ["ä", "", b"\xff\0"])
    assert isinstance(numbers, dict)
    assert [array.dtype for array in numbers.values()] == [np.float32, np.int64]
    assert isinstance(strings, np.ndarray)
    assert strings.tolist() == ["ä".encode(), b"", b"\xff\0"]


def test_large_arrays_travel_whole_both_ways(kind: type[Client], server: FakeServer) -> None:
    large = np.random.default_rng(1).integers(0, 255, 3_000_000, np.uint8)
    with kind(server.url) as client:
        result = client.predict("echo", large)
    assert isinstance(result, np.ndarray)
    assert np.array_equal(result, large)


@pytest.mark.parametrize("array", [np.float32(1.5), np.zeros((0, 3), np.int8), np.ones((2, 2), ">f8"), IMAGE.T])
def test_zero_dims_empty_foreign_byte_order_and_strides_arrive(
    kind: type[Client], server: FakeServer, array: np.ndarray
) -> None:
    with kind(server.url) as client:
        result = client.predict("echo", x=array)
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, array)
    assert result.shape == np.shape(array)


def test_json_outputs_are_read_too(kind: type[Client], server: FakeServer) -> None:
    outputs = [
        {"name": "a", "datatype": "INT32", "shape": [2, 1], "data": [1, 2]},
        {"name": "b", "datatype": "BYTES", "shape": [1], "data": ["cat"]},
    ]
    server.script = lambda request: reply(200, orjson.dumps({"outputs": outputs}))
    with kind(server.url) as client:
        result = client.predict("echo", x=IMAGE)
    assert isinstance(result, dict)
    assert result["a"].tolist() == [[1], [2]]
    assert result["a"].dtype == np.int32
    assert result["b"].tolist() == [b"cat"]


def test_a_keep_alive_connection_carries_many_requests(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        for _ in range(5):
            client.predict("echo", IMAGE)
    assert server.connections == 1


def test_a_connection_that_the_server_closes_is_not_kept(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: echo(request).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
        client.predict("echo", x=IMAGE)
    assert server.connections == 2


def test_a_stale_connection_is_replaced_without_the_caller_noticing(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
        server.drop_connections()
        client.predict("echo", x=IMAGE)
    assert server.connections == 2


def test_a_connection_lost_under_its_second_request_is_tried_again_on_a_fresh_one(
    kind: type[Client], server: FakeServer
) -> None:
    def hang_up_once(request: Request) -> bytes:
        return HANG_UP if request.connection == 0 and len(server.requests) == 2 else echo(request)

    server.script = hang_up_once
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
        client.predict("echo", x=IMAGE)
    assert [request.connection for request in server.requests] == [0, 0, 1]


def test_a_server_that_dies_under_a_request_is_not_called_absent(kind: type[Client]) -> None:
    with FakeServer(echo) as server, kind(server.url) as client:
        client.predict("echo", x=IMAGE)

        def die(request: Request) -> bytes:
            server.stop_listening()
            return HANG_UP

        server.script = die
        with pytest.raises(ServerUnreachable, match=r"was lost .* nobody answers there now; whether the request ran"):
            client.predict("echo", x=IMAGE)


def test_a_fresh_connection_that_breaks_is_an_error_and_not_tried_again(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: HANG_UP
    with kind(server.url) as client, pytest.raises(ServerUnreachable, match="before its answer was complete"):
        client.predict("echo", x=IMAGE)
    assert len(server.requests) == 1


def test_a_half_answer_is_an_error_and_not_tried_again(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        client.predict("echo", x=IMAGE)
        server.script = lambda request: b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc" + HANG_UP
        with pytest.raises(ServerUnreachable, match="whether the request ran is unknown"):
            client.predict("echo", x=IMAGE)
    assert len(server.requests) == 2


def test_no_server_is_a_clear_error_that_is_also_a_connection_error(kind: type[Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with kind(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ServerUnreachable, match=f"no server at 127.0.0.1:{port} .*refused"):
            client.predict("echo", x=IMAGE)
        with pytest.raises(ConnectionError):
            client.metadata("echo")
        assert client.ready() is False


def test_a_server_that_starts_late_is_reached(kind: type[Client]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start_late() -> None:
        with socket.create_server(("127.0.0.1", port)) as listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(reply(200))

    starter = threading.Timer(0.02, start_late)
    starter.start()
    with kind(f"http://127.0.0.1:{port}") as client:
        assert client.ready()
    starter.join()


@pytest.mark.parametrize(
    ("status", "code", "kind_of_error"),
    [
        (400, "invalid_input", InvalidInput),
        (404, "model_not_found", ModelNotFound),
        (429, "queue_full", QueueFull),
        (503, "draining", Draining),
        (504, "deadline_exceeded", DeadlineExceeded),
        (500, "from_the_future", Internal),
    ],
)
def test_errors_are_typed_by_the_code_in_the_body(
    kind: type[Client], server: FakeServer, status: int, code: str, kind_of_error: type[Exception]
) -> None:
    server.script = lambda request: error(status, code, "because", "Retry-After: 7\r\n")
    with kind(server.url) as client, pytest.raises(kind_of_error, match="because") as caught:
        client.predict("echo", x=IMAGE)
    assert getattr(caught.value, "retry_after_s") == 7.0  # noqa: B009  # the type is a parameter
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind_of_error"),
    [
        (503, b"<html>proxy says no</html>", NoWorker),
        (404, b'{"error": "no such model"}', ModelNotFound),
        (500, b"", Internal),
        (302, b"", Internal),
    ],
)
def test_errors_without_a_code_are_typed_by_their_status(
    kind: type[Client], server: FakeServer, status: int, body: bytes, kind_of_error: type[Exception]
) -> None:
    server.script = lambda request: reply(status, body)
    with kind(server.url) as client, pytest.raises(kind_of_error) as caught:
        client.predict("echo", x=IMAGE)
    assert "<" not in str(caught.value)


def test_a_silent_server_is_given_up_at_the_time_out(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: SILENCE
    with kind(server.url) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.predict("echo", x=IMAGE, timeout_s=0.1)
        assert 0.1 <= time.monotonic() - started < 1.0
        server.script = echo
        client.predict("echo", x=IMAGE)
    assert server.connections == 2


def test_the_servers_own_504_keeps_the_connection(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: error(504, "deadline_exceeded", "too late")
    with kind(server.url) as client:
        for _ in range(2):
            with pytest.raises(DeadlineExceeded, match="too late"):
                client.predict("echo", x=IMAGE)
    assert server.connections == 1


def test_refusals_are_retried_as_often_as_asked_after_the_time_the_server_names(
    kind: type[Client], server: FakeServer
) -> None:
    answers = iter([error(429, "queue_full", "full", "retry-after: 0\r\n"), error(503, "draining", "drains")])
    server.script = lambda request: next(answers, None) or echo(request)
    with kind(server.url, retries=2) as client:
        started = time.monotonic()
        client.predict("echo", x=IMAGE)
    assert time.monotonic() - started >= 0.2  # the second refusal named no time: the client's own, growing pause
    assert len(server.requests) == 3


def test_retries_end_at_their_number_and_at_the_deadline(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: error(503, "draining", "drains", "retry-after: 0\r\n")
    with kind(server.url, retries=2) as client, pytest.raises(Draining):
        client.predict("echo", x=IMAGE)
    assert len(server.requests) == 3
    server.script = lambda request: error(503, "draining", "drains", "retry-after: 60\r\n")
    with kind(server.url, retries=2) as client, pytest.raises(Draining):
        client.predict("echo", x=IMAGE)
    assert len(server.requests) == 4


def test_errors_that_no_retry_helps_are_not_retried(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: error(400, "invalid_input", "bad")
    with kind(server.url, retries=5) as client, pytest.raises(InvalidInput):
        client.predict("echo", x=IMAGE)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n",
        reply(200, b"not json"),
        reply(200, b"[]"),
        reply(200, b"{}"),
        reply(200, b"{}", "inference-header-content-length: 9\r\n"),
        reply(200, b'{"outputs": [1]}'),
        reply(200, b'{"outputs": [{"name": "a", "datatype": "FP64", "shape": [1]}]}'),
        binary_reply([{**binary_output("a", np.zeros(2)), "shape": [3]}], bytes(16)),
        binary_reply([binary_output("a", np.zeros(3))], bytes(16)),
        binary_reply([{**binary_output("a", np.zeros(2)), "datatype": "BYTES"}], b"\xff" * 16),
    ],
)
def test_an_answer_that_is_none_is_a_protocol_error(kind: type[Client], server: FakeServer, answer: bytes) -> None:
    server.script = lambda request: answer
    with kind(server.url) as client, pytest.raises(ProtocolError):
        client.predict("echo", x=IMAGE)


def test_chunked_and_closed_bodies_and_interim_responses_are_read(kind: type[Client], server: FakeServer) -> None:
    body = b'{"outputs": [{"name": "a", "datatype": "INT8", "shape": [1], "data": [4]}]}'
    chunks = b"%x;ext=1\r\n%s\r\n%x\r\n%s\r\n0\r\ntrailer: x\r\n\r\n" % (10, body[:10], len(body) - 10, body[10:])
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    server.script = lambda request: whole
    with kind(server.url) as client:
        assert client.predict("echo", x=IMAGE) == np.int8(4)
        assert client.predict("echo", x=IMAGE) == np.int8(4)
        assert server.connections == 1
        server.script = lambda request: b"HTTP/1.0 200 OK\r\n\r\n" + body + HANG_UP
        assert client.predict("echo", x=IMAGE) == np.int8(4)


def test_metadata_and_readiness(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        assert client.metadata("echo")["versions"] == ["1"]
        assert client.ready()
        assert client.ready("a b/c")
        server.script = lambda request: reply(503)
        assert not client.ready()
        with pytest.raises(NoWorker):
            client.metadata("echo")
    assert server.requests[2].target == "/v2/models/a%20b%2Fc/ready"


def test_a_model_may_be_named_with_its_version(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client:
        client.predict("echo:2", x=IMAGE)
        client.predict("echo@prod", x=IMAGE)
        client.predict("echo:2", x=IMAGE, version=2)
        client.metadata("echo:latest")
        assert client.ready("echo:2")
        for model, options in (("echo:", {}), (":2", {}), ("echo:2", {"version": 3})):
            with pytest.raises(InvalidParameter, match=r"name:version|give one of them"):
                client.predict(model, x=IMAGE, **options)  # type: ignore[arg-type]
    targets = [request.target.removeprefix("/v2/models/echo/versions/") for request in server.requests]
    assert targets == ["2/infer", "prod/infer", "2/infer", "latest", "2/ready"]


def test_options_under_other_names_are_told_theirs(kind: type[Client], server: FakeServer) -> None:
    server.script = lambda request: (
        echo(request) if request.method == "GET" else error(400, "invalid_parameter", "input 'timeout' is unknown.")
    )
    with (
        kind(server.url) as client,
        pytest.raises(InvalidParameter, match=r"unknown\. timeout is no input; .*_s="),
    ):
        client.predict("echo", IMAGE, timeout=5)


def test_a_dict_in_place_of_named_inputs_is_told_how_to_pass_it(kind: type[Client], server: FakeServer) -> None:
    with kind(server.url) as client, pytest.raises(InvalidInput, match=r"\*\*inputs"):
        client.predict("echo", {"x": IMAGE})


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/"])
def test_a_url_may_end_in_v2(kind: type[Client], server: FakeServer, path: str) -> None:
    with kind(server.url + path) as client:
        assert client.ready()
    assert server.requests[0].target == "/v2/health/ready"


@pytest.mark.parametrize(
    ("options", "named", "expected"),
    [
        ({"timeout_s": 0}, {}, "timeout_s is 0"),
        ({"timeout_s": float("nan")}, {}, "timeout_s is nan"),
        ({"priority": 1.5}, {}, "priority is 1.5"),
        ({"request_id": "a b"}, {}, "request_id is 'a b'"),
        ({}, {"x": IMAGE}, "given twice"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(
    kind: type[Client], server: FakeServer, options: dict[str, object], named: dict[str, object], expected: str
) -> None:
    with kind(server.url) as client, pytest.raises(InvalidParameter, match=expected):
        client.predict("echo", IMAGE, **options, **named)  # type: ignore[arg-type]
    assert all(request.method == "GET" for request in server.requests)


@pytest.mark.parametrize("value", [None, {"a": 1}, [[1], [2, 3]], [1, "a", None], np.array([object()]), [1.5]])
def test_values_that_are_no_arrays_are_refused_by_name(kind: type[Client], server: FakeServer, value: object) -> None:
    with kind(server.url) as client, pytest.raises(InvalidInput, match="input 'y'"):
        client.predict("echo", y=value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8000", "expected"),
        ("ftp://x", "expected"),
        ("http://", "expected"),
        ("http://x:99999", "expected"),
        ("http://a b", "expected"),
        ("http://user:pw@x", "headers="),
        ("ipc://", "expected"),
        ("tcp://10.0.0.1:7000", "CURVE keys"),
        ("tcp://10.0.0.1", "expected"),
    ],
)
def test_a_wrong_url_says_what_is_possible(kind: type[Client], url: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        kind(url)


def test_headers_that_would_smuggle_are_refused_without_showing_them(kind: type[Client]) -> None:
    with pytest.raises(ConfigError) as caught:
        kind("http://x", headers={"authorization": "secret\r\nevil: 1"})
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_https_checks_the_certificate_that_the_caller_trusts(kind: type[Client], tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run(
        ["openssl", *words.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FakeServer(echo, tls=context) as server:
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        with kind(url, ssl_context=ssl.create_default_context(cafile=certificate)) as client:
            for _ in range(2):
                np.testing.assert_array_equal(np.asarray(client.predict("echo", x=IMAGE)), IMAGE)
        assert server.connections == 1
        with kind(url) as client, pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            client.predict("echo", x=IMAGE)


def test_many_threads_share_one_client(server: FakeServer) -> None:
    arrays = [np.full((4,), number, np.float32) for number in range(200)]
    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda array: client.predict("echo", array), arrays))
    for array, result in zip(arrays, results):
        np.testing.assert_array_equal(result, array)
    assert server.connections <= 8


def test_many_tasks_share_one_async_client(server: FakeServer) -> None:
    async def run() -> list[Prediction]:
        async with AsyncClient(server.url) as client:
            return await asyncio.gather(*[client.predict("echo", [float(number)]) for number in range(50)])

    assert [float(np.asarray(result)[0]) for result in asyncio.run(run())] == list(range(50))


def test_a_cancelled_task_closes_its_connection_and_leaves_the_client_sound(server: FakeServer) -> None:
    async def run() -> Prediction:
        async with AsyncClient(server.url) as client:
            server.script = lambda request: SILENCE
            task = asyncio.create_task(client.predict("echo", x=IMAGE))
            while not server.requests:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.script = echo
            return await client.predict("echo", x=IMAGE)

    np.testing.assert_array_equal(asyncio.run(run()), IMAGE)
    assert server.connections == 2


def test_one_async_client_serves_loops_one_after_the_other(server: FakeServer) -> None:
    client = AsyncClient(server.url)
    for _ in range(2):
        np.testing.assert_array_equal(asyncio.run(client.predict("echo", x=IMAGE)), IMAGE)
    asyncio.run(client.close())
