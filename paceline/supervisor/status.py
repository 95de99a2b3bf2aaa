"""The other side of the control socket for `paceline status`: which servers live, and what one says of itself."""

from __future__ import annotations

from pathlib import Path

from paceline.protocol import channel, control
from paceline.protocol.channel import Channels, fresh_incarnation, ipc_address
from paceline.protocol.clock import SystemClock
from paceline.protocol.control import Status, StatusRequest
from paceline.protocol.errors import StartError
from paceline.supervisor.run_dir import CONTROL, owner_of


def live_run_dirs(home: Path) -> list[Path]:
    """The run directories below `home` that have a living server, sorted by name."""
    return sorted(path for path in (home / "run").glob("p*") if owner_of(path) is not None)


def no_server(run_dir: Path) -> StartError:
    """What to say where none lives."""
    return StartError(
        f"no server runs in {run_dir}; start one with `paceline serve`, or name its directory (--run-dir)"
    )


def fetch_status(run_dir: Path, timeout_s: float = 3.0) -> Status:
    """What the server of `run_dir` says. Raises StartError: no server lives there, or it does not answer in time."""
    pid = owner_of(run_dir)
    if pid is None:
        raise no_server(run_dir)
    deadline = SystemClock.now() + timeout_s
    with Channels() as channels:
        socket = channels.connect(ipc_address(run_dir / CONTROL), fresh_incarnation())
        socket.send(control.encode(StatusRequest()))
        while (remaining_s := deadline - SystemClock.now()) > 0:
            channel.wait([socket], remaining_s)
            for parts in socket.drain():
                message = control.decode(parts)
                if isinstance(message, Status):
                    return message
    raise StartError(f"the server with pid {pid} in {run_dir} did not answer within {timeout_s:g} s")
