"""What a client's URL may be: `http(s)://host:port`, `ipc://RUN_DIR`, or `tcp://host:port` with a key file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from paceline.protocol.errors import ConfigError
from paceline.protocol.tcp import split_tcp

_EXPECTED = (
    'expected "http://host:port", "https://host:port", "ipc://RUN_DIR" (the server\'s run directory) or '
    '"tcp://host:port" with key_file='
)


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """`prefix` is the path before /v2, without a slash at its end; `authority` is what the Host header says."""

    host: str
    port: int
    secure: bool
    prefix: str
    authority: str


@dataclass(frozen=True, slots=True)
class RunDirAddress:
    """The run directory of a server on this machine."""

    run_dir: Path


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """The native port of a server on another machine, and the file with the keys for it."""

    host: str
    port: int
    key_file: Path


Address: TypeAlias = HttpAddress | RunDirAddress | RemoteAddress


def parse_address(url: str, key_file: Path | str | None = None) -> Address:
    """Read a client's URL; `key_file` belongs to tcp. Raises ConfigError: what was given and what is possible.

    >>> parse_address("http://127.0.0.1:8000").port
    8000
    """
    if not isinstance(url, str) or any(character <= " " or character == "\x7f" for character in url):
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the server's url is {url!r} ({error}); {_EXPECTED}") from error
    if parts.scheme == "tcp":
        return _remote(url, key_file)
    if key_file is not None:
        raise ConfigError(f"the server's url is {url!r}: key_file= belongs to tcp:// alone")
    if parts.scheme == "ipc":
        return _run_dir(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}")
    return _http(url, parts, port)


def _run_dir(url: str) -> RunDirAddress:
    path = url.removeprefix("ipc://")
    if not path:
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}")
    return RunDirAddress(Path(path).expanduser())


def _remote(url: str, key_file: Path | str | None) -> RemoteAddress:
    try:
        host, port = split_tcp(url)
    except ValueError as error:
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}") from error
    if key_file is None or port == 0:
        raise ConfigError(
            f"the server's url is {url!r}: over tcp a client needs a port and CURVE keys, given by key_file=: "
            f"the server's owner makes the file with: paceline keys client DIR NAME"
        )
    return RemoteAddress(host, port, Path(key_file).expanduser())


def _http(url: str, parts: SplitResult, port: int | None) -> HttpAddress:
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"the server's url is {url!r}: a user, query or fragment cannot be sent; pass credentials with headers="
        )
    secure = parts.scheme == "https"
    host = str(parts.hostname)
    return HttpAddress(
        host=host,
        port=port if port is not None else (443 if secure else 80),
        secure=secure,
        # Other clients of the protocol are given the /v2 as well.
        prefix=parts.path.rstrip("/").removesuffix("/v2").rstrip("/"),
        authority=parts.netloc,
    )
