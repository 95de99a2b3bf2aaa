"""Client and AsyncClient on ipc:// against a fake server that speaks the real protocol: the same promises for both."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from paceline.client import AsyncClient, Client, Prediction, ServerUnreachable, native_link
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import (
    DeadlineExceeded,
    Draining,
    InfeasibleNow,
    InvalidInput,
    InvalidParameter,
    ModelNotFound,
    NoWorker,
    ProtocolError,
    QueueFull,
    RequestError,
    TooLarge,
    VersionNotFound,
    WorkerLost,
)
from paceline.protocol.forecast import Forecast, KeyTable
from paceline.protocol.messages import InferItem, Result, encode
from tests.paceline.async_face import OneByOne
from tests.paceline.fake_native import FakeNative, Reply, echo, failure, result, serve_spec

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


def silent(item: InferItem) -> Reply:
    return None


@pytest.fixture(params=[Client, OneByOne], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> type[Client]:
    made: type[Client] = request.param
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeNative]:
    with FakeNative(tmp_path) as server:
        yield server


def test_one_output_is_the_array_itself_and_writable(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        array = client.predict("echo", ROWS)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ROWS)
    array += 1


def test_several_outputs_are_a_dict_by_name(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        by_position = client.predict("echo", ROWS, np.array([[1], [2]]))
        by_name = client.predict("echo", x=ROWS, y=np.zeros((2, 1), bool))
    assert isinstance(by_position, dict)
    assert isinstance(by_name, dict)
    assert list(by_position) == ["output_0", "output_1"]
    assert list(by_name) == ["x_out", "y_out"]


def test_results_of_any_shape_of_tree_are_named_as_over_http(kind: type[Client], server: FakeNative) -> None:
    server.script = lambda item: result(item, {"a": [item.call()[0][0], None, 7], "b": "text", "c": 0.5})
    with kind(server.url) as client:
        outputs = client.predict("echo", ROWS)
    assert isinstance(outputs, dict)
    assert list(outputs) == ["a.0", "a.2", "b", "c"]
    assert [outputs[name].tolist() for name in ("a.2", "b", "c")] == [[7], [b"text"], [0.5]]


def test_large_arrays_travel_as_frames_both_ways(kind: type[Client], server: FakeNative) -> None:
    large = np.random.default_rng(1).random((1000, 1000), np.float32)
    with kind(server.url) as client:
        array = client.predict("echo", large)
    assert np.array_equal(np.asarray(array), large)
    assert server.hosts[0].requests[0].frames


def test_a_request_carries_what_the_host_needs(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        client.predict("echo", ROWS, version=3, priority=-2, request_id="r-1", timeout_s=2.0)
        client.predict("echo", ROWS, version="prod")
        client.predict("echo", ROWS, method="typed", version="latest")
    first, second, third = server.hosts[0].requests
    assert (first.method, first.rows, first.priority, first.request_id) == ("__call__", 2, -2, "r-1")
    assert 1.9e9 < first.deadline_ns - first.arrival_ns <= 2e9
    assert first.key == second.key != third.key
    assert len({item.counter for item in server.hosts[0].requests}) == 3
    assert set(server.hosts[0].origins) == {server.hellos[0].incarnation}
    assert server.hellos[0].kind == "client"


def test_a_request_says_what_length_it_needs(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        client.predict("echo", ROWS, method="padded")
        client.predict("echo", np.zeros((1, 9), np.float32), method="padded", y=np.zeros((1, 4), np.int64))
        client.predict("echo", np.zeros((1, 3), np.float32), method="padded", y=np.zeros((1, 4), np.int64))
    first, second, third = server.hosts[0].requests
    assert (first.length, second.length, third.length) == (8, 16, 8)
    assert first.key != second.key == third.key


def test_without_a_time_out_the_models_budget_is_the_deadline(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        client.predict("echo", ROWS)
        client.predict("echo", ROWS, method="typed")
    budgets_s = [round((item.deadline_ns - item.arrival_ns) / 1e9, 1) for item in server.hosts[0].requests]
    assert budgets_s == [30.0, 0.1]


@pytest.mark.parametrize(
    ("args", "options", "error", "expected"),
    [
        ((ROWS,), {"model": "ecko"}, ModelNotFound, 'Did you mean "echo"'),
        ((ROWS,), {"version": 9}, VersionNotFound, "no version '9'"),
        ((ROWS,), {"method": "tipped"}, InvalidParameter, 'Did you mean "typed"'),
        ((), {}, InvalidInput, "missing: x"),
        ((ROWS, ROWS, ROWS), {}, InvalidInput, "takes x, y"),
        ((ROWS,), {"z": ROWS}, InvalidParameter, "input 'z' is unknown"),
        ((ROWS,), {"x": ROWS}, InvalidParameter, "given twice"),
        ((ROWS, ROWS[:1]), {}, InvalidInput, "2 and 1 rows"),
        ((np.zeros((1001, 1), np.int8),), {}, TooLarge, "over the limit of 1000 rows"),
        ((ROWS.astype(np.float64),), {"method": "typed"}, InvalidInput, "datatype FP64, expected FP32"),
        ((ROWS[:, :2],), {"method": "typed"}, InvalidInput, r"shape \[2, 2\], expected \[-1, 3\]"),
        ((ROWS,), {"method": "typed", "y": 1}, InvalidParameter, "input 'y' is unknown to typed"),
        ((object(),), {}, InvalidInput, "input 'x'"),
        ((1.5,), {}, InvalidInput, r"input 'x' has shape \[\], without the batch dim 0"),
        ((ROWS,), {"timeout": 1}, InvalidParameter, "timeout is no input; .* timeout_s="),
        ((ROWS,), {"method": "padded", "mask": ROWS}, InvalidParameter, "'mask' is the mask, which the server makes"),
        ((ROWS, ROWS), {"method": "padded"}, InvalidParameter, "'mask' is the mask.* by name"),
        ((ROWS[:, 0],), {"method": "padded"}, InvalidInput, r"'x' has shape \[2\], without the padded dim 1"),
    ],
)
def test_what_the_server_would_refuse_is_refused_before_it_is_sent(
    kind: type[Client],
    server: FakeNative,
    args: tuple[object, ...],
    options: dict[str, object],
    error: type[RequestError],
    expected: str,
) -> None:
    model = str(options.get("model", "echo"))
    options = {name: value for name, value in options.items() if name != "model"}
    with kind(server.url) as client, pytest.raises(error, match=expected):
        client.predict(model, *args, **options)  # type: ignore[arg-type]
    assert not server.hosts[0].requests


def test_open_methods_take_anything_and_plain_numbers_take_the_declared_dtype(
    kind: type[Client], server: FakeNative
) -> None:
    with kind(server.url) as client:
        assert np.asarray(client.predict("echo", [[1, 2, 3]], method="typed")).dtype == np.float32
        strings = client.predict("echo", ["a", "b\0"], method="anything")
        assert np.asarray(strings).tolist() == [b"a", b"b\0"]
        assert isinstance(client.predict("echo", 1, 2.0, flag=True, method="anything"), np.ndarray)


def test_failures_are_typed_and_leave_the_connection_sound(kind: type[Client], server: FakeNative) -> None:
    server.script = lambda item: failure(item, "queue_full", "too much", 0.25)
    with kind(server.url) as client:
        with pytest.raises(QueueFull, match="too much") as caught:
            client.predict("echo", ROWS)
        assert caught.value.retry_after_s == 0.25
        server.script = echo
        client.predict("echo", ROWS)
    assert len(server.hellos) == 1


def test_refusals_are_retried_as_often_as_asked(kind: type[Client], server: FakeNative) -> None:
    answers = iter([failure, failure])

    def refuse_twice(item: InferItem) -> Reply:
        refusal = next(answers, None)
        return echo(item) if refusal is None else refusal(item, "queue_full", "full", 0.0)

    server.script = refuse_twice
    with kind(server.url, retries=2) as client:
        client.predict("echo", ROWS)
    assert len(server.hosts[0].requests) == 3


def test_a_request_that_would_be_late_is_refused_at_once_by_the_hosts_forecast(
    kind: type[Client], server: FakeNative
) -> None:
    def busy_for_a_minute(item: InferItem) -> Reply:
        host, now_ns = server.hosts[0], SystemClock.now_ns()
        table = KeyTable(item.method, item.key, 0, True, 64, (1,), (0.1,))
        told = Forecast(now_ns, 0, 10.0, (now_ns + 60 * 10**9,), (table,))
        host.socket.send(host.origins[-1], encode(told))
        return echo(item)

    server.script = busy_for_a_minute
    with kind(server.url) as client:
        client.predict("echo", ROWS)
        with pytest.raises(InfeasibleNow, match="after its deadline") as refused:
            client.predict("echo", ROWS, timeout_s=20.0)
        assert refused.value.retry_after_s == 30.0
    assert len(server.hosts[0].requests) == 1


def test_a_budget_below_a_given_table_is_refused_with_one_that_works(kind: type[Client], tmp_path: Path) -> None:
    spec = serve_spec(tmp_path)
    runner = replace(spec.runners[0], latency_table=((1, 50.0),))
    with FakeNative(tmp_path, spec=replace(spec, runners=(runner,))) as server, kind(server.url) as client:
        with pytest.raises(InvalidParameter, match="take 100 ms alone, by its latency table; allow 101 ms or more"):
            client.predict("echo", ROWS, timeout_s=0.02)
        client.predict("echo", ROWS)


def test_a_result_that_is_not_one_is_a_protocol_error(kind: type[Client], server: FakeNative) -> None:
    server.script = lambda item: Result(item.counter, item.attempt, 1, 1, 1, [2, 99, [1], b"x"])
    with kind(server.url) as client, pytest.raises(ProtocolError):
        client.predict("echo", ROWS)


def test_a_silent_host_is_given_up_at_the_deadline_and_told_so(kind: type[Client], server: FakeNative) -> None:
    server.script = silent
    with kind(server.url) as client:
        client.ready()
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.predict("echo", ROWS, timeout_s=0.1)
        assert 0.1 <= time.monotonic() - started < 0.5
        if kind is not Client:
            client.ready()  # the loop of this face runs only within calls
        server.wait_for(lambda: server.hosts[0].cancelled == [server.hosts[0].requests[0].counter])


def test_a_lost_hosts_requests_go_to_the_next_one(server: FakeNative) -> None:
    first = server.hosts[0]

    def answered_by_others(item: InferItem) -> Reply:
        return echo(item) if item.attempt else None

    server.script = answered_by_others
    with Client(server.url) as client, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(client.predict, "echo", ROWS) for _ in range(2)]
        server.wait_for(lambda: len(first.requests) == 2)
        started = ((first.origins[0], first.requests[0].counter),)
        server.do(lambda: server.kill_host(first, started), server.add_host)
        for answer in answers:
            np.testing.assert_array_equal(np.asarray(answer.result(10)), ROWS)
    again = {item.counter: item.starts for item in server.hosts[0].requests}
    assert again == {first.requests[0].counter: 1, first.requests[1].counter: 0}


def test_a_request_that_was_started_as_often_as_allowed_fails(server: FakeNative) -> None:
    server.script = silent
    with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.predict, "echo", ROWS)
        for _ in range(2):
            server.wait_for(lambda: len(server.hosts) == 1 and len(server.hosts[0].requests) == 1)
            host = server.hosts[0]
            server.do(partial(server.kill_host, host, None), server.add_host)
        with pytest.raises(WorkerLost):
            answer.result(10)


def test_a_runner_that_was_given_up_answers_at_once(server: FakeNative) -> None:
    server.script = silent
    with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.predict, "echo", ROWS)
        server.wait_for(lambda: len(server.hosts[0].requests) == 1)
        host = server.hosts[0]
        server.do(lambda: server.kill_host(host), lambda: server.give_up("died 5 times"))
        with pytest.raises(NoWorker, match="died 5 times"):
            answer.result(10)
        assert not client.ready()


def test_without_a_host_requests_wait_for_one(server: FakeNative) -> None:
    host = server.hosts[0]
    server.do(lambda: server.kill_host(host))
    with Client(server.url) as client, ThreadPoolExecutor(1) as pool:
        assert not client.ready()
        answer = pool.submit(client.predict, "echo", ROWS)
        server.do(server.add_host)
        np.testing.assert_array_equal(np.asarray(answer.result(10)), ROWS)


def test_hosts_share_the_requests(tmp_path: Path) -> None:
    with FakeNative(tmp_path, hosts=2) as server, Client(server.url) as client:
        for _ in range(10):
            client.predict("echo", ROWS)
        assert [len(host.requests) for host in server.hosts] == [5, 5]


def test_a_draining_server_refuses_and_its_successor_is_found(kind: type[Client], tmp_path: Path) -> None:
    with kind(f"ipc://{tmp_path}") as client:
        with FakeNative(tmp_path) as server:
            client.predict("echo", ROWS)
            server.do(server.drain)
            while client.ready():
                pass  # until the news has come
            for _ in range(2):
                with pytest.raises(Draining):
                    client.predict("echo", ROWS)
        with FakeNative(tmp_path):
            client.predict("echo", ROWS)


def test_a_restarted_server_gets_what_the_dead_one_did_not_answer(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "KNOCK_S", 0.05)
    with kind(f"ipc://{tmp_path}") as client:
        with FakeNative(tmp_path):
            client.predict("echo", ROWS)
        with FakeNative(tmp_path) as second:
            np.testing.assert_array_equal(np.asarray(client.predict("echo", ROWS)), ROWS)
            assert second.hosts[0].requests[0].attempt == 1


def test_another_server_in_the_same_place_fails_open_requests_and_serves_new_ones(
    kind: type[Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "KNOCK_S", 0.05)
    with kind(f"ipc://{tmp_path}") as client:
        with FakeNative(tmp_path):
            client.predict("echo", ROWS)
        with FakeNative(tmp_path, spec=serve_spec(tmp_path, version="4")):
            with pytest.raises(NoWorker, match="replaced"):
                client.predict("echo", ROWS, version=3)
            client.predict("echo", ROWS, version=4)


def test_a_server_that_fell_silent_is_given_up(
    kind: type[Client], server: FakeNative, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "KNOCK_S", 0.05)
    monkeypatch.setattr(native_link, "LOST_S", 0.2)
    with kind(server.url) as client:
        client.predict("echo", ROWS)
        server.deaf, server.script = True, silent
        with pytest.raises(NoWorker, match="silent"):
            client.predict("echo", ROWS)


def test_no_server_is_a_clear_error(kind: type[Client], tmp_path: Path) -> None:
    with kind(f"ipc://{tmp_path}") as client:
        with pytest.raises(ServerUnreachable, match=f"no server in {tmp_path}"):
            client.predict("echo", ROWS)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / "control.sock"))
        with pytest.raises(ConnectionError, match="refused"):
            client.metadata("echo")
        assert client.ready() is False


def test_a_server_that_does_not_say_welcome_is_an_error(kind: type[Client], server: FakeNative) -> None:
    server.deaf = True
    with kind(server.url) as client, pytest.raises((ServerUnreachable, DeadlineExceeded)):
        client.predict("echo", ROWS, timeout_s=0.1)


def test_metadata_and_readiness(kind: type[Client], server: FakeNative) -> None:
    with kind(server.url) as client:
        assert client.ready()
        assert client.ready("echo")
        assert client.ready("echo:3")
        assert not client.ready("echo:4")
        assert not client.ready("other")
        metadata = client.metadata("echo")
        assert metadata["versions"] == ["3"]
        assert metadata["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [-1]},
            {"name": "y", "datatype": "FP32", "shape": [-1]},
        ]
        with pytest.raises(ModelNotFound):
            client.metadata("other")


def test_requests_of_one_tick_travel_in_one_message(server: FakeNative) -> None:
    async def run() -> list[Prediction]:
        async with AsyncClient(server.url) as client:
            await client.ready()
            return await asyncio.gather(*[client.predict("echo", np.full((1, 2), i)) for i in range(64)])

    answers = asyncio.run(run())
    assert [int(np.asarray(answer)[0, 0]) for answer in answers] == list(range(64))
    assert server.hosts[0].messages == 1


def test_a_cancelled_task_cancels_its_request(server: FakeNative) -> None:
    server.script = silent

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            await client.ready()
            task = asyncio.create_task(client.predict("echo", ROWS))
            await asyncio.to_thread(server.wait_for, lambda: bool(server.hosts[0].requests))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(server.wait_for, lambda: bool(server.hosts[0].cancelled))

    asyncio.run(run())
    assert server.hosts[0].cancelled == [server.hosts[0].requests[0].counter]


def test_one_async_client_serves_loops_one_after_the_other(server: FakeNative) -> None:
    client = AsyncClient(server.url)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(asyncio.run(client.predict("echo", ROWS))), ROWS)
    asyncio.run(client.close())


def test_clients_that_nobody_closes_go_without_a_trace(server: FakeNative) -> None:
    asyncio.run(AsyncClient(server.url).predict("echo", ROWS))
    gc.collect()  # hangs for ever if a context goes before its sockets
    client = Client(server.url)
    client.predict("echo", ROWS)
    (thread,) = [each for each in threading.enumerate() if each.name == "paceline-client"]
    del client
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_concurrent_first_calls_open_one_connection(server: FakeNative) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            await asyncio.gather(*[client.predict("echo", ROWS) for _ in range(20)])

    asyncio.run(run())
    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.predict("echo", ROWS), range(20)))
    assert len(server.hellos) == 2


def test_many_threads_share_one_client(server: FakeNative) -> None:
    arrays = [np.full((1, 4), number, np.int64) for number in range(800)]
    with Client(server.url) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda array: client.predict("echo", array), arrays))
    for array, answer in zip(arrays, answers):
        assert np.array_equal(np.asarray(answer), array)


def test_closing_fails_what_is_open_and_refuses_what_comes(server: FakeNative) -> None:
    server.script = silent
    client = Client(server.url)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.predict, "echo", ROWS)
        server.wait_for(lambda: bool(server.hosts[0].requests))
        client.close()
        with pytest.raises(NoWorker, match="closed"):
            answer.result(10)
    with pytest.raises(ServerUnreachable, match="closed"):
        client.predict("echo", ROWS)
    client.close()


def test_control_c_while_waiting_calls_the_request_back(server: FakeNative) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt(item: InferItem) -> Reply:
        signal.pthread_kill(main, signal.SIGINT)
        return None

    server.script = interrupt
    with Client(server.url) as client:
        client.ready()
        with pytest.raises(KeyboardInterrupt):
            client.predict("echo", ROWS)
        server.wait_for(lambda: len(server.hosts[0].cancelled) == 1)
