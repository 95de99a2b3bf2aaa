"""What every spawned process does first: read its spec from an inherited pipe, die with its parent, beat.

Two ties to the parent: PDEATHSIG (Linux, at once, but bound to the thread that forked) and a lifeline pipe whose end
of file ends the process (everywhere). Called by worker, API server and inspector mains; knows nothing of their work.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

from paceline.protocol import limits
from paceline.protocol.clock import SystemClock
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec, decode_child

_PR_SET_PDEATHSIG = 1
ORPHANED_EXIT = 86


def adopt(argv: list[str]) -> ChildSpec:
    """The ChildSpec from the descriptor that `argv[1]` names; from here on this process dies with its parent."""
    with os.fdopen(int(argv[1]), "rb") as pipe:
        spec = decode_child(pipe.read())
    die_with_parent(spec.parent_pid, spec.lifeline_fd)
    return spec


def die_with_parent(parent_pid: int, lifeline_fd: int) -> None:
    """SIGKILL on the parent's death, and exit at the lifeline's end of file."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(ORPHANED_EXIT)
    os.set_inheritable(lifeline_fd, False)
    threading.Thread(target=_exit_at_eof, args=(lifeline_fd,), name="lifeline", daemon=True).start()


def beat_forever(slot: Slot) -> threading.Event:
    """Beat into `slot` every HEARTBEAT_S from a daemon thread; set the returned event to stop it.

    A held GIL or a stopped process shows as a stale beat.
    """
    stopped = threading.Event()

    def run() -> None:
        slot.beat(SystemClock.now_ns())
        while not stopped.wait(limits.HEARTBEAT_S):
            slot.beat(SystemClock.now_ns())

    threading.Thread(target=run, name="heartbeat", daemon=True).start()
    return stopped


def _exit_at_eof(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os._exit(ORPHANED_EXIT)
