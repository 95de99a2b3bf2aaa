"""Inputs as they are written on a command line: `@file`, `-`, inline JSON, each also as `name=...`.

A file is .npy, .npz or JSON by its own first bytes; nothing is unpickled. JSON objects give inputs by name.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Sequence

import numpy as np
import orjson

from paceline.protocol.errors import ConfigError

_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_.]{0,127})=(.*)", re.DOTALL)
_FILE_ENDS = (".npy", ".npz", ".json")
_BYTES_MAX = 2 * 1024**3
_OPTIONS = ("method", "version", "timeout_s", "priority", "request_id", "model", "self")


def read_inputs(words: Sequence[str]) -> tuple[list[object], dict[str, object]]:
    """(arguments by position, arguments by name). Raises ConfigError that names the word."""
    arrays: list[object] = []
    named: dict[str, object] = {}
    for word in words:
        match = _NAMED.fullmatch(word)
        if match is not None:
            _put(named, match[1], _one(match[2], word))
            continue
        value = _value(word, word)
        if not isinstance(value, dict):
            arrays.append(value)
            continue
        for key, item in value.items():
            # numpy calls arrays that were saved without a name arr_0, arr_1, ...
            if re.fullmatch(r"arr_[0-9]+", key):
                arrays.append(item)
            else:
                _put(named, key, item)
    return arrays, named


def _put(named: dict[str, object], name: str, value: object) -> None:
    if name in named:
        raise ConfigError(f"input {name!r} is given twice")
    if name in _OPTIONS:
        raise ConfigError(f"an input called {name!r} can be given by its position only")
    named[name] = value


def _one(text: str, word: str) -> object:
    value = _value(text, word)
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ConfigError(f"{word}: holds {len(value)} arrays ({', '.join(value)}); expected one")
    return next(iter(value.values()))


def _value(text: str, word: str) -> object:
    if text == "-":
        return _parse(sys.stdin.buffer.read(_BYTES_MAX), "stdin")
    if not text.startswith("@"):
        return _inline(text, word)
    try:
        with open(text[1:], "rb") as file:
            return _parse(file.read(_BYTES_MAX), text[1:])
    except OSError as error:
        raise ConfigError(f"cannot read {text[1:]}: {error.strerror or error}") from error


def _inline(text: str, word: str) -> object:
    try:
        return _from_json(text.encode(errors="surrogateescape"), repr(word))
    except ConfigError as error:
        if text.endswith(_FILE_ENDS):
            raise ConfigError(
                f"{word!r} is not JSON; files are marked with @. Did you mean {word.removesuffix(text)}@{text}?"
            ) from error
        raise


def _parse(data: bytes, where: str) -> object:
    try:
        if data.startswith(b"\x93NUMPY"):
            array: object = np.load(io.BytesIO(data), allow_pickle=False)
            return array
        if data.startswith(b"PK\x03\x04"):
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where} is not a numpy file that can be read: {error}") from error
    return _from_json(data, where)


def _from_json(data: bytes, where: str) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{where} is not JSON ({error}); expected @file.npy, @file.npz, @file.json, - or JSON such as [[1.0, 2.0]]"
        ) from error
