"""The private run directory of one server: sockets and slots of its children, and the lock that says whose it is.

    lock              held by flock as long as the server lives; holds its pid, and whether a server made all this
    control.sock      children, native clients and `paceline status` speak to the supervisor here
    h-*, p-*, s-*     data sockets, pool sockets and slots of children, random names
    t-*               traces that nobody has taken away yet

ZeroMQ binds over a live socket silently, so the lock is taken before anything is bound. Only these names are ever
removed: the directory may be the user's own. Called by the supervisor and, for reading, by status.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from paceline.protocol import limits
from paceline.protocol.errors import StartError

LOCK, CONTROL = "lock", "control.sock"
_OURS = ("h-", "p-", "s-", "t-")
_NAME_BYTES = 34  # the longest name of a socket in it: "h-" and 32 hex digits
_TRIES_MAX = 100
_TAKES_MAX, _TAKE_AGAIN_S = 5, 0.01
_MADE = b"made\n"
_LOCK_BYTES_MAX = 64


def owner_of(path: Path) -> int | None:
    """The pid of the living server that owns the run directory `path`; None: there is none. 0: it cannot be told."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # A shared lock: two readers must not take each other for an owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid_in(fd)
    finally:
        os.close(fd)
    return None


@dataclass(slots=True)
class RunDir:
    """A run directory that is ours. `acquire` makes it; leaving the `with` removes what is in it and lets it go."""

    path: Path
    _lock_fd: int
    _made: bool

    @classmethod
    def acquire(cls, path: Path) -> RunDir:
        """Make or take over `path`, 0700, and clear what a dead owner left.

        Raises StartError: a living owner (names its pid), too long for sockets, not private, not writable.
        """
        path = Path(os.path.abspath(path))
        _check_length(path)
        for _ in range(_TRIES_MAX):
            made = _make(path)
            _check_private(path)
            lock_fd = _lock(path)
            if lock_fd is not None:
                run_dir = cls(path, lock_fd, _sign(lock_fd, made))
                run_dir._clear()
                return run_dir
        raise StartError(f"run directory {path} appears and disappears; choose another one (--run-dir)")

    @property
    def control(self) -> Path:
        return self.path / CONTROL

    def fresh_slot(self) -> Path:
        return self.path / f"s-{os.urandom(8).hex()}"

    def fresh_trace(self) -> Path:
        return self.path / f"t-{os.urandom(8).hex()}.json"

    def forget(self, file: Path) -> None:
        """Remove a dead child's socket or slot, or a trace, if it is one."""
        if file.parent == self.path and file.name.startswith(_OURS):
            file.unlink(missing_ok=True)

    def release(self) -> None:
        """Remove our files and the lock, then let go: whoever opened the lock meanwhile sees that it has no name."""
        self._clear()
        with contextlib.suppress(OSError):
            os.unlink(self.path / LOCK)
        if self._made:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)
        os.close(self._lock_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def _clear(self) -> None:
        for name in os.listdir(self.path):
            if name == CONTROL or name.startswith(_OURS):
                (self.path / name).unlink(missing_ok=True)


def _check_length(path: Path) -> None:
    size = len(os.fsencode(path)) + 1 + _NAME_BYTES
    if size > limits.IPC_PATH_BYTES_MAX:
        raise StartError(
            f"run directory {path} is too long for sockets in it: {size} bytes with their names, over the limit of "
            f"{limits.IPC_PATH_BYTES_MAX}; choose a shorter one (--run-dir)"
        )


def _make(path: Path) -> bool:
    """Whether `path` was made now; its parents are made as needed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise StartError(f"cannot make the run directory {path}: {error.strerror or error}") from error
    return True


def _check_private(path: Path) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return  # its last owner is just leaving; taking the lock fails, and the next try makes it anew
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(
            f"run directory {path} is not a directory (links are not followed); choose another (--run-dir)"
        )
    if found.st_uid != os.getuid():
        raise StartError(f"run directory {path} belongs to user {found.st_uid}; choose one of your own (--run-dir)")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise StartError(
            f"run directory {path} has the mode {stat.S_IMODE(found.st_mode):04o}; who enters it can use the models. "
            f"Run chmod 700 on it or choose another (--run-dir)"
        )


def _lock(path: Path) -> int | None:
    """The descriptor of our lock, None if the directory or lock vanished under our hands: try again."""
    try:
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartError(f"cannot open the lock of the run directory {path}: {error.strerror or error}") from error
    if not _take(fd):
        pid = _pid_in(fd)
        os.close(fd)
        raise StartError(
            f"run directory {path} is in use by the server with pid {pid or 'unknown'}; "
            f"stop that one, or choose another directory (--run-dir)"
        )
    if not _is_at(fd, path / LOCK):
        os.close(fd)
        return None
    return fd


def _take(fd: int) -> bool:
    """Whether the lock is ours now. Tried for a moment: `owner_of` elsewhere holds it for some microseconds."""
    for _ in range(_TAKES_MAX):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_TAKE_AGAIN_S)
        else:
            return True
    return False


def _sign(fd: int, made: bool) -> bool:
    """Write our name into the lock; whether the directory is ours to remove, since we or a dead server made it."""
    made = made or _MADE in os.pread(fd, _LOCK_BYTES_MAX, 0)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode() + (_MADE if made else b""), 0)
    return made


def _is_at(fd: int, path: Path) -> bool:
    """Whether `path` still names the file behind `fd`: a leaving owner removes it while it holds the lock."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _pid_in(fd: int) -> int:
    text = os.pread(fd, _LOCK_BYTES_MAX, 0).partition(b"\n")[0]
    return int(text) if text.isdigit() else 0
