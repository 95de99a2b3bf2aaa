"""The edge of one request: errors, deadlines, streams, clients that hang up, and the context."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

import paceline
from paceline.handle import deadline
from paceline.io import JSON, Text
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import Draining, InvalidInput, QueueFull
from paceline.service import Service
from paceline.service.replies import ReplyCutOff
from paceline.service.threads import FunctionThreads
from tests.paceline.service.asking import Connection, ask, error_of


def service_of(function: Any, **options: Any) -> Service:
    service = Service(name="s", **options)
    service.api(function)
    return service


@pytest.mark.parametrize("sync", [True, False])
def test_a_function_that_raises_is_a_500_with_its_traceback_in_the_log_only(
    sync: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        secret = "a local value"
        raise LookupError(f"no such {len(secret)}")

    async def fail_async() -> int:
        return fail()

    service = service_of(fail if sync else fail_async)
    path = "/fail" if sync else "/fail_async"
    response = ask(service, path, headers={"x-request-id": "abc-1"})
    assert error_of(response) == (500, "model_error", f"{path[1:]} raised LookupError: no such 13")
    assert response.json()["request_id"] == "abc-1"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert vars(record)["request_id"] == "abc-1"


def test_an_error_of_the_table_keeps_its_code_and_retry_after(caplog: pytest.LogCaptureFixture) -> None:
    async def busy() -> int:
        raise QueueFull("full", retry_after_s=1.2)

    async def wrong() -> int:
        raise InvalidInput("bad")

    async def leaving() -> int:
        raise Draining("gone")

    response = ask(service_of(busy), "/busy")
    assert (error_of(response), response.headers["retry-after"]) == ((429, "queue_full", "full"), "2")
    assert error_of(ask(service_of(wrong), "/wrong")) == (400, "invalid_input", "bad")
    assert ask(service_of(leaving), "/leaving").headers["connection"] == "close"
    assert caplog.records == []


def test_the_clients_request_id_comes_back_and_a_bad_one_is_refused() -> None:
    async def ping() -> int:
        return 1

    service = service_of(ping)
    assert ask(service, "/ping", headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    first, second = ask(service, "/ping"), ask(service, "/ping")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    for bad in ("a b", "x" * 129, ""):
        assert error_of(ask(service, "/ping", headers={"x-request-id": bad}))[:2] == (400, "invalid_parameter")


def test_a_body_over_the_limit_is_413_whether_announced_or_not() -> None:
    called = []

    async def size(text: str) -> int:
        called.append(text)
        return len(text)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x" * 8
        yield b"x" * 8

    service = service_of(size, body_bytes_max=10)
    assert ask(service, "/size", content=b"x" * 10).json() == 10
    refused = ask(service, "/size", content=b"x" * 11)
    assert (error_of(refused)[:2], refused.headers["connection"]) == ((413, "too_large"), "close")
    assert error_of(ask(service, "/size", content=pieces()))[:2] == (413, "too_large")
    assert called == ["x" * 10]


def test_an_encoded_body_is_415() -> None:
    async def size(text: str) -> int:
        return len(text)

    response = ask(service_of(size), "/size", content=b"x", headers={"content-encoding": "gzip"})
    assert error_of(response)[:2] == (415, "unsupported_media_type")


def test_at_the_deadline_the_function_is_cancelled_and_the_answer_is_504() -> None:
    cancelled = []

    async def hang() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return 1

    service = service_of(hang)
    response = ask(service, "/hang", headers={"x-request-timeout-ms": "1"})
    assert error_of(response)[:2] == (504, "deadline_exceeded")
    assert cancelled == [True]
    assert error_of(ask(service_of(hang, latency_budget_ms=1), "/hang"))[:2] == (504, "deadline_exceeded")


def test_a_timeout_error_of_the_functions_own_is_its_own() -> None:
    async def late() -> int:
        raise TimeoutError("the database")

    assert error_of(ask(service_of(late), "/late")) == (500, "model_error", "late raised TimeoutError: the database")


@pytest.mark.parametrize("sync", [True, False])
def test_runner_calls_see_the_time_that_is_left_and_no_more_than_the_cap(sync: bool) -> None:
    seen = []

    def look() -> int:
        at = deadline.get()
        assert at is not None
        seen.append(at - SystemClock.now())
        return 1

    async def look_async() -> int:
        return look()

    service = service_of(look if sync else look_async, latency_budget_ms=5000, timeout_max_ms=20_000)
    path = "/look" if sync else "/look_async"
    for header in (None, "10000", "999999999"):
        ask(service, path, headers={} if header is None else {"x-request-timeout-ms": header})
    for left, most in zip(seen, (5.0, 10.0, 20.0)):
        assert most / 2 < left <= most
    assert deadline.get() is None


@pytest.mark.parametrize("header", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_none_is_a_400(header: str) -> None:
    async def ping() -> int:
        return 1

    response = ask(service_of(ping), "/ping", headers={"x-request-timeout-ms": header})
    assert error_of(response)[:2] == (400, "invalid_parameter")


def test_a_client_that_hangs_up_cancels_the_function() -> None:
    events: list[str] = []

    async def hang() -> int:
        events.append("began")
        connection.hang_up()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("ended")
        return 1

    connection = Connection("/hang")
    asyncio.run(connection.ask(service_of(hang)))
    assert (events, connection.sent) == (["began", "ended"], [])


def test_a_client_that_hangs_up_in_its_body_is_forgotten() -> None:
    async def size(text: str) -> int:
        raise AssertionError("called without a body")

    connection = Connection("/size")
    connection._incoming.get_nowait()
    connection._incoming.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
    connection.hang_up()
    asyncio.run(connection.ask(service_of(size)))
    assert connection.sent == []


def test_a_cancelled_task_is_not_taken_for_a_client_that_hung_up() -> None:
    async def hang() -> int:
        await asyncio.Event().wait()
        return 1

    async def scenario() -> None:
        task = asyncio.create_task(Connection("/hang").ask(service_of(hang)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_pieces_of_a_stream_leave_as_they_are_made() -> None:
    async def scenario() -> None:
        steps: asyncio.Queue[str] = asyncio.Queue()

        async def words() -> AsyncIterator[str]:
            while word := await steps.get():
                yield word

        connection = Connection("/words")
        asking = asyncio.create_task(connection.ask(service_of(words)))
        for word in ("one", "two"):
            steps.put_nowait(word)
            assert await connection.pieces.get() == word.encode()
        steps.put_nowait("")
        await asking
        assert connection.sent[0]["status"] == 200
        assert b"content-length" not in dict(connection.sent[0]["headers"])
        assert connection.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    asyncio.run(scenario())


def test_a_client_that_leaves_a_stream_ends_the_generator() -> None:
    ended = []

    async def endless() -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def scenario() -> None:
        connection = Connection("/endless")
        asking = asyncio.create_task(connection.ask(service_of(endless)))
        assert await connection.pieces.get() == b"first"
        connection.hang_up()
        await asking

    asyncio.run(scenario())
    assert ended == [True]


def test_what_fails_before_the_first_piece_is_an_error_like_any_other() -> None:
    def refused() -> list[str]:
        raise InvalidInput("no words")

    async def words() -> AsyncIterator[str]:
        for word in refused():
            yield word

    assert error_of(ask(service_of(words), "/words")) == (400, "invalid_input", "no words")


def test_what_fails_later_cuts_the_stream_off(caplog: pytest.LogCaptureFixture) -> None:
    async def words() -> AsyncIterator[str]:
        yield "one"
        raise ValueError("broken")

    connection = Connection("/words")
    with pytest.raises(ReplyCutOff, match="broken"):
        asyncio.run(connection.ask(service_of(words)))
    assert connection.sent[-1]["more_body"] is True
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_piece_of_the_wrong_type_cuts_the_stream_off(caplog: pytest.LogCaptureFixture) -> None:
    async def words() -> AsyncIterator[Any]:
        yield "one"
        yield 2

    service = Service(name="s")
    service.api(output=Text())(words)
    with pytest.raises(ReplyCutOff, match="expected text"):
        asyncio.run(Connection("/words").ask(service))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_the_services_own_deadline_is_for_a_streams_beginning_and_the_clients_for_all_of_it() -> None:
    seen: list[float | None] = []

    async def words() -> AsyncIterator[str]:
        yield "one"
        seen.append(deadline.get())
        yield "two"

    assert ask(service_of(words), "/words").text == "onetwo"
    ask(service_of(words), "/words", headers={"x-request-timeout-ms": "60000"})
    assert seen[0] is None
    assert seen[1] is not None

    async def slow() -> AsyncIterator[str]:
        yield "one"
        await asyncio.Event().wait()

    connection = Connection("/slow", headers={"x-request-timeout-ms": "20"})
    with pytest.raises(ReplyCutOff, match="deadline"):
        asyncio.run(connection.ask(service_of(slow)))


def test_a_generator_that_is_not_async_runs_in_threads() -> None:
    threads = []

    def words() -> Iterator[str]:
        for word in ("one", "two"):
            threads.append(threading.current_thread().name)
            yield word

    assert ask(service_of(words), "/words").text == "onetwo"
    assert all(name.startswith("paceline-api") for name in threads)


def test_a_client_that_leaves_ends_a_generator_that_is_not_async() -> None:
    ended = []

    def endless() -> Iterator[str]:
        try:
            while True:
                yield "again"
        finally:
            ended.append(True)

    async def scenario() -> None:
        connection = Connection("/endless")
        asking = asyncio.create_task(connection.ask(service_of(endless)))
        await connection.pieces.get()
        connection.hang_up()
        await asking

    asyncio.run(scenario())
    gc.collect()
    assert ended == [True]


def test_a_streaming_response_of_the_functions_own_has_no_deadline_but_the_clients() -> None:
    seen = []

    async def words() -> AsyncIterator[str]:
        seen.append(deadline.get())
        yield "one"

    async def own() -> Any:
        return StreamingResponse(words())

    assert ask(service_of(own), "/own").text == "one"
    assert seen == [None]


def test_an_empty_stream_is_an_empty_answer() -> None:
    async def words() -> AsyncIterator[str]:
        nothing: list[str] = []
        for word in nothing:
            yield word

    response = ask(service_of(words), "/words")
    assert (response.status_code, response.content) == (200, b"")


def test_functions_that_are_not_async_leave_the_loop_free() -> None:
    """Two of them meet, which they could not on one thread."""
    meeting = threading.Barrier(2, timeout=30)

    def meet() -> int:
        meeting.wait()
        return 1

    async def scenario() -> list[int]:
        service = service_of(meet, threads=2)
        connections = [Connection("/meet"), Connection("/meet")]
        await asyncio.gather(*[connection.ask(service) for connection in connections])
        return [connection.sent[0]["status"] for connection in connections]

    assert asyncio.run(scenario()) == [200, 200]


def test_threads_are_bounded_and_so_is_the_queue_for_them() -> None:
    async def scenario() -> None:
        threads = FunctionThreads(size=1, waiting_max=1)
        go = threading.Event()
        ran: list[str] = []
        first = asyncio.create_task(threads.run(go.wait, 30))
        waiting = asyncio.create_task(threads.run(ran.append, "waiting"))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as caught:
            await threads.run(ran.append, "too many")
        assert caught.value.retry_after_s is not None
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        last = asyncio.create_task(threads.run(ran.append, "last"))  # the place of the cancelled one
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, last)
        assert ran == ["last"]
        threads.stop()

    asyncio.run(scenario())


def test_the_context_knows_the_request_and_sets_the_response() -> None:
    service = Service(name="s")

    @service.api(input=JSON(), output=JSON())
    async def create(value: Any, ctx: paceline.Context) -> Any:
        ctx.response.status_code = 201
        ctx.response.headers["x-count"] = ctx.request.query_params["n"]
        ctx.response.headers["content-type"] = "application/vnd.x+json"
        ctx.response.set_cookie("seen", "1")
        return [value, ctx.request.cookies["c"], ctx.request_id]

    headers = {"cookie": "c=2", "x-request-id": "r"}
    response = ask(service, "/create?n=7", json=1, headers=headers)
    assert (response.status_code, response.json()) == (201, [1, "2", "r"])
    assert response.headers["x-count"] == "7"
    assert response.headers["content-type"] == "application/vnd.x+json"
    assert response.cookies["seen"] == "1"


def test_the_context_sets_the_head_of_a_stream() -> None:
    async def words(ctx: paceline.Context) -> AsyncIterator[str]:
        ctx.response.status_code = 206
        ctx.response.headers["x-a"] = "b"
        yield "one"

    response = ask(service_of(words), "/words")
    assert (response.status_code, response.headers["x-a"], response.text) == (206, "b", "one")


@pytest.mark.parametrize("bad", ["a\r\nset-cookie: b", "a\nb", "a\0b"])
def test_a_header_with_a_line_break_is_an_error_and_is_not_sent(bad: str) -> None:
    async def show(ctx: paceline.Context) -> int:
        ctx.response.headers["x-given"] = ctx.request.query_params["q"]
        return 1

    response = ask(service_of(show), "/show", params={"q": bad})
    assert error_of(response)[:2] == (500, "model_error")
    assert "set-cookie" not in response.headers
    assert "x-given" not in response.headers


def test_a_client_that_reads_slowly_gets_its_whole_answer_after_the_deadline() -> None:
    async def quick() -> str:
        return "answer"

    class SlowReader(Connection):
        async def send(self, message: Any) -> None:
            at = deadline.get()
            assert at is not None
            while SystemClock.now() < at + 0.002:
                await asyncio.sleep(0)
            await super().send(message)

    connection = SlowReader("/quick", headers={"x-request-timeout-ms": "20"})
    asyncio.run(connection.ask(service_of(quick)))
    assert [message.get("body") for message in connection.sent] == [None, b"answer"]


def test_a_status_without_a_body_has_none() -> None:
    async def nothing(ctx: paceline.Context) -> None:
        ctx.response.status_code = 204

    response = ask(service_of(nothing), "/nothing")
    assert (response.status_code, response.content) == (204, b"")
    assert "content-length" not in response.headers


def test_a_response_of_the_functions_own_is_sent_as_it_is() -> None:
    async def own() -> Any:
        return PlainTextResponse("mine", 202)

    response = ask(service_of(own), "/own")
    assert (response.status_code, response.text) == (202, "mine")


def test_a_function_may_return_an_awaitable_or_an_iterator() -> None:
    async def later() -> str:
        return "later"

    def give() -> Any:
        return later()

    async def words() -> AsyncIterator[str]:
        yield "one"

    async def stream() -> AsyncIterator[str]:
        return words()

    service = Service(name="s")
    service.api(output=Text())(give)
    service.api(stream)
    assert (ask(service, "/give").text, ask(service, "/stream").text) == ("later", "one")
