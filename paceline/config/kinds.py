"""The types of settings: each reads a value of TOML, code, environment or a flag, or refuses it.

A kind says what it expects; who gave the value and under which key is the caller's business. `read` raises ValueError
(with a text only where "expected ..." does not say enough).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from paceline.protocol.tcp import split_tcp, tcp_address

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_SIZE = re.compile(r"([0-9]{1,15})\s*([kKMGT]?i?B)", re.ASCII)
_DEVICE = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")
_DEVICES_MAX = 256
_ROWS_MAX = 65_536
_BUCKETS_MAX = 256
_POINTS_MAX = 1024
_BATCH_MS_MAX = 86_400_000.0
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class Kind(Protocol):
    """Seam for one type of setting."""

    @property
    def expected(self) -> str: ...

    def read(self, value: object) -> object:
        """The setting's value, `value` being of TOML's types or a text from the environment."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def read(self, value: object) -> int:
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number over 0 and up to `high`; 0 itself where `zero`."""

    high: float
    zero: bool = False

    @property
    def expected(self) -> str:
        return f"a number {'from 0' if self.zero else 'over 0 and'} up to {self.high:,.0f}"

    def read(self, value: object) -> float:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
        if not (0 < number <= self.high or (self.zero and number == 0)):
            raise ValueError
        return number


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false; in the environment also 1, 0, yes, no, on, off."""

    expected: str = "true or false"

    def read(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        words = {
            "true": True,
            "1": True,
            "yes": True,
            "on": True,
            "false": False,
            "0": False,
            "no": False,
            "off": False,
        }
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise ValueError


@dataclass(frozen=True, slots=True)
class HostName:
    """A host name or address to listen on."""

    expected: str = 'a host name or address such as "127.0.0.1"'

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z.:%_-]{1,255}", value):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where native clients on other machines connect."""

    expected: str = 'an address such as "tcp://0.0.0.0:7400" (an IPv4 address or a host name; port 0 = a free one)'

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError
        try:
            return tcp_address(*split_tcp(value))
        except ValueError as error:
            raise ValueError from error


@dataclass(frozen=True, slots=True)
class Folder:
    """A path of a folder, `~` expanded. What is relative in a file is relative to the file: its reader sees to that."""

    expected: str = "the path of a folder"

    def read(self, value: object) -> Path:
        text = str(value) if isinstance(value, Path) else value
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError
        text.encode()  # a name that is not text could not be written down again; UnicodeError is a ValueError
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, or a text such as "64MiB"."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f'a number of bytes from {self.low} to {self.high}, or a text such as "64MiB"'

    def read(self, value: object) -> int:
        if isinstance(value, str):
            sized = _SIZE.fullmatch(value)
            if sized is not None:
                value = int(sized[1]) * _UNITS[sized[2].upper()]
        return Integer(self.low, self.high).read(value)


@dataclass(frozen=True, slots=True)
class Devices:
    """A list of torch devices; in the environment separated by commas."""

    expected: str = 'a list of devices such as ["cuda:0", "cuda:1"]'

    def read(self, value: object) -> tuple[str, ...]:
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not 1 <= len(items) <= _DEVICES_MAX:
            raise ValueError
        if not all(isinstance(item, str) and _DEVICE.fullmatch(item) for item in items):
            raise ValueError
        return tuple(items)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Where a runner's queue lives."""

    expected: str = '"central" (one in a broker) or "worker" (one in each worker)'

    def read(self, value: object) -> str:
        if value not in ("central", "worker"):
            raise ValueError
        return str(value)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Batch sizes, rising; in the environment separated by commas."""

    expected: str = "a list of rising batch sizes such as [1, 8, 64]"

    def read(self, value: object) -> tuple[int, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not 1 <= len(items) <= _BUCKETS_MAX:
            raise ValueError
        return _rising([_rows(item) for item in items])


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """How long a batch takes, by its rows: a table, or a text of pairs."""

    expected: str = 'a table such as { 1 = 5.5, 64 = 37.0 } or a text such as "1:5.5,64:37": milliseconds by rows'

    def read(self, value: object) -> tuple[tuple[int, float], ...]:
        pairs = list(value.items()) if isinstance(value, dict) else _pairs(value)
        if not 1 <= len(pairs) <= _POINTS_MAX:
            raise ValueError
        rows = _rising([_rows(rows) for rows, _ in pairs])
        return tuple([(size, _batch_ms(size, ms)) for size, (_, ms) in zip(rows, pairs)])

    @staticmethod
    def text(points: tuple[tuple[int, float], ...]) -> str:
        """What `read` makes `points` of."""
        return ",".join([f"{rows}:{ms!r}" for rows, ms in points])


def _pairs(value: object) -> list[tuple[object, object]]:
    """The pairs of "1:5.5,64:37", or those that `read` made before: code's plans hold them."""
    if isinstance(value, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        return list(value)
    if not isinstance(value, str):
        raise ValueError
    pairs = [item.partition(":") for item in value.split(",")]
    if not all(colon for _, colon, _ in pairs):
        raise ValueError
    return [(rows, ms) for rows, _, ms in pairs]


def _rows(value: object) -> int:
    """A batch size; the keys of a TOML table are texts."""
    try:
        return Integer(1, _ROWS_MAX).read(value.strip() if isinstance(value, str) else value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no batch size from 1 to {_ROWS_MAX}") from error


def _rising(sizes: list[int]) -> tuple[int, ...]:
    for before, after in pairwise(sizes):
        if after <= before:
            raise ValueError(f"sizes must rise, and {after} follows {before}")
    return tuple(sizes)


def _batch_ms(rows: int, value: object) -> float:
    try:
        return Number(_BATCH_MS_MAX).read(value)
    except ValueError as error:
        raise ValueError(f"{rows} row(s) cannot take {value!r} ms") from error
