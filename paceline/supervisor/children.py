"""Starting processes and holding on to them: one Child per spawned process, with all its descriptors.

Spawned with subprocess, never forked: its own session (the terminal's Ctrl-C reaches only us, its whole group can be
killed), its spec in an unlinked file that it inherits (unlike a pipe it takes any size without a reader), a lifeline
pipe whose end it sees when we die, one pipe for all that it prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from paceline.supervisor.output import Output
from paceline.supervisor.signals import HAS_PIDFD


@dataclass(frozen=True, slots=True)
class Launch:
    """How one process starts. `spec(lifeline_fd)` gives the bytes of its spec, whose descriptor is its last argument.
    `environ` is laid over ours. `fds` are inherited under their own numbers."""

    program: Sequence[str]
    spec: Callable[[int], bytes]
    scratch: Path
    environ: Mapping[str, str]
    fds: tuple[int, ...] = ()


class Child:
    """A process of ours, from spawn to burial."""

    def __init__(self, process: subprocess.Popen[bytes], output: Output, lifeline: int) -> None:
        self.pid = process.pid
        self.output = output
        self.exit_fd = _exit_fd(process.pid)
        self._process = process
        self._lifeline = lifeline

    @classmethod
    def spawn(cls, launch: Launch) -> Child:
        """Start it. Raises OSError (no memory, no processes, no such program)."""
        with ExitStack() as undo, tempfile.TemporaryFile(dir=launch.scratch) as spec_file:
            lifeline, ours = _pipe(undo)
            output, theirs = _pipe(undo)
            spec_file.write(launch.spec(lifeline))
            spec_file.seek(0)
            process = subprocess.Popen(
                [*launch.program, str(spec_file.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **launch.environ},
                pass_fds=(spec_file.fileno(), lifeline, *launch.fds),
                start_new_session=True,
            )
            undo.pop_all()
        os.close(lifeline)
        os.close(theirs)
        return cls(process, Output(output), ours)

    def has_exited(self) -> bool:
        """Whether it is dead. It stays a zombie until `bury`, so that its number is not given to another process."""
        if not hasattr(os, "waitid"):
            return self._process.poll() is not None
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return found is not None

    def kill(self) -> None:
        """SIGKILL for it and whatever it started. No effect on a dead one."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def dump_stacks(self) -> bool:
        """Have it print the Python stacks of its threads (SIGUSR1, by faulthandler), if it has taken care of that."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
            caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
            if not caught >> (signal.SIGUSR1 - 1) & 1:
                return False
            os.kill(self.pid, signal.SIGUSR1)
        except (OSError, StopIteration):
            return False
        return True

    def bury(self, patience_s: float | None = None) -> int:
        """Reap it, with what it left in its process group, and close all descriptors. Its return code, as subprocess
        tells it; -SIGKILL if it is not dead after `patience_s`."""
        self.kill()
        returncode = -int(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            returncode = self._process.wait(patience_s)
        self.output.close()
        os.close(self._lifeline)
        if self.exit_fd >= 0:
            os.close(self.exit_fd)
        return returncode


def _exit_fd(pid: int) -> int:
    """A descriptor that is readable once `pid` is dead; -1 where there is none, and `has_exited` must be asked."""
    if HAS_PIDFD:
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return -1


def _pipe(undo: ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    undo.callback(os.close, read)
    undo.callback(os.close, write)
    return read, write
