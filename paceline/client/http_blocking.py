"""HTTP for threads: a pool of keep-alive connections, each used by one thread at a time.

One request is one send (head and body together, TCP_NODELAY). What is tried again: a refused connection, some times
within the deadline, and a kept connection that the server had closed before anything of an answer came.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from paceline.client.address import HttpAddress
from paceline.client.call import ANSWER_GRACE_S, Call, Outputs
from paceline.client.errors import ServerUnreachable
from paceline.client.http1 import Response, ResponseParser, request_head
from paceline.client.oip import HttpRequest
from paceline.client.steps import Pause, PredictSteps, Steps, metadata_steps, ready_steps
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import DeadlineExceeded
from paceline.protocol.tensor import Buffer

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
IDLE_MAX = 64
CONNECT_TRIES = 3
CONNECT_PAUSE_S = 0.05
_RECEIVE_BYTES = 64 * 1024


class StaleConnection(Exception):
    """A kept connection turned out to be closed, and nothing of an answer had come."""


class BlockingHttp:
    """A server's connections, shared by any number of threads."""

    def __init__(
        self, address: HttpAddress, retries: int, headers: Mapping[str, str], ssl_context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._steps = PredictSteps(retries)
        self._headers = headers
        self._ssl_context = ssl_context
        self._idle: deque[_Connection] = deque()  # append and pop are atomic
        self._closed = False

    def predict(self, call: Call) -> Outputs:
        return self._run(self._steps.predict(call), call.deadline)

    def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]:
        return self._run(metadata_steps(model, version), deadline)

    def ready(self, model: str | None, version: str | None, deadline: float) -> bool:
        try:
            return self._run(ready_steps(model, version), deadline)
        except (ServerUnreachable, DeadlineExceeded):
            return False

    def close(self) -> None:
        """Close what is idle; connections in use are closed when their answer is there."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _run(self, steps: Steps[T], deadline: float) -> T:
        """Drive `steps` to their value. Raises ServerUnreachable, DeadlineExceeded and what the steps raise."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(self._exchange(step, deadline))
        except StopIteration as done:
            value: T = done.value
            return value

    def _exchange(self, request: HttpRequest, deadline: float) -> Response:
        head = request_head(
            request.method,
            self._address.prefix + request.target,
            self._address.authority,
            {**self._headers, **request.headers},
            sum(map(len, request.parts)),
        )
        lost = False
        while True:
            try:
                connection = self._kept() or self._connect(deadline)
            except ServerUnreachable as error:
                raise (after_loss(self._address) if lost else error) from error.__cause__
            try:
                response = connection.exchange(head, request.parts, deadline + ANSWER_GRACE_S)
            except StaleConnection:
                lost = True  # the next one is kept and sound, or fresh
            except BaseException:
                connection.close()
                raise
            else:
                self._keep(connection, response.reusable)
                return response

    def _kept(self) -> _Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection, reusable: bool) -> None:
        if reusable and not self._closed and len(self._idle) < IDLE_MAX:
            connection.kept = True
            self._idle.append(connection)
        else:
            connection.close()

    def _connect(self, deadline: float) -> _Connection:
        address = self._address
        for attempt in count(1):
            left_s = _left_s(deadline)
            try:
                sock = socket.create_connection((address.host, address.port), timeout=left_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Connection(self._secured(sock) if address.secure else sock, address)
            except TimeoutError as error:
                raise unreachable(address, error) from error
            except ConnectionRefusedError as error:
                pause_s = CONNECT_PAUSE_S * attempt
                if attempt >= CONNECT_TRIES or pause_s >= left_s:
                    raise unreachable(address, error) from error
                time.sleep(pause_s)
            except OSError as error:
                raise unreachable(address, error) from error
        raise AssertionError("the loop ends by return or raise")

    def _secured(self, sock: socket.socket) -> socket.socket:
        try:
            return secure_context(self._ssl_context).wrap_socket(sock, server_hostname=self._address.host)
        except BaseException:
            sock.close()
            raise


class _Connection:
    """One connection: one exchange at a time."""

    def __init__(self, sock: socket.socket, address: HttpAddress) -> None:
        self.kept = False
        self._socket = sock
        self._address = address
        self._parser = ResponseParser()

    def is_quiet(self) -> bool:
        """False if the server closed it, or sent what nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, head: bytes, parts: tuple[Buffer, ...], until: float) -> Response:
        """Send and wait for the whole answer. Raises StaleConnection, ServerUnreachable, DeadlineExceeded."""
        try:
            self._send(head, parts, until)
        except TimeoutError as error:
            raise DeadlineExceeded("the server did not take the request within the time-out") from error
        except OSError:
            pass  # it may have refused the request unread: its answer then waits, or the receive says why not
        return self._receive(until)

    def close(self) -> None:
        self._socket.close()

    def _send(self, head: bytes, parts: tuple[Buffer, ...], until: float) -> None:
        small = [head]
        self._socket.settimeout(_left_s(until))
        for part in parts:
            if len(part) > _RECEIVE_BYTES:
                self._socket.sendall(b"".join(small))
                self._socket.sendall(part)
                small = []
            else:
                small.append(bytes(part))
        if small:
            self._socket.sendall(b"".join(small))

    def _receive(self, until: float) -> Response:
        while True:
            try:
                self._socket.settimeout(_left_s(until))
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as error:
                raise DeadlineExceeded("the server did not answer within the time-out") from error
            except OSError as error:
                raise self._broken(error) from error
            if not data:
                response = self._parser.feed_eof()
                if response is None:
                    raise self._broken(None)
                return response
            response = self._parser.feed(data)
            if response is not None:
                return response

    def _broken(self, error: OSError | None) -> Exception:
        if self.kept and not self._parser.started:
            self.close()
            return StaleConnection()
        return closed_early(self._address, error)


def unreachable(address: HttpAddress, error: OSError) -> ServerUnreachable:
    """No connection could be made."""
    return ServerUnreachable(
        f"no server at {address.authority} ({_reason(error)}). Is it running (paceline status), and is the url right?"
    )


def closed_early(address: HttpAddress, error: OSError | None) -> ServerUnreachable:
    """The connection broke while an answer was due."""
    reason = f" ({_reason(error)})" if error is not None else ""
    return ServerUnreachable(
        f"the connection to the server at {address.authority} was lost before its answer was complete{reason}; "
        f"whether the request ran is unknown"
    )


def after_loss(address: HttpAddress) -> ServerUnreachable:
    """A kept connection broke under a request, and no other can be made."""
    return ServerUnreachable(
        f"the connection to the server at {address.authority} was lost while the request was sent, and nobody answers "
        f"there now; whether the request ran is unknown. Did the server stop (paceline status)?"
    )


def secure_context(given: ssl.SSLContext | None) -> ssl.SSLContext:
    import ssl  # 10 ms that plain http need not pay

    return given if given is not None else ssl.create_default_context()


def _reason(error: OSError) -> str:
    """The system's own words: asyncio puts others in their place."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return error.strerror or str(error) or "timed out"


def _left_s(until: float) -> float:
    left = until - SystemClock.now()
    if left <= 0:
        raise DeadlineExceeded("the server did not answer within the time-out")
    return left
