"""The API server process: `python -m paceline.api_server.server FD`.

Adopts its spec, imports the user's service if there is one, listens on the sockets that the supervisor opened, follows
the supervisor's topology, and drains on its word or on SIGTERM. Imports no torch, unless the service does, and nothing
of the runner. Exit codes: 0 drained, 3 the service cannot be started.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
import uvloop

from paceline.api_server.app import App
from paceline.api_server.front import Front, HttpBounds
from paceline.api_server.http_protocol import HttpProtocol
from paceline.api_server.infer import InferRoute, RequestIds
from paceline.api_server.service_side import ServiceSide
from paceline.protocol import control, log
from paceline.protocol.catalog import Catalog
from paceline.protocol.channel import AsyncSocket, Channels
from paceline.protocol.child import adopt, beat_forever
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import ChildState, Drain, Hello, Seen, State, Topology
from paceline.protocol.errors import PacelineError, ProtocolError
from paceline.protocol.host_pipe import Connect, connector
from paceline.protocol.hosts import Hosts
from paceline.protocol.hosts_port import HostsPort
from paceline.protocol.service_app import ServiceApp
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec, ServeSpec
from paceline.protocol.target import import_service
from paceline.protocol.tensor import Buffer

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
DRAIN_POLL_S = 0.02
DRAIN_LINGER_S = 0.5
# The service's own shutdown gets what is left of the grace, and at least this long.
SHUTDOWN_S = 1.0
START_FAILED_EXIT = 3
_DETAIL_CHARS_MAX = 2000


class HttpServer:
    """The HTTP side of one process: hosts, routes, the user's service and uvicorn, on given listening sockets.
    Also used by tests."""

    def __init__(
        self,
        serve: ServeSpec,
        incarnation: bytes,
        connect: Connect,
        sockets: list[socket.socket],
        bounds: HttpBounds | None = None,
        sweep_s: float = SWEEP_S,
        service: ServiceApp | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.hosts = Hosts(serve, incarnation, loop, connect)
        catalog, ids = Catalog(serve), RequestIds(incarnation)
        self.route = InferRoute(serve, catalog, self.hosts, ids)
        self.front = Front(self.route, ids, bounds or HttpBounds(body_bytes=serve.http.body_bytes_max))
        self._side: ServiceSide | None = None
        if service is not None:
            service.bind(HostsPort(self.hosts, serve, loop))
            self._side = ServiceSide(service.asgi(), self.front, serve.http.pending_requests)
        self._app = App(catalog, self.hosts, self.route, ids, serve.http.body_bytes_max, self._side)
        self._sockets = sockets
        self._sweep_s = sweep_s
        self._sweeping: asyncio.TimerHandle | None = None
        self._uvicorn = uvicorn.Server(self._config())

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=functools.partial(HttpProtocol, front=self.front),  # type: ignore[arg-type]  # it only calls it
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=True,
        )

    async def start(self) -> None:
        """Accept connections."""
        config = self._uvicorn.config
        config.load()
        self._uvicorn.lifespan = config.lifespan_class(config)
        await self._uvicorn.startup(sockets=self._sockets)
        await self._uvicorn.on_tick(0)
        self._sweep()

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests, finish the open ones within `grace_s`, then answer the rest with `draining`."""
        self.hosts.draining = self.front.draining = True
        began_at = SystemClock.now()
        while len(self.hosts) + self.service_requests and SystemClock.now() < began_at + grace_s:
            await asyncio.sleep(DRAIN_POLL_S)
        self.hosts.fail_all("the server stopped before this request was answered; send it to another one")
        # A request may be on its way on a connection that was kept alive: it is told to go elsewhere, not reset.
        linger_s = min(DRAIN_LINGER_S, grace_s)
        while self.front.connections and SystemClock.now() < began_at + linger_s:
            await asyncio.sleep(DRAIN_POLL_S)

    @property
    def service_requests(self) -> int:
        """Those that the service has in hand."""
        return 0 if self._side is None else self._side.open

    async def stop(self) -> None:
        """Close the listening sockets and all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._uvicorn.config.timeout_graceful_shutdown = 2
        await self._uvicorn.shutdown(sockets=self._sockets)
        self.hosts.close()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = SystemClock.now()
        self.front.sweep(now)
        self._uvicorn.server_state.default_headers = [(b"date", self.front.date())]
        self._sweeping = loop.call_later(self._sweep_s, self._sweep)


class ApiServer:
    """The process around an HttpServer: control channel, slot, signals."""

    def __init__(self, spec: ChildSpec, channels: Channels) -> None:
        self._spec = spec
        self._channels = channels
        self._slot = Slot(Path(spec.slot_path))
        self._service: ServiceApp | None = None
        self._draining: asyncio.Future[float]
        self._control: AsyncSocket
        self._http: HttpServer

    async def serve(self) -> int:
        """From start to the end of the drain; the exit code."""
        loop = asyncio.get_running_loop()
        self._draining = loop.create_future()
        beat_forever(self._slot)
        self._control = AsyncSocket(
            self._channels.connect(self._spec.control_address, self._spec.incarnation), loop, self._control_message
        )
        self._say(Hello("api_server", "", self._spec.index, self._spec.incarnation, os.getpid()))
        try:
            await self._start(loop)
        except (Exception, SystemExit) as error:  # the service's own code runs here
            # Our own errors say all; where user code failed, its traceback does.
            trace = not isinstance(error, PacelineError)
            logger.error(
                "api server cannot start", extra={"index": self._spec.index, "error": str(error)}, exc_info=trace
            )
            self._say(ChildState(self._spec.incarnation, State.FAILED, _detail(error)))
            return START_FAILED_EXIT
        self._say(ChildState(self._spec.incarnation, State.READY))
        logger.info("api server ready", extra={"index": self._spec.index})
        counting = asyncio.ensure_future(self._count())
        grace_s = await self._draining
        self._say(ChildState(self._spec.incarnation, State.DRAINING))
        await self._end(grace_s)
        counting.cancel()
        self._control.close()
        return 0

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Import the service, run its startup, and accept connections."""
        spec = self._spec
        if spec.serve.service is not None:
            service = spec.serve.service
            self._service = import_service(service.target, service.folder, service.store_home)
        sockets = [socket.socket(fileno=fd) for fd in spec.socket_fds]
        connect = connector(self._channels, spec.incarnation, loop)
        self._http = HttpServer(spec.serve, spec.incarnation, connect, sockets, service=self._service)
        # Only sets what the loop waits for. SIGINT is ignored: what it means is the supervisor's to decide.
        loop.add_signal_handler(signal.SIGTERM, self._drain, spec.serve.http.drain_grace_s)
        if self._service is not None:
            await self._service.startup()
        await self._http.start()
        gc.collect()
        gc.freeze()

    async def _end(self, grace_s: float) -> None:
        """Drain, run the service's shutdown while its runners still answer, and close."""
        ends_at = SystemClock.now() + grace_s
        await self._http.drain(grace_s)
        if self._service is not None:
            try:
                async with asyncio.timeout(max(SHUTDOWN_S, ends_at - SystemClock.now())):
                    await self._service.shutdown()
            except Exception:  # the service's own code runs here, and the process ends all the same
                logger.exception("the service's shutdown failed", extra={"index": self._spec.index})
        await self._http.stop()

    def _drain(self, grace_s: float) -> None:
        self._http.hosts.draining = True
        if not self._draining.done():
            self._draining.set_result(grace_s)

    def _control_message(self, parts: list[Buffer]) -> None:
        try:
            message = control.decode(parts)
        except ProtocolError as error:
            logger.error("message from the supervisor is not readable: %s", error)
            return
        if isinstance(message, Topology):
            self._http.hosts.apply(message)
            self._say(Seen(message.version))
        elif isinstance(message, Drain):
            self._drain(message.grace_s)

    def _say(self, message: Hello | ChildState | Seen) -> None:
        self._control.send(control.encode(message))

    async def _count(self) -> None:
        while True:
            self._slot.count(self._http.hosts.counters.accepted, 0, 0)
            await asyncio.sleep(SWEEP_S)


def main() -> int:
    """The process main."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spec = adopt(sys.argv)
    log.configure()
    # Its lines are about single connections, and their clients' faults.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    with Channels() as channels, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(ApiServer(spec, channels).serve())


def _detail(error: BaseException) -> str:
    text = str(error) if isinstance(error, PacelineError) else f"{type(error).__name__}: {error}"
    return text[:_DETAIL_CHARS_MAX]


if __name__ == "__main__":
    sys.exit(main())
