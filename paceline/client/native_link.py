"""One native connection to one server: its control socket, its ServeSpec, and the dispatch hosts behind it.

Lives in one event loop. While requests are open it looks for signs of life: a server that is silent for LOST_S, or that
another one with other models has replaced, is given up, and all that was open fails. Called by the native clients.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable

from paceline.client.errors import ServerUnreachable
from paceline.client.native_call import NativeCalls
from paceline.client.native_route import Route
from paceline.protocol import control
from paceline.protocol.channel import AsyncSocket, Channels, ClientSocket
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Hello, Topology, Welcome
from paceline.protocol.errors import NoWorker, ProtocolError
from paceline.protocol.hosts import Hosts
from paceline.protocol.spec import decode_serve
from paceline.protocol.tensor import Buffer

KNOCK_S = 1.0
LOST_S = 5.0


class NativeLink:
    """Open one with `open_link`. `usable` turns False when new requests need another link."""

    def __init__(self, route: Route, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.usable = True
        self.hosts: Hosts
        self.calls: NativeCalls
        self._route = route
        self._incarnation = route.fresh_incarnation()
        self._channels = Channels()
        self._sockets: set[ClientSocket] = set()
        # For a client that nobody closes: ZeroMQ waits for ever for a socket that is garbage and not closed, so the
        # finalizer holds the sockets, and they close before their context. Not at exit: the loop may still run.
        self._finalizer = weakref.finalize(self, _close_all, self._channels, self._sockets)
        self._finalizer.atexit = False
        self._serve = b""
        self._heard_at = SystemClock.now()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        control_socket = route.connect_control(self._channels, self._incarnation)
        self._control = self._listen(control_socket, self._on_control)

    async def wait_open(self, timeout_s: float) -> None:
        """Say Hello and wait for the answer. Raises ServerUnreachable."""
        self._hello()
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened
        except TimeoutError as error:
            raise ServerUnreachable(self._route.no_answer(timeout_s)) from error
        self._watch = self.loop.call_later(KNOCK_S, self._look)

    def retire(self) -> None:
        """No new requests; it closes itself once the last answer is there."""
        self.usable = False
        if len(self.hosts) == 0:
            self.close()

    def close(self) -> None:
        """Close the sockets; what is still open fails."""
        self.usable = False
        if self._watch is not None:
            self._watch.cancel()
        if self._serve:
            self.hosts.fail_all("the client was closed", NoWorker)
            self.hosts.close()
        self._control.close()
        self._finalizer()

    def drop(self) -> None:
        """Close the sockets of a link whose loop is closed already."""
        self.usable = False
        self._finalizer()

    def _hello(self) -> None:
        self._control.send(control.encode(Hello("client", "", 0, self._incarnation, os.getpid())))

    def _on_control(self, parts: list[Buffer]) -> None:
        self._heard_at = SystemClock.now()
        try:
            message = control.decode(parts)
            if isinstance(message, Welcome):
                self._welcome(message.serve)
            elif isinstance(message, Topology) and self._serve:
                self._topology(message)
        except ProtocolError as error:
            if not self._opened.done():
                self._opened.set_exception(error)

    def _welcome(self, serve: bytes) -> None:
        if not self._serve:
            spec = decode_serve(serve)
            self._serve = serve
            self.calls = NativeCalls(spec)
            self.hosts = Hosts(spec, self._incarnation, self.loop, self._connect_host, as_sent=self._route.as_sent)
        elif serve == self._serve:
            self.hosts.restart()
        else:
            self._lose("the server was replaced by one that serves other models or settings")

    def _topology(self, topology: Topology) -> None:
        self.hosts.apply(topology)
        if topology.draining:
            self.usable = False
        if not self._opened.done():
            self._opened.set_result(None)

    def _listen(self, socket: ClientSocket, on_message: Callable[[list[Buffer]], None]) -> AsyncSocket:
        self._sockets -= {known for known in self._sockets if known.zmq.closed}
        self._sockets.add(socket)
        return AsyncSocket(socket, self.loop, on_message)

    def _connect_host(self, address: str, on_message: Callable[[list[Buffer]], None]) -> AsyncSocket:
        """Whatever a host says counts as a sign of life."""

        def heard(parts: list[Buffer]) -> None:
            self._heard_at = SystemClock.now()
            on_message(parts)

        return self._listen(self._route.connect_host(self._channels, address, self._incarnation), heard)

    def _look(self) -> None:
        """Every KNOCK_S: knock where nothing was heard for so long, give up after LOST_S."""
        self._watch = self.loop.call_later(KNOCK_S, self._look)
        silent_s = SystemClock.now() - self._heard_at
        if len(self.hosts) == 0:
            if not self.usable:
                self.close()
        elif silent_s > LOST_S:
            self._lose(f"{self._route.server} is silent since {silent_s:.0f} s")
        elif silent_s > KNOCK_S:
            self._hello()

    def _lose(self, reason: str) -> None:
        self.usable = False
        self.hosts.fail_all(reason, NoWorker)


async def open_link(route: Route, timeout_s: float) -> NativeLink:
    """A link to the server at the end of `route`. Raises ServerUnreachable: none there, or it does not answer."""
    until = SystemClock.now() + min(timeout_s, LOST_S)
    await route.probe(timeout_s)
    link = NativeLink(route, asyncio.get_running_loop())
    try:
        await link.wait_open(max(0.0, until - SystemClock.now()))
    except BaseException:
        link.close()
        raise
    return link


def _close_all(channels: Channels, sockets: set[ClientSocket]) -> None:
    for each in sockets:
        each.close()
    channels.close()
