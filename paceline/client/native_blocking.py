"""The native client for threads: callers prepare and decode in their own thread and wait on a lock; one background
thread runs the event loop in which the link lives, and takes all that callers left since its last round at once."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from time import sleep
from typing import TypeVar

from paceline.client.call import ANSWER_GRACE_S, Call, Outputs, retry_pause_s
from paceline.client.errors import ServerUnreachable
from paceline.client.native_async import AsyncNative
from paceline.client.native_call import NativeCall, outputs_of
from paceline.client.native_link import NativeLink
from paceline.client.native_route import Route
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded, NoWorker, RequestError
from paceline.protocol.messages import Result

T = TypeVar("T")


class _Ticket:
    """One caller's request on its way through the background thread; `wait` returns once it has its answer."""

    __slots__ = ("_lock", "call", "counter", "error", "link", "native", "result")

    def __init__(self, link: NativeLink, call: Call, native: NativeCall) -> None:
        self.link = link
        self.call = call
        self.native = native
        self.counter = 0
        self.result: Result | None = None
        self.error: RequestError | None = None
        # A bare lock is the lightest thing that another thread can release.
        self._lock = threading.Lock()
        self._lock.acquire()

    def answered(self, result: Result) -> None:
        self.result = result
        self._lock.release()

    def failed(self, error: RequestError) -> None:
        self.error = error
        self._lock.release()

    def wait(self, timeout_s: float) -> bool:
        return self._lock.acquire(timeout=max(0.0, timeout_s))


@dataclass(frozen=True, slots=True)
class _Cancel:
    """The caller of `ticket` waits no more."""

    ticket: _Ticket


class BlockingNative:
    """A server's dispatch hosts, shared by any number of threads."""

    def __init__(self, route: Route, retries: int) -> None:
        self._retries = retries
        self._native = AsyncNative(route, 0)
        self._link: NativeLink | None = None
        self._inbox: deque[_Ticket | _Cancel] = deque()  # append and popleft are atomic
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[..., BlockingNative]
        self._closed = False

    def predict(self, call: Call) -> Outputs:
        tries = 0
        while True:
            try:
                return self._predict_once(call)
            except RequestError as error:
                pause_s = retry_pause_s(error, tries, self._retries, call)
                if pause_s is None:
                    raise
            tries += 1
            sleep(pause_s)

    def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]:
        return self._open(deadline).calls.metadata(model, version)

    def ready(self, model: str | None, version: str | None, deadline: float) -> bool:
        return self._run(lambda: self._native.ready(model, version, deadline), deadline)

    def close(self) -> None:
        """Close the connection and end the background thread; calls that wait fail."""
        with self._starting:
            loop, thread = self._loop, self._thread
            self._loop, self._thread, self._link, self._closed = None, None, None, True
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(self._take)
            self._finalizer()
            thread.join()
            loop.close()

    def _predict_once(self, call: Call) -> Outputs:
        link = self._link
        if link is None or not link.usable:
            link = self._open(call.deadline)
        ticket = _Ticket(link, call, link.calls.prepare(call))
        try:
            self._leave(ticket)
            answered = ticket.wait(call.deadline + ANSWER_GRACE_S - SystemClock.now())
        except BaseException:  # Ctrl-C while waiting: the request is called back, the exception goes on
            self._call_back(ticket)
            raise
        if not answered:
            self._call_back(ticket)
            raise call.late()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.result is not None
        return outputs_of(ticket.result)

    def _leave(self, ticket: _Ticket) -> None:
        """Hand `ticket` to the background thread; only the first of a round pays for waking it."""
        inbox = self._inbox
        inbox.append(ticket)
        if len(inbox) == 1:
            self._running().call_soon_threadsafe(self._take)

    def _call_back(self, ticket: _Ticket) -> None:
        """The caller of `ticket` waits no more. Always wakes: an exception may have come before _leave did."""
        self._inbox.append(_Cancel(ticket))
        self._running().call_soon_threadsafe(self._take)

    def _take(self) -> None:
        inbox = self._inbox
        while inbox:
            item = inbox[0]
            if isinstance(item, _Cancel):
                item.ticket.link.hosts.cancel(item.ticket.counter)
            else:
                _submit(item)
            # Only now: as long as the inbox is not empty, callers rely on this loop to see what they append.
            inbox.popleft()

    def _open(self, deadline: float) -> NativeLink:
        self._link = link = self._run(lambda: self._native.link(deadline), deadline)
        return link

    def _run(self, make: Callable[[], Coroutine[object, object, T]], deadline: float) -> T:
        loop = self._running()
        future: Future[T] = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return future.result(max(0.0, deadline + ANSWER_GRACE_S - SystemClock.now()))
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded("the server did not answer within the time-out") from error

    def _running(self) -> asyncio.AbstractEventLoop:
        """The background thread's loop, started with the first call."""
        loop = self._loop
        if loop is not None:
            return loop
        with self._starting:
            if self._closed:
                raise ServerUnreachable("this client is closed; make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="paceline-client", daemon=True)
                self._thread.start()
                # A client that nobody closes ends its thread when it goes. Not at exit: the thread is a daemon.
                self._finalizer = weakref.finalize(self, _end, self._loop, self._native)
                self._finalizer.atexit = False
            return self._loop


def _end(loop: asyncio.AbstractEventLoop, native: AsyncNative) -> None:
    """Let the background thread close its link and end."""

    def end() -> None:
        native.close()
        loop.call_soon(loop.stop)  # after what is being closed had its turn

    loop.call_soon_threadsafe(end)


def _submit(ticket: _Ticket) -> None:
    link, native, call = ticket.link, ticket.native, ticket.call
    if not link.usable and not link.hosts.draining:
        ticket.failed(NoWorker("the connection to the server was given up meanwhile; try again"))
        return
    try:
        ticket.counter = link.hosts.submit(
            native.runner,
            native.method,
            native.args,
            native.kwargs,
            measured=native.measured,
            nbytes=native.nbytes,
            budget_s=link.calls.budget_s(call, native),
            priority=call.priority,
            request_id=call.request_id or "",
            traceparent="",
            waiter=ticket,
        )
    except RequestError as error:
        ticket.failed(error)
