"""Where settings come from: a TOML file, the environment, flags, code. Each becomes a list of entries with origins.

Within the environment a runner's name is matched with `-` and `.` as `_` and without case; in a file it is exact.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from paceline.config.keys import BY_NAME, SECTIONS, find_key
from paceline.config.kinds import Folder, LatencyTable
from paceline.protocol.errors import ConfigError, did_you_mean

FILE_NAME = "paceline.toml"
PREFIX = "PACELINE_"
FILE_VARIABLE = "PACELINE_CONFIG"
HOME_VARIABLE = "PACELINE_HOME"
EVERY_RUNNER = "*"
_FILE_BYTES_MAX = 1024 * 1024
# PACELINE_HOMES and PACELINE_CONFIG_FILE are near, PACELINE_MODE is not.
_NEAR_MISS = 0.85


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting as given. `runner` is its name, EVERY_RUNNER, or empty for other sections; `loose`: the name is
    matched as in the environment."""

    section: str
    runner: str
    name: str
    value: object
    origin: str
    loose: bool = False

    def is_for(self, runner: str) -> bool:
        """Whether it is about the runner of this name."""
        if self.runner == EVERY_RUNNER:
            return True
        return normal(self.runner) == normal(runner) if self.loose else self.runner == runner


def normal(runner: str) -> str:
    """A runner's name as environment variables can spell it, in lower case."""
    return re.sub("[-.]", "_", runner).lower()


def find_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the given one, PACELINE_CONFIG, or paceline.toml in the working directory if there is one."""
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    if file is not None:
        return file
    return Path(FILE_NAME) if Path(FILE_NAME).is_file() else None


def from_file(path: Path) -> list[Entry]:
    """The entries of a TOML file. Raises ConfigError: unreadable, not TOML, unknown sections and keys, wrong values."""
    text = _file_text(path)
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    lines = _Lines(str(path), text)
    entries: list[Entry] = []
    for section, table in tables.items():
        origin = lines.origin(section)
        if section not in SECTIONS:
            key = BY_NAME.get(section)
            if key is not None and not isinstance(table, dict):
                place = "[runner.<name>]" if key.section == "runner" else f"[{key.section}]"
                raise ConfigError(f'"{section}" ({origin}) stands in no section; put it under {place}')
            raise ConfigError(
                f'unknown section "{section}" ({origin}).{did_you_mean(section, SECTIONS)} '
                f"Known sections: [server], [store], [runner.<name>]."
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{section} is {table!r} ({origin}); expected a section [{section}] with keys")
        entries.extend(_from_section(section, table, lines, path.parent))
    return entries


def from_environment(environ: Mapping[str, str]) -> list[Entry]:
    """The entries of PACELINE_SECTION__KEY, PACELINE_RUNNER__NAME__KEY and PACELINE_HOME. Raises ConfigError.

    Variables without a double underscore are not settings (Kubernetes makes PACELINE_SERVICE_HOST of a service
    "paceline"), but one that looks like a setting is refused, since it would be silently without effect.
    """
    entries = []
    if environ.get(HOME_VARIABLE):
        entries.append(_entry("store", "", "home", environ[HOME_VARIABLE], f"environment {HOME_VARIABLE}"))
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        if "__" in variable:
            entries.append(_from_variable(variable, environ[variable]))
        else:
            _refuse_lookalike(variable, environ[variable])
    return entries


def from_flags(flags: Mapping[str, object]) -> list[Entry]:
    """The entries of flags by key name (`port`, `max_batch_size`); None = not given. Runner keys go to every runner."""
    entries = []
    for name, value in flags.items():
        key = BY_NAME.get(name)
        if key is None:
            raise ConfigError(f'unknown flag "{name}".{did_you_mean(name, BY_NAME)}')
        if value is not None:
            runner = EVERY_RUNNER if key.section == "runner" else ""
            entries.append(_entry(key.section, runner, name, value, f"flag {key.flag}"))
    return entries


def from_code(runner: str, values: Mapping[str, object]) -> list[Entry]:
    """The entries of what code says of one runner (`to_runner(...)`); None = not said."""
    return [_entry("runner", runner, name, value, "code") for name, value in values.items() if value is not None]


def _entry(section: str, runner: str, name: str, value: object, origin: str, loose: bool = False) -> Entry:
    key = find_key(section, name, origin, runner)
    return Entry(section, runner, name, key.read(value, origin, runner), origin, loose)


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror or error}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise ConfigError(f"the configuration file {path} is over {_FILE_BYTES_MAX} bytes; expected a small TOML file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML: it is not UTF-8 ({error.reason} at byte {error.start})") from error


def _from_section(section: str, table: Mapping[str, object], lines: _Lines, folder: Path) -> Iterator[Entry]:
    for name, value in table.items():
        origin = lines.origin(section, name)
        if section != "runner":
            yield _entry(section, "", name, _from_folder(section, name, value, folder), origin)
            continue
        if not isinstance(value, dict):
            raise ConfigError(
                f'unknown key "{name}" in [runner] ({origin}); expected sections [runner.<name>], one for each runner'
            )
        for key, setting in value.items():
            origin = lines.origin(section, name, key)
            if isinstance(setting, dict) and not _is_table(key):
                raise ConfigError(
                    f"[runner.{name}.{key}] ({origin}) is a section within a runner; "
                    f'if the runner is called "{name}.{key}", write [runner."{name}.{key}"]'
                )
            yield _entry(section, name, key, setting, origin)


def _is_table(name: str) -> bool:
    """Whether the runner key `name` is a table of its own."""
    key = BY_NAME.get(name)
    return key is not None and isinstance(key.kind, LatencyTable)


def _from_folder(section: str, name: str, value: object, folder: Path) -> object:
    """A relative path in a file is relative to the file."""
    key = BY_NAME.get(name)
    if key is not None and key.section == section and isinstance(key.kind, Folder) and isinstance(value, str) and value:
        return value if value.startswith("~") or value == key.unset else str(folder / value)
    return value


def _from_variable(variable: str, text: str) -> Entry:
    origin = f"environment {variable}"
    section, _, rest = variable.removeprefix(PREFIX).lower().partition("__")
    if section not in SECTIONS:
        raise ConfigError(
            f'unknown section "{section}" ({origin}).{did_you_mean(section, SECTIONS)} '
            f"Expected PACELINE_SERVER__<KEY>, PACELINE_STORE__<KEY> or PACELINE_RUNNER__<NAME>__<KEY>."
        )
    if section != "runner":
        return _entry(section, "", rest, text, origin)
    runner, _, name = rest.rpartition("__")
    if not runner:
        raise ConfigError(f"{origin} names no runner; expected PACELINE_RUNNER__<NAME>__<KEY>")
    return _entry(section, runner, name, text, origin, loose=True)


def _refuse_lookalike(variable: str, text: str) -> None:
    """Raise ConfigError for a key without its section, one underscore in place of two, or a misspelt PACELINE_HOME."""
    if variable in (HOME_VARIABLE, FILE_VARIABLE) or text.startswith("tcp://"):  # Kubernetes: PACELINE_PORT=tcp://...
        return
    rest = variable.removeprefix(PREFIX).lower()
    section, _, name = rest.partition("_")
    key = BY_NAME.get(name)
    if key is not None and key.section == section and section != "runner":
        raise ConfigError(
            f"{variable} has no effect: sections and keys are separated by two underscores. "
            f'Did you mean "{PREFIX}{section.upper()}__{name.upper()}"?'
        )
    if rest in BY_NAME:
        section = BY_NAME[rest].section
        wanted = f"{section}__<NAME>__{rest}" if section == "runner" else f"{section}__{rest}"
        raise ConfigError(
            f"{variable} has no effect: a variable names the section and the key. "
            f'Did you mean "{PREFIX}{wanted.upper()}"?'
        )
    near = get_close_matches(variable.upper(), (HOME_VARIABLE, FILE_VARIABLE), n=1, cutoff=_NEAR_MISS)
    if near:
        raise ConfigError(f'{variable} has no effect: no such variable is known. Did you mean "{near[0]}"?')


class _Lines:
    """Line numbers of tables and keys, which tomllib does not tell. Written inline, a key has its table's line."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._numbers: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if stripped.startswith("["):
                table = _key_path(stripped, "") or table
                self._numbers.setdefault(table, number)
            elif "=" in stripped and not stripped.startswith("#"):
                path_in_table = _key_path(stripped.split("=", 1)[0], " = 0")
                for depth in range(len(path_in_table)):
                    self._numbers.setdefault(table + path_in_table[: depth + 1], number)

    def origin(self, *path: str) -> str:
        """ "paceline.toml:12", without the line where it was not found."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self._numbers:
                return f"{self._path}:{self._numbers[path[:depth]]}"
        return f"{self._path}, {'.'.join(path)}"


def _key_path(text: str, value: str) -> tuple[str, ...]:
    """The parts of a TOML key or header, by TOML's own rules of quoting; () where it is neither."""
    try:
        node: object = tomllib.loads(text + value)
    except (tomllib.TOMLDecodeError, RecursionError):
        return ()
    parts = []
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        parts.append(name)
    return tuple(parts)
