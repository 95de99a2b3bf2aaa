"""HTTP/1.1 on one connection: uvicorn's httptools protocol with every size, count and wait bounded, and a lean cycle
for the infer route.

What is ambiguous is refused and the connection closed, so no second request can hide in a first. An infer request costs
no ASGI scope, task or event: its whole body goes to the route when it is there, and its answer is one write. All other
routes take uvicorn's own way to the ASGI app. Answers leave in the order of their requests.
"""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from paceline.api_server.answer import Answer, HttpRefusal, error_answer, refusal_answer
from paceline.api_server.body_reader import BodyReader
from paceline.api_server.front import Front
from paceline.api_server.http_head import (
    bad_request,
    body_too_large,
    bound_head,
    bound_json,
    framing,
    headers_too_large,
)
from paceline.api_server.infer import Target
from paceline.api_server.infer_cycle import InferCycle
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import RequestError, TooLarge

logger = logging.getLogger(__name__)

# A body with at least this much still to come is read straight into its buffer.
DIRECT_BODY_BYTES = 64 * 1024
# Behind a request that runs, so many small ones are read: only who reads notices that the client hangs up.
READ_AHEAD = 8
# After its client hung up, an ASGI app that does not listen for that is cancelled this much later.
DISCONNECTED_S = 0.1
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REQUEST_ID = b"x-request-id: "
_KEEP, _CLOSE = b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"


class Phase(IntEnum):
    """What the connection reads next. REFUSED: nothing; an error waits for earlier answers. LINGER: until the client
    has read it."""

    SILENT = 0
    IDLE = 1
    HEAD = 2
    BODY = 3
    REFUSED = 4
    LINGER = 5


_IDLE, _HEAD, _BODY = Phase.IDLE, Phase.HEAD, Phase.BODY


class HttpProtocol(HttpToolsProtocol):
    """See the module."""

    cycle: Any  # uvicorn's RequestResponseCycle or an InferCycle

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        front: Front,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._front = front
        self._bounds = front.bounds
        self._phase = Phase.SILENT
        self._since = self._body_since = self._rate_since = self._stalled_since = front.now
        self._rate_bytes = 0
        self._messages = 0
        self._head_bytes = self._head_slack = 0
        self._chunks = self._trailers = 0
        self._running: InferCycle | None = None
        self._refusal: Answer | None = None
        self._held = False
        self._unwritten = self._reserved = 0
        self._task: asyncio.Task[None] | None = None

    # The transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        if len(self._front.connections) >= self._bounds.connections:
            self._refuse(HttpRefusal(503, "too_many_connections", "the server has too many open connections"))
        self._front.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.connections.discard(self)
        self._front.unsent.release(self)
        running, self._running = self._running, None
        self._release()
        super().connection_lost(exc)
        self.pipeline.clear()
        if running is not None and running.exchange is not None:
            running.exchange.abandon()
        if self._task is not None and not self._task.done():
            self.loop.call_later(DISCONNECTED_S, self._task.cancel)

    def data_received(self, data: bytes) -> None:
        before, messages = self._phase, self._messages
        if before >= Phase.REFUSED:
            return
        # At least as many bytes as any head that completes in this chunk can have.
        self._head_bytes = len(data) if before is not _HEAD else self._head_bytes + len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Answered as if no upgrade had been asked for; the connection ends after it.
            self._body_of_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse(self._cause(error))
            return
        phase = self._phase
        if phase is _HEAD:
            self._bound_open_head(before, self._messages - messages, len(data))
        elif phase is _BODY:
            self._since = self._front.now
            self._rate_bytes += len(data)
            self._read_directly()

    def pause_writing(self) -> None:
        """The client reads slower than we answer: take nothing more from it meanwhile."""
        now = SystemClock.now()
        self._unwritten, self._stalled_since = self.transport.get_write_buffer_size(), now
        self.flow.pause_writing()
        self.flow.pause_reading()
        self._front.unsent.hold(self, self._unwritten, now)

    def resume_writing(self) -> None:
        self._front.unsent.release(self)
        self.flow.resume_writing()
        if self._held:
            self._held = False
            self._next()
        elif not self.pipeline and self._refusal is None:
            self.flow.resume_reading()

    def end_if_stalled(self, now: float) -> None:
        """The sweep's call: refuse or close what waits longer than its bound."""
        bounds, waited_s = self._bounds, now - self._since
        phase = self._phase
        if self.flow.write_paused and now - self.stalled_since(now) > bounds.write_stall_s:
            self.transport.abort()
        elif phase is Phase.LINGER:
            if waited_s > bounds.linger_s:
                self.transport.abort()
        elif self.flow.read_paused:
            # Not the client's fault.
            self._since = self._rate_since = now
            self._rate_bytes = 0
        elif phase is _HEAD or phase is Phase.SILENT:
            if waited_s > bounds.headers_s:
                self._refuse(HttpRefusal(408, "request_timeout", f"no whole request head in {bounds.headers_s:g} s"))
        elif phase is _BODY:
            if waited_s > bounds.body_idle_s:
                self._refuse(HttpRefusal(408, "request_timeout", f"no more of the body in {bounds.body_idle_s:g} s"))
            elif self._trickles(now):
                self._refuse(
                    HttpRefusal(408, "request_timeout", f"less of the body than {bounds.body_bytes_per_s:g} bytes/s")
                )
            elif now - self._body_since > bounds.body_s:
                self._refuse(HttpRefusal(408, "request_timeout", f"no whole body in {bounds.body_s:g} s"))
        elif phase is _IDLE and self._all_answered() and waited_s > bounds.keep_alive_s:
            self.transport.close()

    def _trickles(self, now: float) -> bool:
        waited_s = now - self._rate_since
        if waited_s < self._bounds.body_grace_s:
            return False
        too_few = self._rate_bytes < waited_s * self._bounds.body_bytes_per_s
        self._rate_since, self._rate_bytes = now, 0
        return too_few

    # UnsentAnswers' calls

    def stalled_since(self, now: float) -> float:
        unwritten = self.transport.get_write_buffer_size()
        if unwritten != self._unwritten:
            self._unwritten, self._stalled_since = unwritten, now
        return self._stalled_since

    def cut_off(self) -> None:
        self.transport.abort()

    # The parser's calls

    def on_message_begin(self) -> None:
        self._messages += 1
        self._phase = _HEAD
        self._since = self._front.now
        self._trailers = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_url(self, url: bytes) -> None:
        self.url = self.url + url if self.url else url
        if len(self.url) > self._bounds.target_bytes:
            raise HttpRefusal(414, "uri_too_long", f"the request target is over {self._bounds.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _BODY:
            self._trailers += 1
            if self._trailers > self._bounds.headers_count:
                raise HttpRefusal(431, "headers_too_large", f"more than {self._bounds.headers_count} trailers")
            return
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers = self.headers
        fields = dict(headers)
        version: str = self.parser.get_http_version()
        self._chunks = 0
        count = len(headers)
        if self._head_bytes > self._bounds.headers_bytes or count > self._bounds.headers_count or len(fields) != count:
            bound_head(headers, self._bounds)
        length = framing(fields, version, self._bounds)
        if len(self.pipeline) >= self._bounds.pipelined:
            raise HttpRefusal(400, "too_many_pipelined", f"more than {self._bounds.pipelined} requests wait here")
        target = self._front.route.target(self.url) if self.parser.get_method() == b"POST" else None
        if target is not None:
            self._infer_headers(target, fields, length, version)
        else:
            self._other_headers(fields)
        # Last: a refusal until here concerns no cycle of its own.
        self._phase = _BODY
        self._body_since = self._rate_since = self._front.now
        self._rate_bytes = 0

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if type(cycle) is not InferCycle:
            super().on_body(body)
            return
        held = cycle.body
        if cycle.length < 0 or cycle.length > DIRECT_BODY_BYTES:
            self._reserve(len(body))
        if not held:
            cycle.body = body
        else:
            if type(held) is bytes:
                held = cycle.body = bytearray(held)
            held += body
        if cycle.length < 0:
            size = len(cycle.body)
            if size > self._bounds.body_bytes:
                raise body_too_large(self._bounds.body_bytes)
            bound_json(cycle.headers, size, self._bounds.json_bytes)

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._bounds.chunks:
            raise TooLarge(f"the body has more than {self._bounds.chunks} chunks; send it with Content-Length")

    def on_message_complete(self) -> None:
        cycle = self.cycle
        self._since = self._front.now
        if type(cycle) is not InferCycle:
            self._phase = _IDLE
            super().on_message_complete()
            return
        if cycle.upgrade_body:
            return
        self._phase = _IDLE
        cycle.complete = True
        if self._reserved:
            self._release()
        if cycle.active:
            self._begin(cycle)

    # BodyReader's calls

    def body_progress(self, nbytes: int) -> None:
        self._since = self._front.now
        self._rate_bytes += nbytes
        try:
            self._reserve(nbytes)
        except RequestError as error:
            self._refuse(error)

    def body_complete(self, body: bytearray) -> None:
        """The parser never saw this body: a fresh one starts behind it."""
        self.transport.set_protocol(self)
        self.parser = httptools.HttpRequestParser(self)
        self.cycle.body = body
        self.on_message_complete()

    # The infer route

    def _infer_headers(self, target: Target, fields: dict[bytes, bytes], length: int, version: str) -> None:
        if length > self._bounds.json_bytes:
            bound_json(fields, length, self._bounds.json_bytes)
        upgrade = self.parser.should_upgrade()
        if upgrade and length < 0:
            raise bad_request("a chunked request cannot ask for an upgrade")
        keep_alive = version == "1.1" and not upgrade and self.parser.should_keep_alive()
        cycle = InferCycle(self, target, fields, length, keep_alive)
        cycle.upgrade_body = upgrade and length > 0
        cycle.expects_continue = b"expect" in fields and fields[b"expect"].lower() == b"100-continue"
        first = self._all_answered()
        self.cycle = cycle
        if first:
            self._activate(cycle)
            return
        small = 0 <= length <= DIRECT_BODY_BYTES and not cycle.expects_continue
        if not small or len(self.pipeline) >= READ_AHEAD:
            self.flow.pause_reading()
        self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]  # a lean cycle stands in for uvicorn's

    def _reserve(self, nbytes: int) -> None:
        self._front.reserve(nbytes)
        self._reserved += nbytes

    def _release(self) -> None:
        self._front.release(self._reserved)
        self._reserved = 0

    def _activate(self, cycle: InferCycle) -> None:
        """The answers before this one are out."""
        cycle.active = True
        if cycle.complete:
            # Not at once: a chain of requests that are refused at once would recurse.
            self.loop.call_soon(self._begin, cycle)
        elif cycle.expects_continue and not cycle.body:
            self.transport.write(_CONTINUE)

    def _begin(self, cycle: InferCycle) -> None:
        if self.transport.is_closing():
            return
        self._running = cycle
        exchange = self._front.route.begin(cycle.target, cycle.headers, cycle.body, cycle.send)
        if not cycle.response_complete:
            cycle.exchange = exchange
            cycle.body = b""

    def send_answer(self, cycle: InferCycle, answer: Answer) -> None:
        """The one answer of `cycle`, in one write."""
        self._running = None
        if cycle.response_complete or self.transport.is_closing():
            return
        cycle.response_complete = True
        # The connection keeps its latest cycle, perhaps for long: not the tensors with it.
        cycle.exchange, cycle.body = None, b""
        keep = cycle.keep_alive and not answer.close and (not self._front.draining or bool(self.pipeline))
        self._write(answer, keep)
        if keep:
            self.on_response_complete()
        else:
            self.transport.close()

    def _write(self, answer: Answer, keep: bool) -> None:
        end = _KEEP if keep else _CLOSE
        line = self._front.status_line(answer.status)
        data = b"".join((line, answer.headers, _REQUEST_ID, answer.request_id, end, *answer.body))
        self.transport.write(data)
        if self.flow.write_paused:
            self._front.unsent.hold(self, len(data), self._stalled_since)

    def on_response_complete(self) -> None:
        self._since = self._front.now
        self.server_state.total_requests += 1
        if self.pipeline or self.flow.read_paused or self._refusal is not None:
            self._next()

    def _next(self) -> None:
        """The next pipelined request, or the error that ended the connection, or more reading."""
        if self.transport.is_closing():
            return
        if self.flow.write_paused:
            self._held = True
        elif self.pipeline:
            cycle, app = self.pipeline.pop()
            if not self.pipeline and self._refusal is None:
                self.flow.resume_reading()
            self._start(cycle, app)
        elif self._refusal is not None:
            self._end_with(self._refusal)
        else:
            self.flow.resume_reading()

    def _start(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, InferCycle):
            self._activate(cycle)
        else:
            self._start_asgi_task(cycle, app)

    def _all_answered(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _body_of_upgrade(self, rest: bytes) -> None:
        """The parser ends a message that asks for an upgrade at its head; its body is `rest` and what follows."""
        cycle = self.cycle
        if type(cycle) is not InferCycle or not cycle.upgrade_body:
            return
        cycle.upgrade_body = False
        if len(rest) >= cycle.length:
            self.body_complete(bytearray(rest[: cycle.length]))
        else:
            self.transport.set_protocol(BodyReader(self, rest, cycle.length))

    def _read_directly(self) -> None:
        cycle = self.cycle
        if type(cycle) is InferCycle and cycle.active and cycle.length - len(cycle.body) >= DIRECT_BODY_BYTES:
            self.transport.set_protocol(BodyReader(self, cycle.body, cycle.length))

    # Every other route

    def _other_headers(self, fields: dict[bytes, bytes]) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = fields.get(b"expect", b"").lower() == b"100-continue"
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """As uvicorn does, but with a hold on the task."""
        task = self._task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # Refusals

    def _bound_open_head(self, before: Phase, begun: int, received: int) -> None:
        """A head that is not complete yet: bound its bytes so far. The chunk that it began in counts only if nothing
        else was in it."""
        if begun:
            alone = begun == 1 and before in (_IDLE, Phase.SILENT)
            self._head_bytes, self._head_slack = received, 0 if alone else received
        if self._head_bytes - self._head_slack > self._bounds.headers_bytes + self._bounds.target_bytes:
            self._refuse(headers_too_large(self._bounds.headers_bytes))

    def _cause(self, error: httptools.HttpParserError) -> HttpRefusal | RequestError:
        cause = error.__context__
        if isinstance(cause, (HttpRefusal, RequestError)):
            return cause
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, httptools.HttpParserError):
            logger.error("request could not be read", exc_info=cause)
            return HttpRefusal(500, "internal", "the server failed on this request")
        return bad_request(f"the request is not well-formed HTTP/1.1: {error}")

    def _refuse(self, error: HttpRefusal | RequestError) -> None:
        """Answer `error` after all earlier answers, then end the connection: what follows cannot be trusted."""
        answer = self._refusal_answer(error)
        if self._phase is _BODY:
            at_once = self._forget_incomplete()
        else:
            at_once = self._all_answered()
        self._phase = Phase.REFUSED
        if at_once:
            self._end_with(answer)
        else:
            self._refusal = answer
            self.flow.pause_reading()

    def _forget_incomplete(self) -> bool:
        """Drop the cycle whose body is refused; True if no earlier answer is still to come."""
        self._release()
        cycle = self.cycle
        if cycle is None:
            return True
        queued = bool(self.pipeline) and self.pipeline[0][0] is cycle
        if queued:
            self.pipeline.popleft()
        elif not isinstance(cycle, InferCycle):
            if cycle.response_started:
                self.transport.abort()
            cycle.disconnected = True
            cycle.message_event.set()
        cycle.response_complete = not queued
        return not queued

    def _refusal_answer(self, error: HttpRefusal | RequestError) -> Answer:
        try:
            request_id = self._front.ids.of(dict(self.headers or ()))
        except RequestError:
            request_id = self._front.ids.next()
        if isinstance(error, HttpRefusal):
            return refusal_answer(error, request_id)
        answer = error_answer(error, request_id)
        answer.close = True
        return answer

    def _end_with(self, answer: Answer) -> None:
        """Write, close our side, and read on for a while: closing at once would reset the connection and could take the
        answer away from a client that still sends."""
        if self.transport.is_closing():
            return
        self.transport.set_protocol(self)
        self._write(answer, keep=False)
        self._phase, self._since = Phase.LINGER, self._front.now
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()
