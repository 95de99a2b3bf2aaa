"""The Python files below a folder, and which of them changed: what `--reload` watches.

By polling, with times and sizes: nothing to install, and it works on every file system. Called by the supervisor.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.5
FILES_MAX = 5000
FOLDERS_MAX = 2000
_NOT_THEIRS = ("__pycache__", "node_modules", "site-packages")
_ENVIRONMENT = "pyvenv.cfg"


class Sources:
    """Files as they were when last looked at, which the first time is now."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen = self._look()

    def changes(self) -> tuple[str, ...]:
        """The files that came, went or changed since the last call, below the folder."""
        before, self._seen = self._seen, self._look()
        names = sorted(before.keys() | self._seen.keys())
        return tuple(name for name in names if before.get(name) != self._seen.get(name))

    def _look(self) -> dict[str, tuple[int, int]]:
        seen = {}
        for path in self._files():
            try:
                stat = path.stat()
            except OSError:
                continue  # it went meanwhile
            seen[str(path.relative_to(self._folder))] = (stat.st_mtime_ns, stat.st_size)
            if len(seen) == FILES_MAX:
                break
        return seen

    def _files(self) -> Iterator[Path]:
        for root, folders, files in itertools.islice(os.walk(self._folder), FOLDERS_MAX):
            if _ENVIRONMENT in files:
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if name not in _NOT_THEIRS and not name.startswith("."))
            yield from (Path(root, name) for name in sorted(files) if name.endswith(".py"))
