"""The types of settings: each reads a value of TOML, code, environment or a flag, or refuses it.

A kind says what it expects; who gave the value and under which key is the caller's business. `read` raises ValueError
(with a text only where "expected ..." does not say enough).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from paceline.protocol.tcp import split_tcp, tcp_address

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_SIZE = re.compile(r"([0-9]{1,15})\s*([kKMGT]?i?B)", re.ASCII)
_DEVICE = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")
_DEVICES_MAX = 256
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

    expected: str = '"worker"'

    def read(self, value: object) -> str:
        if value == "central":
            raise ValueError(
                'one queue for several workers ("central") is not part of this version yet; "worker" gives each worker '
                "its own queue"
            )
        if value != "worker":
            raise ValueError
        return "worker"
