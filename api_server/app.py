"""The ASGI application: health, metadata and metrics by plain routing, the infer route for ASGI servers other than
our own protocol (which answers it without a task), and the user's service for every other path.

Called by uvicorn; knows no socket. Every error body is `{"error", "code", "request_id"}`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from paceline.api_server.answer import (
    Answer,
    HttpRefusal,
    empty_answer,
    error_answer,
    json_answer,
    refusal_answer,
)
from paceline.api_server.infer import InferRoute, RequestIds, Target
from paceline.api_server.metadata import server_metadata
from paceline.api_server.metrics import CONTENT_TYPE, exposition
from paceline.api_server.model_path import ModelPath, parse_model_path
from paceline.api_server.service_side import ServiceSide, send_answer
from paceline.protocol.catalog import Catalog, model_metadata
from paceline.protocol.errors import Internal, RequestError, TooLarge
from paceline.protocol.hosts import Hosts
from paceline.protocol.service_app import Message, Receive, Send

logger = logging.getLogger(__name__)

_GET = b"GET, HEAD"
_POST = b"POST"


class App:
    """See the module."""

    def __init__(
        self,
        catalog: Catalog,
        hosts: Hosts,
        route: InferRoute,
        ids: RequestIds,
        body_bytes_max: int,
        service: ServiceSide | None = None,
    ) -> None:
        self._catalog = catalog
        self._hosts = hosts
        self._route = route
        self._ids = ids
        self._body_bytes_max = body_bytes_max
        self._service = service
        self._pages: dict[str, Callable[[bytes], Answer]] = {
            "/v2": lambda request_id: json_answer(200, server_metadata(), request_id),
            "/v2/health/live": lambda request_id: empty_answer(200, request_id),
            "/v2/health/ready": lambda request_id: _readiness(hosts.all_ready(), request_id),
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only http is spoken here, not {scope['type']}")
        if self._service is not None and not _is_ours(scope["raw_path"]):
            await self._service(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["method"] == "POST":
            target = self._route.target(scope["raw_path"])
            if target is not None:
                await self._infer(target, headers, receive, send)
                return
        answer = self._answer(scope, headers)
        answer.close = answer.close or self._hosts.draining
        await send_answer(answer, send)

    def _answer(self, scope: Message, headers: dict[bytes, bytes]) -> Answer:
        request_id = b""
        try:
            request_id = self._ids.of(headers)
            return self._page(scope["method"], scope["raw_path"].decode("latin-1"), request_id)
        except RequestError as error:
            return error_answer(error, request_id or self._ids.next())
        except HttpRefusal as refusal:
            return refusal_answer(refusal, request_id, close=False)
        except Exception:  # the per-request edge: a bug of ours answers one request and is logged
            logger.exception("request failed", extra={"request_id": request_id.decode()})
            return error_answer(Internal("the server failed on this request"), request_id)

    def _page(self, method: str, path: str, request_id: bytes) -> Answer:
        page = self._pages.get(path.rstrip("/") or "/")
        if page is not None:
            _only(method, _GET)
            return page(request_id)
        model = parse_model_path(path)
        if model is None or model.verb not in ("", "ready", "infer"):
            raise HttpRefusal(404, "path_not_found", f"no such path: {path[:256]}")
        _only(method, _POST if model.verb == "infer" else _GET)
        return self._model_page(model, request_id)

    def _model_page(self, path: ModelPath, request_id: bytes) -> Answer:
        model = self._catalog.find(path.name, path.version)
        if path.verb == "ready":
            return _readiness(self._hosts.ready(model.spec.name), request_id)
        return json_answer(200, model_metadata(model), request_id)

    def _metrics(self, request_id: bytes) -> Answer:
        text = exposition(self._hosts, self._route.errors)
        headers = b"content-type: %s\r\ncontent-length: %d\r\n" % (CONTENT_TYPE, len(text))
        return Answer(200, headers, request_id, (text,))

    async def _infer(self, target: Target, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._body_bytes_max:
                error = TooLarge(f"the body is over the limit of {self._body_bytes_max} bytes")
                answer = error_answer(error, self._ids.next())
                answer.close = True
                await send_answer(answer, send)
                return
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        exchange = self._route.begin(target, headers, body, done.set_result)
        gone = asyncio.ensure_future(receive())
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if done.done():
            await send_answer(done.result(), send)
        else:
            exchange.abandon()


def _is_ours(path: bytes) -> bool:
    """Whether a path is answered here, whatever the service has. The inspector refuses services that want these."""
    path = path.rstrip(b"/")
    return path in (b"/v2", b"/metrics") or path.startswith(b"/v2/")


def _readiness(ready: bool, request_id: bytes) -> Answer:
    return empty_answer(200 if ready else 503, request_id)


def _only(method: str, allowed: bytes) -> None:
    names = allowed.decode().split(", ")
    if method not in names:
        raise HttpRefusal(
            405,
            "method_not_allowed",
            f"{method} is not allowed here, expected {allowed.decode()}",
            b"allow: %s\r\n" % allowed,
        )
