"""Asks the inspector child what is to be served, while signals are heeded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from paceline.protocol import channel
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ProtocolError, StartError
from paceline.protocol.spec import ServeSpec, decode_serve
from paceline.supervisor import devices
from paceline.supervisor.children import Child, Launch
from paceline.supervisor.inspection import InspectReply, InspectRequest, decode_reply, encode_request
from paceline.supervisor.listeners import Listeners
from paceline.supervisor.obituary import Remains, reason_of
from paceline.supervisor.options import ServeOptions
from paceline.supervisor.output import Forwarder
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.signals import Signals

INSPECT_S = 120.0


def interview(options: ServeOptions, run_dir: RunDir, listeners: Listeners, signals: Signals) -> ServeSpec | None:
    """The ServeSpec of `options`; None if a stop signal came first. Raises StartError in the inspector's words."""
    reply = _ask(options, run_dir.path, listeners.port, signals)
    return None if reply is None else decode_serve(reply.serve)


def code_settings(options: ServeOptions) -> dict[str, dict[str, object]]:
    """What the service of `options` says of its runners' settings, by runner and key, for Config.origins; of models
    nothing. Main thread only. Raises StartError: in the inspector's words, or told to stop."""
    with Signals() as signals, tempfile.TemporaryDirectory() as scratch:
        reply = _ask(options, Path(scratch), options.config.server.port, signals)
    if reply is None:
        raise StartError("told to stop before the service was read")
    return reply.code


def _ask(options: ServeOptions, run_dir: Path, port: int, signals: Signals) -> InspectReply | None:
    reply_fd, reply_write = os.pipe()
    try:
        child = Child.spawn(_launch(options, run_dir, port, reply_write))
    except OSError as error:
        os.close(reply_fd)
        raise StartError(f"cannot start the inspector: {error.strerror or error}") from error
    finally:
        os.close(reply_write)
    try:
        data = _await_reply(child, reply_fd, signals)
    finally:
        os.close(reply_fd)
        Forwarder().pass_on("inspector", child.output.read_rest())
        returncode = child.bury()
    if data is None:
        return None
    try:
        reply = decode_reply(data)
    except ProtocolError as error:
        raise StartError(
            f"the inspector gave no answer: {reason_of(Remains(returncode))}; see its lines above"
        ) from error
    if reply.error:
        raise StartError(reply.error)
    return reply


def _launch(options: ServeOptions, run_dir: Path, port: int, reply_fd: int) -> Launch:
    def request(lifeline_fd: int) -> bytes:
        return encode_request(
            InspectRequest(
                targets=options.targets,
                folder=str(options.folder.absolute()),
                config=options.config.to_plain(),
                trust=options.trust,
                host=options.config.server.host,
                port=port,
                run_dir=str(run_dir),
                reply_fd=reply_fd,
                parent_pid=os.getpid(),
                lifeline_fd=lifeline_fd,
            )
        )

    program = options.programs.inspector
    return Launch(program, request, run_dir, devices.thread_variables(1), (reply_fd,))


def _await_reply(child: Child, reply_fd: int, signals: Signals) -> bytes | None:
    """All that the child wrote until it closed the pipe; None if a stop signal came first."""
    forwarder, data = Forwarder(), b""
    deadline = SystemClock.now() + INSPECT_S
    os.set_blocking(reply_fd, False)
    while (remaining_s := deadline - SystemClock.now()) > 0:
        output = [child.output.fd] if child.output.open else []
        channel.wait((), remaining_s, (reply_fd, signals.fd, *output))
        if signals.take():
            return None
        if output:
            forwarder.pass_on("inspector", child.output.read())
        try:
            piece = os.read(reply_fd, 65_536)
        except BlockingIOError:
            continue
        if not piece:
            return data
        data += piece
    raise StartError(f"reading the targets took longer than {INSPECT_S:g} s")
