"""Signals as a readable descriptor, for loops that block in `channel.wait`: a handler sets a flag, this wakes the loop.

Python resumes an interrupted poll after the handler ran, so the flag alone would be seen only at the next message.
"""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Self


class SignalPipe:
    """While entered (in the main thread), a byte arrives at `fileno()` with every signal that has a Python handler."""

    def __init__(self) -> None:
        self._reader, self._writer = -1, -1
        self._before = -1

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._before)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._reader

    def drain(self) -> None:
        """Forget the bytes that came, so that the next wait blocks again."""
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            return
