"""What an API function may know and set beside its argument: the request, the response, and the service's state.

A function gets it by naming a parameter `ctx: paceline.Context`; hooks get one without a request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from paceline.protocol.errors import ModelError

if TYPE_CHECKING:
    from starlette.datastructures import MutableHeaders
    from starlette.requests import Request
    from starlette.responses import Response

_BODILESS = (204, 304)
_BREAKS = re.compile(rb"[\r\n\0]")


class Context:
    """One request's context.

    - `ctx.request`: starlette's Request: `.headers`, `.query_params`, `.cookies`, `.client`, `.url`. Its body has been
      read.
    - `ctx.response`: `.status_code` (200 unless set), `.headers`, `.set_cookie(...)`.
    - `ctx.request_id`: the id of the log and of error bodies.
    - `ctx.state`: a dict of the service in this process, for what `on_startup` hooks made.

    Example::

        @svc.api
        async def predict(x: np.ndarray, ctx: paceline.Context) -> np.ndarray:
            ctx.response.headers["x-model"] = "v3"
            return await runner.async_run(x)
    """

    __slots__ = ("_request", "_response", "request_id", "state")

    def __init__(self, state: dict[str, Any], request: Request | None = None, request_id: str = "") -> None:
        self.state = state
        self.request_id = request_id
        self._request = request
        self._response: ResponseSettings | None = None

    @property
    def request(self) -> Request:
        """Raises RuntimeError in a hook, where there is none."""
        if self._request is None:
            raise RuntimeError("a hook has no request; its context has only the state")
        return self._request

    @property
    def response(self) -> ResponseSettings:
        """Made when first asked for: most functions set nothing."""
        if self._response is None:
            from starlette.responses import Response

            self._response = ResponseSettings(Response())
        return self._response

    def apply(self, response: Response) -> None:
        """What the function set, on its response. Called by the service."""
        if self._response is not None:
            self._response.apply(response)


class ResponseSettings:
    """What a function sets of its response. `carrier` is never sent: it holds headers and cookies until then."""

    __slots__ = ("_carrier", "status_code")

    def __init__(self, carrier: Response) -> None:
        carrier.raw_headers.clear()
        self._carrier = carrier
        self.status_code = 200

    @property
    def headers(self) -> MutableHeaders:
        return self._carrier.headers

    def set_cookie(self, key: str, value: str = "", **options: Any) -> None:
        """As starlette's: max_age, expires, path, domain, secure, httponly, samesite."""
        self._carrier.set_cookie(key, value, **options)

    def apply(self, response: Response) -> None:
        """Raises ModelError for a header that cannot be sent."""
        own = self._carrier.raw_headers
        for name, value in own:
            if _BREAKS.search(name) or _BREAKS.search(value):
                # Else whoever gave the value could write headers of their own, or a whole response.
                raise ModelError(
                    f"the response header {name.decode('latin-1')!r} has a line break, which none can hold"
                )
        names = {name for name, _ in own}
        if self.status_code in _BODILESS and hasattr(response, "body"):
            names |= {b"content-length", b"content-type"}
            response.body = b""
        response.status_code = self.status_code
        response.raw_headers[:] = [header for header in response.raw_headers if header[0] not in names] + own
