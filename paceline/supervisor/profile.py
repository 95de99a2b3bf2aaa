"""The other side of the control socket for `paceline profile`: asks for a trace and waits until it is there."""

from __future__ import annotations

from pathlib import Path

from paceline.protocol import channel, control
from paceline.protocol.channel import Channels, fresh_incarnation, ipc_address
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import ProfileDone, ProfileRequest
from paceline.protocol.errors import ERRORS_BY_CODE, PacelineError, StartError
from paceline.supervisor.run_dir import CONTROL, owner_of
from paceline.supervisor.status import no_server

# Beyond the seconds asked for: the first recording of a process loads the profiler, a batch may be running, and the
# trace is written.
PATIENCE_S = 60.0
_LOOK_S = 0.5


def fetch_profile(run_dir: Path, request: ProfileRequest, patience_s: float = PATIENCE_S) -> ProfileDone:
    """The trace that the server of `run_dir` had made; its file is the caller's to take.

    Raises StartError: no server lives there, it ends meanwhile, or does not answer in time; what the server refuses, as
    the error of its code (ModelNotFound, NoWorker, WorkerLost, ...) or PacelineError.
    """
    if owner_of(run_dir) is None:
        raise no_server(run_dir)
    deadline = SystemClock.now() + request.seconds + patience_s
    with Channels() as channels:
        socket = channels.connect(ipc_address(run_dir / CONTROL), fresh_incarnation())
        socket.send(control.encode(request))
        while (remaining_s := deadline - SystemClock.now()) > 0:
            channel.wait([socket], min(_LOOK_S, remaining_s))
            for parts in socket.drain():
                message = control.decode(parts)
                if isinstance(message, ProfileDone):
                    return _sound(message)
            if owner_of(run_dir) is None:
                raise StartError(f"the server in {run_dir} ended while it was being profiled")
    raise StartError(f"the server in {run_dir} did not answer within {request.seconds + patience_s:g} s")


def _sound(done: ProfileDone) -> ProfileDone:
    if done.error:
        raise ERRORS_BY_CODE.get(done.code, PacelineError)(done.error)
    return done
