"""The folder of a server's keys as its owner works on it: make it, let clients in, list them, revoke them.

What `paceline keys` does. A running server sees changes in the folder of clients within a second (curve.REFRESH_S).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from paceline.protocol import keys
from paceline.protocol.curve import new_pair
from paceline.protocol.errors import ConfigError, did_you_mean
from paceline.protocol.keys import CLIENTS, PUBLIC_SUFFIX, SERVER_FILE, load_public, load_server, write_keys

HAND_OVER = "hand-over"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class AllowedClient:
    """One line of the list: who may use the server."""

    name: str
    public: str
    file: Path


def create(folder: Path) -> bytes:
    """Make `folder` (0700) with a server's pair and no client; its public key. Raises ConfigError if it has a pair."""
    if (folder / SERVER_FILE).exists():
        raise ConfigError(
            f"{folder} has a server key already; new keys would lock out its clients: choose another folder"
        )
    for each in (folder, folder / CLIENTS):
        _make_folder(each)
    pair = new_pair()
    write_keys(
        folder / SERVER_FILE,
        "A Paceline server's keys. Whoever has this file can pass for the server: it never leaves this machine.",
        public=pair.public,
        secret=pair.secret,
    )
    return pair.public


def admit(folder: Path, name: str, out: Path | None = None) -> Path:
    """Make a pair for the client `name` and let it in; the file to hand over (`out`, else below `folder`).

    Raises ConfigError: no server key, a name that is taken or is none, a file that exists.
    """
    server = load_server(folder)
    allowed = server.clients / f"{checked_name(name)}{PUBLIC_SUFFIX}"
    if allowed.exists():
        raise ConfigError(f"client {name!r} has a key already; revoke it first: paceline keys revoke {folder} {name}")
    if out is None:
        _make_folder(folder / HAND_OVER)
        out = folder / HAND_OVER / f"{name}.key"
    pair = new_pair()
    write_keys(
        out,
        "A Paceline client's keys: whoever has this file can use the models of the server. Keep it 0600.",
        server=server.pair.public,
        public=pair.public,
        secret=pair.secret,
    )
    # Written aside and renamed: a running server never reads half of it.
    aside = server.clients / f".{name}.{os.getpid()}"
    write_keys(aside, f"The public key of the client {name}, who may use this server.", public=pair.public)
    aside.rename(allowed)
    return out


def allowed_clients(folder: Path) -> list[AllowedClient]:
    """Who may use the server, by name. Raises ConfigError: no server key, a damaged file."""
    files = sorted(load_server(folder).clients.glob(f"*{PUBLIC_SUFFIX}"))
    return [AllowedClient(file.name.removesuffix(PUBLIC_SUFFIX), load_public(file).decode(), file) for file in files]


def revoke(folder: Path, name: str) -> None:
    """Let the client `name` in no more. Raises ConfigError if it is not allowed."""
    clients = load_server(folder).clients
    try:
        (clients / f"{checked_name(name)}{PUBLIC_SUFFIX}").unlink()
    except FileNotFoundError as error:
        known = [file.name.removesuffix(PUBLIC_SUFFIX) for file in clients.glob(f"*{PUBLIC_SUFFIX}")]
        raise ConfigError(f"client {name!r} is not allowed in {folder}.{did_you_mean(name, known)}") from error
    (folder / HAND_OVER / f"{name}.key").unlink(missing_ok=True)


def checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"client name is {name!r}; expected up to 64 letters, digits, dots, hyphens, underscores")
    return name


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the key folder {folder}: {error.strerror or error}") from error
    keys.check_private_folder(folder)
