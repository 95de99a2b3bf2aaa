"""What a client's URL may be: `http(s)://host:port`, `ipc://RUN_DIR`, and later `tcp://host:port` with keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from paceline.protocol.errors import ConfigError

_EXPECTED = 'expected "http://host:port", "https://host:port" or "ipc://RUN_DIR" (the server\'s run directory)'


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


Address: TypeAlias = HttpAddress | RunDirAddress


def parse_address(url: str) -> Address:
    """Read a client's URL. Raises ConfigError that says what was given and what is possible.

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
    if parts.scheme == "ipc":
        return _run_dir(url)
    if parts.scheme == "tcp":
        # An address of its own, with the server's public key and the client's pair, joins Address here.
        raise ConfigError(
            f"the server's url is {url!r}: tcp needs CURVE keys and is not part of this version yet; {_EXPECTED}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}")
    return _http(url, parts, port)


def _run_dir(url: str) -> RunDirAddress:
    path = url.removeprefix("ipc://")
    if not path:
        raise ConfigError(f"the server's url is {url!r}; {_EXPECTED}")
    return RunDirAddress(Path(path).expanduser())


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
        prefix=parts.path.rstrip("/"),
        authority=parts.netloc,
    )
