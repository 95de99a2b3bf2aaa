"""The infer route: one `Exchange` per request, from its body to its answer, without a task or a future.

`InferRoute.begin` parses, checks and submits at once; the answer is delivered by Hosts, later, through the
exchange. Called by the protocol's lean cycle and, for any other ASGI server, by `App`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import orjson

from paceline.api_server.answer import Answer, error_answer
from paceline.api_server.model_path import ModelPath, parse_model_path
from paceline.api_server.oip_request import Call, Plan, RequestReader
from paceline.api_server.oip_response import ReplyWriter
from paceline.protocol import limits
from paceline.protocol.catalog import Catalog, ServedModel
from paceline.protocol.errors import Internal, InvalidInput, InvalidParameter, RequestError
from paceline.protocol.hosts import Hosts
from paceline.protocol.messages import Result
from paceline.protocol.spec import ServeSpec

logger = logging.getLogger(__name__)

Send: TypeAlias = Callable[[Answer], None]
Headers: TypeAlias = Mapping[bytes, bytes]

_TARGETS_MAX = 1024
_REPARSE_BYTES_MAX = 64 * 1024


class Target:
    """Where one infer URL leads: a served model with its reader and writer, or the error that it is none."""

    __slots__ = ("default_budget_s", "error", "model", "reader", "writer")

    def __init__(self, model: ServedModel | None, error: RequestError | None, rows_max: int) -> None:
        self.model = model
        self.error = error
        if model is not None:
            self.reader = RequestReader(model, rows_max)
            self.writer = ReplyWriter(model)
            self.default_budget_s = model.spec.latency_budget_ms / 1e3


class RequestIds:
    """Ids for requests that bring none: unique by process start and count."""

    def __init__(self, incarnation: bytes) -> None:
        self._prefix = incarnation[1:7].hex().encode() + b"-"
        self._count = 0

    def next(self) -> bytes:
        self._count += 1
        return b"%s%x" % (self._prefix, self._count)

    def of(self, headers: Headers) -> bytes:
        """The client's `x-request-id`, or a new one. Raises InvalidParameter."""
        given = headers.get(b"x-request-id")
        if given is None:
            return self.next()
        if not given or len(given) > limits.REQUEST_ID_CHARS_MAX or not given.isascii():
            raise _bad_request_id()
        if not given.isalnum() and (given.translate(None, _VISIBLE) != b""):
            raise _bad_request_id()
        return given


_VISIBLE = bytes(range(0x21, 0x7F))


class InferRoute:
    """See the module. `begin` never raises; each request gets exactly one answer through its `send`."""

    def __init__(self, serve: ServeSpec, catalog: Catalog, hosts: Hosts, ids: RequestIds) -> None:
        self._catalog = catalog
        self._hosts = hosts
        self._ids = ids
        self._rows_max = serve.http.rows_max
        self._timeout_max_s = serve.http.timeout_max_ms / 1e3
        self._targets: dict[bytes, Target] = {}
        self._by_model: dict[str, Target] = {}
        self.errors: dict[str, int] = {}

    def target(self, url: bytes) -> Target | None:
        """Where the request target `url` leads, None if it is not an infer URL."""
        known = self._targets.get(url)
        if known is not None:
            return known
        path = parse_model_path(url.partition(b"?")[0].decode("latin-1"))
        if path is None or path.verb != "infer":
            return None
        target = self._resolve(path)
        if target.error is None and len(self._targets) < _TARGETS_MAX:
            self._targets[url] = target
        return target

    def _resolve(self, path: ModelPath) -> Target:
        try:
            model = self._catalog.find(path.name, path.version)
        except RequestError as error:
            return Target(None, error, self._rows_max)
        known = self._by_model.get(model.spec.name)
        if known is None:
            known = self._by_model[model.spec.name] = Target(model, None, self._rows_max)
        return known

    def begin(self, target: Target, headers: Headers, body: bytes | bytearray, send: Send) -> Exchange:
        """Take one whole request; `send` gets its answer, perhaps before this returns."""
        exchange = Exchange(self, target, send)
        try:
            exchange.request_id = self._ids.of(headers)
            self._submit(exchange, target, headers, body)
        except RequestError as error:
            exchange.request_id = exchange.request_id or self._ids.next()
            exchange.client_id = _client_id(headers, body)
            exchange.failed(error)
        except Exception:  # the per-request edge: a bug of ours answers one request and is logged
            logger.exception("infer request failed", extra={"request_id": exchange.request_id.decode()})
            exchange.failed(Internal("the server failed on this request; its log names the request id"))
        return exchange

    def _submit(self, exchange: Exchange, target: Target, headers: Headers, body: bytes | bytearray) -> None:
        if target.model is None:
            assert target.error is not None
            raise target.error
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise InvalidInput(f"content-encoding {encoding[:32].decode('latin-1')!r} is not accepted; send identity")
        call = target.reader.read(body, headers.get(b"inference-header-content-length"))
        plan = call.plan
        exchange.call = call
        exchange.client_id = plan.client_id
        exchange.counter = self._hosts.submit(
            target.model.spec.name,
            plan.method,
            call.args,
            call.kwargs,
            measured=plan.binding.measured,
            nbytes=call.nbytes,
            budget_s=self._budget_s(target, plan, headers.get(b"x-request-timeout-ms")),
            priority=plan.priority,
            request_id=exchange.request_id.decode(),
            traceparent=headers.get(b"traceparent", b"").decode("latin-1")[:64],
            waiter=exchange,
        )

    def _budget_s(self, target: Target, plan: Plan, header: bytes | None) -> float:
        timeout_s = plan.timeout_s
        if header is not None:
            of_header = _milliseconds(header) / 1e3
            timeout_s = of_header if timeout_s is None else min(timeout_s, of_header)
        if timeout_s is None:
            budget_ms = plan.method.latency_budget_ms
            timeout_s = target.default_budget_s if budget_ms is None else budget_ms / 1e3
        return min(timeout_s, self._timeout_max_s)

    def abandon(self, counter: int) -> None:
        self._hosts.cancel(counter)


class Exchange:
    """One infer request on its way: a Waiter of Hosts."""

    __slots__ = ("_route", "_send", "_target", "call", "client_id", "counter", "request_id")

    def __init__(self, route: InferRoute, target: Target, send: Send) -> None:
        self._route = route
        self._target = target
        self._send = send
        self.call: Call | None = None
        self.client_id: str | None = None
        self.counter = 0
        self.request_id = b""

    def answered(self, result: Result) -> None:
        call = self.call
        assert call is not None
        try:
            answer = self._target.writer.write(call.plan.form, result, self.client_id, self.request_id)
        except RequestError as error:
            self.failed(error)
            return
        except Exception:  # the per-request edge: a bug of ours answers one request and is logged
            logger.exception("infer reply failed", extra={"request_id": self.request_id.decode()})
            self.failed(Internal("the server failed on this result; its log names the request id"))
            return
        self._send(answer)

    def failed(self, error: RequestError) -> None:
        errors = self._route.errors
        errors[error.code] = errors.get(error.code, 0) + 1
        self._send(error_answer(error, self.request_id, self.client_id))

    def abandon(self) -> None:
        """The client is gone."""
        self._route.abandon(self.counter)


def _milliseconds(header: bytes) -> float:
    try:
        value = float(header)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidParameter(
            f"x-request-timeout-ms is {header[:32].decode('latin-1')!r}, expected a number of milliseconds > 0"
        )
    return value


def _client_id(headers: Headers, body: bytes | bytearray) -> str | None:
    """The OIP id of a refused request, where it can be read: parsed again, since errors are rare."""
    length = headers.get(b"inference-header-content-length", b"")
    head = body[: int(length)] if length.isdigit() and len(length) < 18 else body
    if len(head) > _REPARSE_BYTES_MAX:
        return None
    try:
        request = orjson.loads(head)
    except (orjson.JSONDecodeError, ValueError):
        return None
    client_id = request.get("id") if isinstance(request, dict) else None
    return client_id if isinstance(client_id, str) and len(client_id) <= limits.REQUEST_ID_CHARS_MAX else None


def _bad_request_id() -> InvalidParameter:
    return InvalidParameter(
        f"x-request-id is not 1 to {limits.REQUEST_ID_CHARS_MAX} visible ASCII characters; leave it out to get one"
    )
