"""Frozen dataclasses that are cheap to build, for the few types made once or more per request.

A frozen dataclass sets each field through `object.__setattr__`: 0.9 us for the 13 fields of a request, against 0.1 us
for plain assignment, and a request is made five of them on its way. Frozen is what mypy checks; at run time the guard
is taken away. Everything else (equality, hash, replace, slots) stays the dataclass's own.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def hot_record(cls: type[T]) -> type[T]:
    """Put above `@dataclass(frozen=True, slots=True)`; takes the run-time guard away and assigns plainly.

    >>> @hot_record
    ... @dataclass(frozen=True, slots=True)
    ... class Point:
    ...     x: int
    """
    twin_fields: list[tuple[str, Any, Any]] = []
    for spec in fields(cls):  # type: ignore[arg-type]  # a dataclass, by the rule above
        if spec.default_factory is not MISSING:
            twin_fields.append((spec.name, Any, field(default_factory=spec.default_factory)))
        elif spec.default is not MISSING:
            twin_fields.append((spec.name, Any, field(default=spec.default)))
        else:
            twin_fields.append((spec.name, Any, field()))
    twin = make_dataclass(cls.__name__, twin_fields)
    cls.__init__ = twin.__init__  # type: ignore[method-assign, misc]  # the same fields, assigned plainly
    del cls.__setattr__, cls.__delattr__
    return cls
