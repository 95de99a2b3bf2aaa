"""The settings of one server: every value with its origin, by layers.

`load_config` reads what is given from outside (file, environment, flags); what code says of a runner joins when the
runner is asked for, below all of these, so that an operator can always override code. A Config is frozen and travels
to the inspector child as MessagePack. Knows no process and opens nothing but the file.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from paceline.config.keys import BY_NAME, Key, in_section
from paceline.config.sources import (
    EVERY_RUNNER,
    Entry,
    find_file,
    from_code,
    from_environment,
    from_file,
    from_flags,
    normal,
)
from paceline.protocol.errors import ConfigError, did_you_mean

DEFAULT = "default"


class OriginRow(NamedTuple):
    """One line of `config show`; `value` is a plain value of TOML's types, None as "auto" or "off"."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """[server]; units are in the names."""

    host: str
    port: int
    insecure: bool
    api_workers: int
    timeout_max_ms: float
    body_bytes_max: int
    rows_max: int
    drain_grace_s: float
    window_requests: int
    pending_requests: int
    native_listen: str | None
    native_keys: Path | None
    run_dir: Path
    record: Path | None


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """[runner.<name>] of one runner. None: decided by the supervisor (workers, devices, threads, dispatch), off
    (queue_timeout_ms, buckets) or learned (execution_timeout_ms, latency_table_ms)."""

    workers: int | None
    devices: tuple[str, ...] | None
    threads: int | None
    max_batch_size: int
    latency_budget_ms: float
    queue_timeout_ms: float | None
    execution_timeout_ms: float | None
    dispatch: str | None
    buckets: tuple[int, ...] | None
    latency_table_ms: tuple[tuple[int, float], ...] | None


@dataclass(frozen=True)
class Config:
    """Settings and origins; make one with `load_config` or `from_plain`.

    >>> config = load_config({"port": 9000}, None, {"PACELINE_RUNNER__NET__WORKERS": "2"})
    >>> config.server.port, config.runner("net", {"workers": 1}).workers
    (9000, 2)
    """

    entries: tuple[Entry, ...]
    server: ServerSettings
    store_home: Path

    def runner(self, name: str, code: Mapping[str, object]) -> RunnerSettings:
        """The settings of the runner `name`; `code` is what the service says of it, by key (None = not said).

        Raises ConfigError for unknown keys and wrong values in `code`.
        """
        rows = self._runner_rows(name, code)
        return RunnerSettings(**{key: value for key, (value, _) in rows.items()})  # type: ignore[arg-type]  # read by kind

    def check_runners(self, names: Iterable[str]) -> None:
        """Raise ConfigError if the file or environment speaks of a runner that is not among `names`."""
        known = list(names)
        for entry in self.entries:
            if entry.section == "runner" and not any(entry.is_for(name) for name in known):
                served = f"This server runs {', '.join(known)}." if known else "This server runs none."
                near = {normal(name): name for name in known} if entry.loose else {name: name for name in known}
                raise ConfigError(
                    f'unknown runner "{entry.runner}" ({entry.origin}).{did_you_mean(entry.runner, near)} {served}'
                )

    def warnings(self) -> list[str]:
        """What the operator should know before the server starts, one sentence each."""
        if is_loopback(self.server.host):
            return []
        return [
            f"listening on {self.server.host}: anybody who reaches this port can use the models, "
            f"nobody is asked who they are (server.insecure)"
        ]

    def origins(self, code: Mapping[str, Mapping[str, object]] | None = None) -> list[OriginRow]:
        """Every setting with its origin: server, store, then each runner that is named anywhere.

        `code`: what the service says, by runner. Without a named runner the values of any runner stand as `runner.*`.
        """
        said = code or {}
        rows = [
            OriginRow(key.title(), key.plain(value), origin)
            for section in ("server", "store")
            for key, (value, origin) in _keyed(section, _layered(section, self.entries))
        ]
        for name in [*said, *self._named_besides(said)] or [EVERY_RUNNER]:
            for key, (value, origin) in _keyed("runner", self._runner_rows(name, said.get(name, {}))):
                rows.append(OriginRow(key.title(name), key.plain(value), origin))
        return rows

    def to_plain(self) -> dict[str, object]:
        """MessagePack-able; `from_plain` reads it back."""
        return {"entries": [[e.section, e.runner, e.name, _plain(e), e.origin, e.loose] for e in self.entries]}

    @staticmethod
    def from_plain(plain: Mapping[str, object]) -> Config:
        """Read what `to_plain` wrote. Raises ConfigError on anything else."""
        rows = plain.get("entries")
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 6 for row in rows):
            raise ConfigError("settings from the parent process are damaged")
        return _build([_entry_from(*row) for row in rows])

    def _named_besides(self, known: Mapping[str, object]) -> list[str]:
        names: list[str] = []
        for entry in self.entries:
            if entry.section != "runner" or entry.runner == EVERY_RUNNER:
                continue
            if not any(entry.is_for(name) for name in [*known, *names]):
                names.append(entry.runner)
        return names

    def _runner_rows(self, name: str, code: Mapping[str, object]) -> dict[str, tuple[object, str]]:
        given = [entry for entry in self.entries if entry.section == "runner" and entry.is_for(name)]
        return _layered("runner", [*from_code(name, code), *given])


def load_config(flags: Mapping[str, object], file: Path | None, environ: Mapping[str, str]) -> Config:
    """Read file, environment and flags; the later layer wins.

    flags: by key name (`port`, `max_batch_size`, ...), None = not given. file: --config; None = PACELINE_CONFIG, or
    paceline.toml in the working directory if there is one. Raises ConfigError that names key and origin.

    >>> load_config({}, None, {"PACELINE_SERVER__PORT": "9000"}).server.port
    9000
    """
    path = find_file(file, environ)
    entries = [] if path is None else from_file(path)
    entries += from_environment(environ)
    entries += from_flags(flags)
    server, store = _layered("server", entries), _layered("store", entries)
    found = []
    home = store["home"][0]
    if not isinstance(home, Path):
        home = Path("~/.paceline").expanduser()
        found.append(Entry("store", "", "home", home, DEFAULT))
    if server["run_dir"][0] is None:
        found.append(Entry("server", "", "run_dir", default_run_dir(home, server["port"][0]), DEFAULT))
    return _build([*entries, *found])


def default_run_dir(home: Path, port: object) -> Path:
    """Where the server on `port` that serves from the store in `home` keeps its sockets, unless told otherwise."""
    return home / "run" / f"p{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    if host.lower() in ("localhost", "ip6-localhost", "ip6-loopback"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _build(entries: list[Entry]) -> Config:
    server = {name: value for name, (value, _) in _layered("server", entries).items()}
    home = _layered("store", entries)["home"][0]
    if not isinstance(home, Path):
        raise ConfigError("settings from the parent process are damaged: no store home")
    settings = ServerSettings(**server)  # type: ignore[arg-type]  # each value was read by its key's kind
    if not settings.insecure and not is_loopback(settings.host):
        origin = _layered("server", entries)["host"][1]
        raise ConfigError(
            f'server.host is "{settings.host}" ({origin}): other machines could use the models, and nobody is asked '
            f"who they are. Listen on 127.0.0.1 behind a proxy that authenticates, or accept it with --insecure "
            f"(server.insecure = true)."
        )
    if settings.native_listen is not None and settings.native_keys is None:
        origin = _layered("server", entries)["native_listen"][1]
        raise ConfigError(
            f'server.native_listen is "{settings.native_listen}" ({origin}) without server.native_keys: over tcp only '
            f"clients with keys are let in. Make keys with `paceline keys new DIR`, let a client in with "
            f"`paceline keys client DIR NAME`, and give --native-keys DIR."
        )
    return Config(tuple(entries), settings, home)


def _layered(section: str, entries: Iterable[Entry]) -> dict[str, tuple[object, str]]:
    """(value, origin) of each key of `section`: the last entry wins. `entries` are of one runner, or of none."""
    rows = {key.name: (key.default, DEFAULT) for key in in_section(section)}
    for entry in entries:
        if entry.section == section:
            rows[entry.name] = (entry.value, entry.origin)
    return rows


def _keyed(section: str, rows: Mapping[str, tuple[object, str]]) -> list[tuple[Key, tuple[object, str]]]:
    return [(key, rows[key.name]) for key in in_section(section)]


def _plain(entry: Entry) -> object:
    return BY_NAME[entry.name].plain(entry.value)


def _entry_from(section: object, runner: object, name: object, value: object, origin: object, loose: object) -> Entry:
    key = BY_NAME.get(str(name))
    if key is None or key.section != section:
        raise ConfigError(f"settings from the parent process are damaged: key {name!r}")
    return Entry(key.section, str(runner), key.name, key.read(value, str(origin)), str(origin), bool(loose))
