"""What children print: read from their pipes, tagged and passed on to our stderr, the last lines kept for an obituary.

Never blocks: while nobody reads our stderr, lines are dropped and counted.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

LAST_LINES = 20
LINE_BYTES_MAX = 2048
_READ_BYTES = 65_536
# A pipe that select calls writable takes this many bytes without blocking (PIPE_BUF).
_WRITE_BYTES = 4096


class Output:
    """The reading end of one child's stdout and stderr."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.open = True
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._partial = b""

    def read(self) -> list[str]:
        """Complete lines that came since the last call; at the end of file the rest too."""
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self.open = False
        return self._split(data)

    def read_rest(self) -> list[str]:
        """All that waits, the unfinished line too: for a dead child, whose own children may keep the pipe open."""
        lines = []
        for _ in range(16):
            before = len(self._partial)
            new = self.read()
            lines += new
            if not self.open or (not new and len(self._partial) == before):
                break
        self.open = False
        return lines + self._split(b"")

    def close(self) -> None:
        os.close(self.fd)

    def _split(self, data: bytes) -> list[str]:
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_BYTES_MAX or (self._partial and not self.open):
            lines.append(self._partial)
            self._partial = b""
        texts = [line[:LINE_BYTES_MAX].decode(errors="replace").rstrip("\r") for line in lines]
        self.last_lines.extend(texts)
        return texts


class Forwarder:
    """Our stderr, for children's lines, each with the time (UTC) and the process it came from."""

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._dropped = 0

    def pass_on(self, tag: str, lines: Iterable[str]) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for line in lines:
            if self._dropped and self._write(f"[paceline] {self._dropped} lines were dropped: stderr was full\n"):
                self._dropped = 0
            if not self._write(f"{stamp} [{tag}] {line}\n"):
                self._dropped += 1

    def _write(self, text: str) -> bool:
        data = text.encode(errors="replace")
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        try:
            if not poll.poll(0):
                return False
            os.write(self._fd, data[:_WRITE_BYTES])
        except OSError:
            return False
        return True
