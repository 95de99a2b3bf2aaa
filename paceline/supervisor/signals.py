"""Signals for a loop that waits on descriptors: handlers do nothing, the number arrives as a byte on a pipe.

SIGINT, SIGTERM and SIGHUP (a closed terminal; not under nohup) mean stop; SIGCHLD is only asked for where the kernel
has no pidfd.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HAS_PIDFD = hasattr(os, "pidfd_open")


class Signals:
    """Inside the `with`, `fd` is readable when a signal came and `take` gives the stop signals so far.

    Main thread only, as Python has it.
    """

    def __init__(self) -> None:
        self.fd = -1
        self._write_fd = -1
        self._before: dict[signal.Signals, object] = {}
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_fd, False)
        self._wakeup_before = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for each in STOP if HAS_PIDFD else (*STOP, signal.SIGCHLD):
            if each == signal.SIGHUP and signal.getsignal(each) == signal.SIG_IGN:
                continue
            self._before[each] = signal.signal(each, _nothing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]  # what signal.signal itself returned
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.fd)
        os.close(self._write_fd)

    def take(self) -> list[signal.Signals]:
        """The stop signals since the last call."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in STOP]


def _nothing(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has the number already."""
