"""One native connection to one server: its control socket, its ServeSpec, and the dispatch hosts behind it.

Lives in one event loop. While requests are open it looks for signs of life: a server that is silent for LOST_S, or that
another one with other models has replaced, is given up, and all that was open fails. Called by the native clients.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path

from paceline.client.errors import ServerUnreachable
from paceline.client.native_call import NativeCalls
from paceline.protocol import control
from paceline.protocol.channel import AsyncSocket, Channels, ClientSocket, fresh_incarnation, ipc_address
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Hello, Topology, Welcome
from paceline.protocol.errors import NoWorker, ProtocolError
from paceline.protocol.hosts import Hosts
from paceline.protocol.spec import decode_serve
from paceline.protocol.tensor import Buffer

CONTROL_SOCKET = "control.sock"
KNOCK_S = 1.0
LOST_S = 5.0


class NativeLink:
    """Open one with `open_link`. `usable` turns False when new requests need another link."""

    def __init__(self, run_dir: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.usable = True
        self.hosts: Hosts
        self.calls: NativeCalls
        self._run_dir = run_dir
        self._incarnation = fresh_incarnation()
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
        self._control = self._connect(ipc_address(run_dir / CONTROL_SOCKET), self._on_control)

    async def wait_open(self, timeout_s: float) -> None:
        """Say Hello and wait for the answer. Raises ServerUnreachable."""
        self._hello()
        try:
            async with asyncio.timeout(timeout_s):
                await self._opened
        except TimeoutError as error:
            raise ServerUnreachable(
                f"the server of {self._run_dir} did not answer within {timeout_s:.1f} s; see: paceline status"
            ) from error
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
            self.hosts = Hosts(spec, self._incarnation, self.loop, self._connect_host)
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

    def _connect(self, address: str, on_message: Callable[[list[Buffer]], None]) -> AsyncSocket:
        self._sockets -= {known for known in self._sockets if known.zmq.closed}
        socket = self._channels.connect(address, self._incarnation)
        self._sockets.add(socket)
        return AsyncSocket(socket, self.loop, on_message)

    def _connect_host(self, address: str, on_message: Callable[[list[Buffer]], None]) -> AsyncSocket:
        """Whatever a host says counts as a sign of life."""

        def heard(parts: list[Buffer]) -> None:
            self._heard_at = SystemClock.now()
            on_message(parts)

        return self._connect(address, heard)

    def _look(self) -> None:
        """Every KNOCK_S: knock where nothing was heard for so long, give up after LOST_S."""
        self._watch = self.loop.call_later(KNOCK_S, self._look)
        silent_s = SystemClock.now() - self._heard_at
        if len(self.hosts) == 0:
            if not self.usable:
                self.close()
        elif silent_s > LOST_S:
            self._lose(f"the server of {self._run_dir} is silent since {silent_s:.0f} s")
        elif silent_s > KNOCK_S:
            self._hello()

    def _lose(self, reason: str) -> None:
        self.usable = False
        self.hosts.fail_all(reason, NoWorker)


async def open_link(run_dir: Path, timeout_s: float) -> NativeLink:
    """A link to the server of `run_dir`. Raises ServerUnreachable: none there, or it does not answer in time."""
    check_listening(run_dir)
    link = NativeLink(run_dir, asyncio.get_running_loop())
    try:
        await link.wait_open(min(timeout_s, LOST_S))
    except BaseException:
        link.close()
        raise
    return link


def _close_all(channels: Channels, sockets: set[ClientSocket]) -> None:
    for each in sockets:
        each.close()
    channels.close()


def check_listening(run_dir: Path) -> None:
    """Raise ServerUnreachable unless somebody listens in `run_dir`: ZeroMQ itself would wait for ever."""
    path = run_dir / CONTROL_SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(LOST_S)
            probe.connect(str(path))
    except OSError as error:
        raise ServerUnreachable(
            f"no server in {run_dir} ({error.strerror or error}). Is it running (paceline status), and is its run "
            f"directory the right one?"
        ) from error
