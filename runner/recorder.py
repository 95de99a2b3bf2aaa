"""Records a dispatcher that serves: a Dispatcher that writes down its own calls, and the file it writes to.

The file costs a request nothing but the writing of its line: a thread of its own has the disk, and whatever goes wrong
there ends the recording with one warning and leaves the serving alone.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Iterable
from io import FileIO

from paceline.protocol import limits
from paceline.runner.dispatcher import Action, Dispatcher, DispatcherConfig, Event
from paceline.runner.recording import Header
from paceline.runner.scribe import Scribe, header_line

logger = logging.getLogger(__name__)

FLUSH_S = 0.5
CLOSE_S = 2.0  # a disk that hangs does not keep a process from ending


class RecordingFile:
    """Appends lines to a file. `write` never waits for the disk; close it to have everything there."""

    def __init__(
        self,
        path: str,
        bytes_max: int = limits.RECORD_BYTES_MAX,
        pending_bytes_max: int = limits.RECORD_PENDING_BYTES_MAX,
    ) -> None:
        """Raises OSError if the file cannot be written, or if another process records to it."""
        self.recording = True
        self._path = path
        self._file = open_to_append(path)
        self._left_bytes = bytes_max - os.fstat(self._file.fileno()).st_size
        self._pending_bytes_max = pending_bytes_max
        self._lines: deque[bytes] = deque()
        self._taken_bytes = 0
        self._written_bytes = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_behind, name="recording", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        if not self.recording:
            return
        size = len(line)
        if size > self._left_bytes:
            self._end("the file has reached its limit")
        elif self._taken_bytes - self._written_bytes > self._pending_bytes_max:
            self._end("the disk does not keep up")
        else:
            self._left_bytes -= size
            self._taken_bytes += size
            self._lines.append(line)

    def close(self) -> None:
        """Write the rest, for at most CLOSE_S."""
        atexit.unregister(self.close)
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _write_behind(self) -> None:
        with self._file:
            while not self._closing.wait(FLUSH_S):
                self._flush()
            self._flush()

    def _flush(self) -> None:
        data = memoryview(b"".join([self._lines.popleft() for _ in range(len(self._lines))]))
        try:
            while data:
                written = self._file.write(data) or 0
                self._written_bytes += written
                data = data[written:]
        except OSError as error:
            self._lines.clear()
            self._end(error.strerror or str(error))

    def _end(self, reason: str) -> None:
        if self.recording:
            self.recording = False
            logger.warning("recording ended", extra={"path": self._path, "reason": reason})


class RecordingDispatcher(Dispatcher):
    """A Dispatcher whose calls are written to `file`, all of them: one without an answer can move what it holds."""

    def __init__(self, config: DispatcherConfig, file: RecordingFile) -> None:
        super().__init__(config)
        self._file = file
        self._scribe = Scribe()

    def handle_all(self, events: Iterable[Event], now: float) -> list[Action]:
        if not self._file.recording:
            return super().handle_all(events, now)
        events = tuple(events)
        try:
            actions = super().handle_all(events, now)
        except ValueError:
            self._file.write(self._scribe.line(now, events, (), refused=True))
            raise
        self._file.write(self._scribe.line(now, events, actions))
        return actions


def recorded(path: str, header: Header) -> Dispatcher:
    """The dispatcher that `header` describes, recorded to `path`; one that is not, with a warning, where that cannot be
    written (it could when the server started)."""
    try:
        file = RecordingFile(path)
    except OSError as error:
        logger.warning("recording not begun", extra={"path": path, "reason": error.strerror or str(error)})
        return Dispatcher(header.config)
    file.write(header_line(header))
    return RecordingDispatcher(header.config, file)


def open_to_append(path: str) -> FileIO:
    """The file for this process alone, at the begin of a line. Raises OSError."""
    file = FileIO(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(file.fileno()).st_size
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")  # the process that wrote the last line was killed
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(error.errno, "another process records to it", path) from error
    except OSError:
        file.close()
        raise
    return file
