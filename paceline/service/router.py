"""The routes of one service as an ASGI application: its APIs, its documentation, what is mounted, and 404 or 405."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.routing import Match, Mount

from paceline.protocol.errors import RequestError, StartError, did_you_mean
from paceline.service.docs_page import DOCS, OPENAPI
from paceline.service.replies import body_reply, error_reply, new_request_id, request_id_of

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

# What the server answers itself, before a service is asked; and the documentation.
_RESERVED = ("/v2", "/metrics", DOCS, OPENAPI)


class Router:
    """`apis`: by route, each answers POST. `pages`: by route, each makes the answer to a GET. `mounts`: by path."""

    def __init__(
        self, apis: Mapping[str, ASGIApp], pages: Mapping[str, Callable[[], Response]], mounts: Mapping[str, ASGIApp]
    ) -> None:
        self._apis = apis
        self._pages = pages
        # The longest path is the most special one.
        self._mounts = [Mount(path, app=mounts[path]) for path in sorted(mounts, key=len, reverse=True)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only http is spoken here, not {scope['type']}")
        path = scope["path"]
        route = path.rstrip("/") or "/"
        allowed: tuple[str, ...]
        app: ASGIApp
        if route in self._apis:
            allowed, app = ("POST",), self._apis[route]
        elif route in self._pages:
            allowed, app = ("GET", "HEAD"), self._pages[route]()
        else:
            await self._elsewhere(scope, receive, send)
            return
        await (app if scope["method"] in allowed else _not_allowed(scope, allowed))(scope, receive, send)

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        for mount in self._mounts:
            match, inner = mount.matches(scope)
            if match is Match.FULL:
                await mount.handle({**scope, **inner}, receive, send)
                return
        path = scope["path"][:256]
        hint = did_you_mean(path, self._apis) or f" {DOCS} lists what there is."
        await _refusal(scope, 404, "path_not_found", f"no such path: {path}.{hint}")(scope, receive, send)


def check_route(route: str, what: str, taken: Iterable[str]) -> None:
    """Raises StartError for a route that somebody else answers."""
    for reserved in _RESERVED:
        if route == reserved or route.startswith(f"{reserved}/"):
            raise StartError(f"the route {route} of {what} is the server's own ({reserved}); say another with route=")
    if route in taken:
        raise StartError(f"the route {route} of {what} is taken already; say another with route=")


def _not_allowed(scope: Scope, allowed: tuple[str, ...]) -> Response:
    names = ", ".join(allowed)
    reply = _refusal(scope, 405, "method_not_allowed", f"{scope['method']} is not allowed here, expected {names}")
    reply.headers["allow"] = names
    return reply


def _refusal(scope: Scope, status: int, code: str, message: str) -> Response:
    try:
        return body_reply(status, message, code, request_id_of(Headers(scope=scope)))
    except RequestError as error:  # the client's own id is none
        return error_reply(error, new_request_id())
