"""Records that are cheap to build are still dataclasses in all that code can see."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import pytest

from paceline.protocol.hot_record import hot_record


@hot_record
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 7
    names: dict[str, int] = field(default_factory=dict)


def test_fields_defaults_and_keywords_work() -> None:
    point = Point(1, names={"a": 1})
    assert (point.x, point.y, point.names) == (1, 7, {"a": 1})
    assert Point(1).names is not Point(1).names
    assert [spec.name for spec in fields(Point)] == ["x", "y", "names"]
    with pytest.raises(TypeError, match="missing 1 required"):
        Point()  # type: ignore[call-arg]  # the point of the test


def test_equality_replace_repr_and_slots_are_the_dataclass_s_own() -> None:
    assert Point(1) == Point(1) != Point(2)
    assert replace(Point(1), x=3) == Point(3)
    assert repr(Point(1)) == "Point(x=1, y=7, names={})"
    assert not hasattr(Point(1), "__dict__")


def test_it_is_hashed_like_a_frozen_dataclass() -> None:
    @hot_record
    @dataclass(frozen=True, slots=True)
    class Key:
        name: str

    assert {Key("a"), Key("a")} == {Key("a")}
