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
from paceline.protocol.errors import StartError
from paceline.protocol.slot import Slot
from paceline.protocol.spec import ChildSpec, decode_child

_PR_SET_PDEATHSIG = 1
ORPHANED_EXIT = 86


def adopt(argv: list[str]) -> ChildSpec:
    """The ChildSpec from the descriptor that `argv[1]` names; from here on this process dies with its parent.

    Raises StartError if there is no such descriptor: somebody ran the module by hand.
    """
    try:
        with os.fdopen(int(argv[1]), "rb") as pipe:
            data = pipe.read()
    except (IndexError, ValueError, OSError) as error:
        raise StartError(
            f"{argv[0] if argv else 'this module'} got {argv[1:]!r}, expected the descriptor of a pipe with its spec; "
            f"the supervisor starts it: use `paceline serve`"
        ) from error
    spec = decode_child(data)
    die_with_parent(spec.parent_pid, spec.lifeline_fd)
    return spec


def die_with_parent(parent_pid: int, lifeline_fd: int) -> None:
    """SIGKILL on the parent's death, and exit at the lifeline's end of file."""
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
    # A parent that died before the line above sent no signal.
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
        while True:
            try:
                slot.beat(SystemClock.now_ns())
            except (ValueError, TypeError):  # the slot was closed: Python versions disagree on which
                return
            if stopped.wait(limits.HEARTBEAT_S):
                return

    threading.Thread(target=run, name="heartbeat", daemon=True).start()
    return stopped


def _exit_at_eof(fd: int) -> None:
    while os.read(fd, 1):
        pass
    os._exit(ORPHANED_EXIT)
