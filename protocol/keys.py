"""CURVE keys in files: a server's pair, a client's pair, and the folder of the public keys that a server lets in.

    DIR/server.key           the server's pair
    DIR/clients/NAME.pub     the public key of one allowed client
    NAME.key                 what a client is given: its pair and the server's public key, wherever it keeps it

Files are small TOML, 0600; folders 0700. Secrets stand in these files and in memory, nowhere else: no argument,
variable, log line or error carries one. Knows no ZeroMQ; keys are its 40 characters of Z85.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from paceline.protocol.errors import ConfigError
from paceline.protocol.limits import CLIENT_KEYS_MAX, KEY_FILE_BYTES_MAX

logger = logging.getLogger(__name__)

SERVER_FILE, CLIENTS = "server.key", "clients"
PUBLIC_SUFFIX = ".pub"
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_PRIVATE = 0o077

_Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves, as Z85."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A server's own pair, and the folder of the clients that it lets in."""

    pair: KeyPair
    clients: Path


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A client's own pair, and the public key by which it knows the server."""

    server: bytes
    pair: KeyPair


def load_server(folder: Path) -> ServerKeys:
    """The keys in `folder`. Raises ConfigError: none there, not private, damaged."""
    file = folder / SERVER_FILE
    if not file.exists():
        raise ConfigError(f"{folder} has no server key ({SERVER_FILE}); make one with: paceline keys new {folder}")
    check_private_folder(folder)
    plain = _read(file, "public", "secret")
    clients = folder / CLIENTS
    check_private_folder(clients)
    return ServerKeys(KeyPair(plain["public"], plain["secret"]), clients)


def load_client(file: Path) -> ClientKeys:
    """The keys in a client's file. Raises ConfigError: not there, not private, damaged."""
    plain = _read(file, "public", "secret", "server")
    return ClientKeys(plain["server"], KeyPair(plain["public"], plain["secret"]))


def load_public(file: Path) -> bytes:
    """The public key of an allowed client. Raises ConfigError as load_client."""
    return _read(file, "public")["public"]


def write_keys(file: Path, comment: str, **keys: bytes) -> None:
    """Make `file`, which must not exist, 0600 from its first moment. Raises ConfigError."""
    lines = [f"# {comment}", *[f'{name} = "{key.decode()}"' for name, key in keys.items()], ""]
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as opened:
            opened.write("\n".join(lines))
            opened.flush()
            os.fsync(fd)
    except OSError as error:
        raise ConfigError(f"cannot write the key file {file}: {error.strerror or error}") from error


def check_private_folder(folder: Path) -> None:
    """Raise ConfigError unless `folder` is a folder that its owner alone may enter."""
    try:
        found = os.stat(folder)
    except OSError as error:
        raise ConfigError(f"cannot use the key folder {folder}: {error.strerror or error}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{folder} is not a folder; make one with keys by: paceline keys new {folder}")
    _check_mode(folder, found.st_mode, 0o700)


class AllowList:
    """The public keys of the clients that are let in, as the folder has them now; `read` looks at its entries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: _Stamp | None = None
        self._keys: frozenset[bytes] = frozenset()

    def read(self) -> frozenset[bytes]:
        """All keys, read anew where a file changed. A folder that cannot be read lets nobody in."""
        try:
            stamp = self._look()
        except OSError as error:
            stamp = ()
            if self._stamp != stamp:
                logger.error("no client is let in: the keys cannot be read: %s", error)
        if stamp != self._stamp:
            self._stamp = stamp
            self._keys = frozenset(key for name, *_ in stamp if (key := self._key(name)) is not None)
        return self._keys

    def _look(self) -> _Stamp:
        with os.scandir(self._folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(PUBLIC_SUFFIX)]
        if len(found) > CLIENT_KEYS_MAX:
            logger.warning("more client keys than %d: the others are not let in", CLIENT_KEYS_MAX)
        stamps = sorted((name, each.st_ctime_ns, each.st_size, each.st_ino) for name, each in found)
        return tuple(stamps[:CLIENT_KEYS_MAX])

    def _key(self, name: str) -> bytes | None:
        try:
            return load_public(self._folder / name)
        except ConfigError as error:
            logger.warning("client key ignored: %s", error)
            return None


def _read(file: Path, *names: str) -> dict[str, bytes]:
    """The keys `names` of `file`. Errors say nothing of what stands in it."""
    try:
        with file.open("rb") as opened:
            _check_mode(file, os.fstat(opened.fileno()).st_mode, 0o600)
            data = opened.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the key file {file}: {error.strerror or error}") from error
    try:
        plain = tomllib.loads(data.decode("ascii")) if len(data) <= KEY_FILE_BYTES_MAX else {}
    except (ValueError, RecursionError):
        plain = {}
    keys = {name: plain.get(name) for name in names}
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys.values()):
        raise ConfigError(f"{file} is not a key file with {', '.join(names)}; make one with: paceline keys")
    return {name: str(key).encode() for name, key in keys.items()}


def _check_mode(path: Path, mode: int, wanted: int) -> None:
    if mode & _PRIVATE:
        raise ConfigError(
            f"{path} has the mode {stat.S_IMODE(mode):04o}, others could use the keys; run: chmod {wanted:o} {path}"
        )
