"""The API server process: `python -m paceline.api_server.server FD`.

Adopts its spec, listens on the sockets that the supervisor opened, follows the supervisor's topology, and drains on
its word or on SIGTERM. Imports no torch and nothing of the runner.
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
from paceline.protocol import control, log
from paceline.protocol.catalog import Catalog
from paceline.protocol.channel import AsyncSocket, Channels
from paceline.protocol.child import adopt, beat_forever
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import ChildState, Drain, Hello, State, Topology
from paceline.protocol.errors import ProtocolError
from paceline.protocol.host_pipe import Connect, connector
from paceline.protocol.hosts import Hosts
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec, ServeSpec
from paceline.protocol.tensor import Buffer

logger = logging.getLogger(__name__)

SWEEP_S = 0.5
DRAIN_POLL_S = 0.02
DRAIN_LINGER_S = 0.5


class HttpServer:
    """The HTTP side of one process: hosts, routes and uvicorn, on given listening sockets. Also used by tests."""

    def __init__(
        self,
        serve: ServeSpec,
        incarnation: bytes,
        connect: Connect,
        sockets: list[socket.socket],
        bounds: HttpBounds | None = None,
        sweep_s: float = SWEEP_S,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.hosts = Hosts(serve, incarnation, loop, connect)
        catalog, ids = Catalog(serve), RequestIds(incarnation)
        self.route = InferRoute(serve, catalog, self.hosts, ids)
        self.front = Front(self.route, ids, bounds or HttpBounds(body_bytes=serve.http.body_bytes_max))
        self._app = App(catalog, self.hosts, self.route, ids, serve.http.body_bytes_max)
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
        while len(self.hosts) and SystemClock.now() < began_at + grace_s:
            await asyncio.sleep(DRAIN_POLL_S)
        self.hosts.fail_all("the server stopped before this request was answered; send it to another one")
        # A request may be on its way on a connection that was kept alive: it is told to go elsewhere, not reset.
        linger_s = min(DRAIN_LINGER_S, grace_s)
        while self.front.connections and SystemClock.now() < began_at + linger_s:
            await asyncio.sleep(DRAIN_POLL_S)

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
        self._draining: asyncio.Future[float]
        self._control: AsyncSocket
        self._http: HttpServer

    async def serve(self) -> None:
        """From start to the end of the drain."""
        spec = self._spec
        loop = asyncio.get_running_loop()
        self._draining = loop.create_future()
        beat_forever(self._slot)
        sockets = [socket.socket(fileno=fd) for fd in spec.socket_fds]
        connect = connector(self._channels, spec.incarnation, loop)
        self._http = HttpServer(spec.serve, spec.incarnation, connect, sockets)
        # Only sets what the loop waits for. SIGINT is ignored: what it means is the supervisor's to decide.
        loop.add_signal_handler(signal.SIGTERM, self._drain, spec.serve.http.drain_grace_s)
        self._control = AsyncSocket(
            self._channels.connect(spec.control_address, spec.incarnation), loop, self._control_message
        )
        self._say(Hello("api_server", "", spec.index, spec.incarnation, os.getpid()))
        await self._http.start()
        gc.collect()
        gc.freeze()
        self._say(ChildState(spec.incarnation, State.READY))
        logger.info("api server ready", extra={"index": spec.index})
        counting = asyncio.ensure_future(self._count())
        grace_s = await self._draining
        self._say(ChildState(spec.incarnation, State.DRAINING))
        await self._http.drain(grace_s)
        await self._http.stop()
        counting.cancel()
        self._control.close()

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
        elif isinstance(message, Drain):
            self._drain(message.grace_s)

    def _say(self, message: Hello | ChildState) -> None:
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
        runner.run(ApiServer(spec, channels).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
