"""`Client` and `AsyncClient`: the same calls for threads and for asyncio, over HTTP or natively, by the URL.

    http://host:port    any server, binary tensors, keep-alive connections
    ipc://RUN_DIR       a server of this machine: straight to its workers, without HTTP
    tcp://host:port     the same from another machine, encrypted, with a key file that the server's owner made

They check arguments, keep the total time-out and pick the transport; what is sent and how is the transport's business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from paceline.client.address import HttpAddress, parse_address
from paceline.client.call import Call, Outputs, Prediction, check_timeout, make_call, single, split_model
from paceline.client.http1 import check_headers
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ConfigError

if TYPE_CHECKING:
    import ssl

RETRIES_MAX = 100

# A library speaks only where its user has set up logging.
logging.getLogger("paceline").addHandler(logging.NullHandler())


class BlockingTransport(Protocol):
    """Seam: how a Client reaches its server. Deadlines are seconds of the monotonic clock."""

    def predict(self, call: Call) -> Outputs: ...

    def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]: ...

    def ready(self, model: str | None, version: str | None, deadline: float) -> bool: ...

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """Seam: how an AsyncClient reaches its server."""

    async def predict(self, call: Call) -> Outputs: ...

    async def metadata(self, model: str, version: str | None, deadline: float) -> dict[str, object]: ...

    async def ready(self, model: str | None, version: str | None, deadline: float) -> bool: ...

    def close(self) -> None: ...


class Client:
    """A client for threads; any number of them may share one.

    url: `http://host:port`, `https://host:port`, `ipc://RUN_DIR` or `tcp://host:port`. timeout_s: total time-out of
    each call in seconds, which is the request's deadline at the server too; None: the model's own latency budget is its
    deadline, and an answer is waited for at most 30 s. retries: how often a refusal that says that a retry may help
    (429, 503) is tried again, honouring Retry-After and the time-out; 0 = not at all. headers: sent with every HTTP
    request. ssl_context: for https. key_file: for tcp, the file that `paceline keys client` made.
    Nothing is connected before the first call. Raises ConfigError for a wrong url or option.

    >>> with Client("http://127.0.0.1:8000") as client:
    ...     client.predict("digits", np.zeros((1, 3, 32, 32), np.float32)).shape
    (1, 10)
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout_s: float | None = None,
        *,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._waits_s = check_timeout(timeout_s)
        self._transport = _blocking(url, _check_retries(retries), headers, ssl_context, key_file)

    def predict(
        self,
        model: str,
        *arrays: object,
        method: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        **named: object,
    ) -> Prediction:
        """Call `method` of `model` (default: `__call__`, or the only one) and wait for its result.

        model: its name, or name:version as on the command line, which is the same as version=.
        arrays, named: the method's arguments by position and by name: numpy arrays and torch tensors of any shape and
        dtype the model takes, batch dim included, numbers, strings, nested lists of either. Plain numbers take the
        dtype the model declares, else float32, int64 or bool. timeout_s: as in the constructor, for this call.
        priority: lower is more urgent. request_id: echoed in logs and errors.

        Returns the output's array, or for several outputs a dict of arrays by name (`output_0`, ... or the model's
        keys). Arrays are writable and yours; BF16 is ml_dtypes.bfloat16 if that is installed, else float32; strings are
        object arrays of bytes. Raises RequestError by its kind (InvalidInput, ModelNotFound, QueueFull,
        DeadlineExceeded, ...), ServerUnreachable, ProtocolError.

        >>> client.predict("digits", image, timeout_s=0.5).argmax()
        7
        """
        call = make_call(
            model,
            arrays,
            named,
            method=method,
            version=version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            request_id=request_id,
        )
        return single(self._transport.predict(call))

    def predict_named(
        self,
        model: str,
        *arrays: object,
        method: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        **named: object,
    ) -> Outputs:
        """As predict, but always a dict of arrays by output name, also for one output."""
        call = make_call(
            model,
            arrays,
            named,
            method=method,
            version=version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            request_id=request_id,
        )
        return self._transport.predict(call)

    def metadata(self, model: str, version: str | int | None = None) -> dict[str, object]:
        """The model's metadata as the Open Inference Protocol has it: name, versions, platform, inputs, outputs.

        Raises ModelNotFound, VersionNotFound, DeadlineExceeded, ServerUnreachable.

        >>> client.metadata("digits")["inputs"][0]["name"]
        'x'
        """
        name, text = split_model(model, version)
        return self._transport.metadata(name, text, SystemClock.now() + self._waits_s)

    def ready(self, model: str | None = None) -> bool:
        """Whether the server (or one model of it) takes requests now; False also where no server answers."""
        name, version = (None, None) if model is None else split_model(model)
        return self._transport.ready(name, version, SystemClock.now() + self._waits_s)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """A client for asyncio: the same calls as `Client`, awaited, in one event loop.

    >>> async with AsyncClient("ipc:///home/me/.paceline/run/p8000") as client:
    ...     results = await asyncio.gather(*[client.predict("digits", image) for image in images])
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        timeout_s: float | None = None,
        *,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        key_file: str | Path | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._waits_s = check_timeout(timeout_s)
        self._transport = _asynchronous(url, _check_retries(retries), headers, ssl_context, key_file)

    async def predict(
        self,
        model: str,
        *arrays: object,
        method: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        **named: object,
    ) -> Prediction:
        """As Client.predict. Cancelling the awaiting task cancels the request."""
        call = make_call(
            model,
            arrays,
            named,
            method=method,
            version=version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            request_id=request_id,
        )
        return single(await self._transport.predict(call))

    async def predict_named(
        self,
        model: str,
        *arrays: object,
        method: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        priority: int = 0,
        request_id: str | None = None,
        **named: object,
    ) -> Outputs:
        """As Client.predict_named."""
        call = make_call(
            model,
            arrays,
            named,
            method=method,
            version=version,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            priority=priority,
            request_id=request_id,
        )
        return await self._transport.predict(call)

    async def metadata(self, model: str, version: str | int | None = None) -> dict[str, object]:
        """As Client.metadata."""
        name, text = split_model(model, version)
        return await self._transport.metadata(name, text, SystemClock.now() + self._waits_s)

    async def ready(self, model: str | None = None) -> bool:
        """As Client.ready."""
        name, version = (None, None) if model is None else split_model(model)
        return await self._transport.ready(name, version, SystemClock.now() + self._waits_s)

    async def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()


def _blocking(
    url: str,
    retries: int,
    headers: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
    key_file: str | Path | None,
) -> BlockingTransport:
    address = parse_address(url, key_file)
    if isinstance(address, HttpAddress):
        from paceline.client.http_blocking import BlockingHttp

        return BlockingHttp(address, retries, check_headers(headers or {}), ssl_context)
    from paceline.client.native_blocking import BlockingNative
    from paceline.client.native_route import route_to

    return BlockingNative(route_to(address), retries)


def _asynchronous(
    url: str,
    retries: int,
    headers: Mapping[str, str] | None,
    ssl_context: ssl.SSLContext | None,
    key_file: str | Path | None,
) -> AsyncTransport:
    address = parse_address(url, key_file)
    if isinstance(address, HttpAddress):
        from paceline.client.http_async import AsyncHttp

        return AsyncHttp(address, retries, check_headers(headers or {}), ssl_context)
    from paceline.client.native_async import AsyncNative
    from paceline.client.native_route import route_to

    return AsyncNative(route_to(address), retries)


def _check_retries(retries: object) -> int:
    if type(retries) is int and 0 <= retries <= RETRIES_MAX:
        return retries
    raise ConfigError(f"retries is {retries!r}, expected a whole number from 0 to {RETRIES_MAX}")
