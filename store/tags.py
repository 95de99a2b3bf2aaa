"""A tag names what is wanted of the store: `net`, `net:3`, `net:latest`, `net@prod`.

Grammar only: whether the model exists is ModelStore's business. Names are safe as folder names and in URLs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from paceline.protocol.errors import StoreError

LATEST = "latest"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Tag:
    """A model's name and one of: a version ("1", "2", ...), an alias, or neither, which means the latest version."""

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}:{self.version or LATEST}"


def parse_tag(text: str | Tag) -> Tag:
    """The tag that `text` spells; a Tag is returned as it is. Raises StoreError that says what was expected.

    >>> parse_tag("my_torch_model:latest")
    Tag(name='my_torch_model', version=None, alias=None)
    """
    if isinstance(text, Tag):
        return text
    if not isinstance(text, str):
        raise StoreError(f"a model tag is a string such as 'my_model:latest', got a {type(text).__name__}")
    if "@" in text:
        name, _, alias = text.partition("@")
        if not is_alias(alias):
            hint = f"; the highest version is {name}:{LATEST}" if alias == LATEST else ""
            raise StoreError(
                f"tag {text!r}: {alias!r} is not an alias; expected name@alias such as 'my_model@prod'{hint}"
            )
        return Tag(check_name(name), alias=alias)
    name, colon, version = text.partition(":")
    if colon and version != LATEST and not _VERSION.fullmatch(version):
        raise StoreError(f"tag {text!r}: {version!r} is not a version; expected a number from 1 on, or 'latest'")
    return Tag(check_name(name), None if version in ("", LATEST) else version)


def check_name(name: object) -> str:
    """`name`, if it may name a model. Raises StoreError that says what was given and what was expected."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    hint = ""
    if isinstance(name, str) and _NAME.fullmatch(name.lower().replace(" ", "_")):
        hint = f' Try "{name.lower().replace(" ", "_")}".'
    raise StoreError(
        f"{name!r} is not a model name; expected 1 to 128 of a-z, 0-9, '.', '_', '-', "
        f"starting with a letter or digit.{hint}"
    )


def is_name(text: str) -> bool:
    """Whether `text` may name a model: what is found in the store's folder and is not a name is not ours."""
    return _NAME.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Whether `text` may be an alias; `latest` may not, it is the highest version."""
    return text != LATEST and _ALIAS.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether `text` is a version number: "1", "2", ..."""
    return _VERSION.fullmatch(text) is not None
