"""The grammar of tags."""

from __future__ import annotations

import pytest

from paceline.protocol.errors import StoreError
from paceline.store.tags import Tag, parse_tag


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("net", Tag("net")),
        ("net:latest", Tag("net")),
        ("net:12", Tag("net", "12")),
        ("my_torch_model:1", Tag("my_torch_model", "1")),
        ("a.b-c_d", Tag("a.b-c_d")),
        ("net@prod", Tag("net", alias="prod")),
        ("n" * 128, Tag("n" * 128)),
    ],
)
def test_a_tag_is_a_name_and_at_most_one_of_version_and_alias(text: str, tag: Tag) -> None:
    assert parse_tag(text) == tag


@pytest.mark.parametrize("tag", [Tag("net"), Tag("net", "3"), Tag("net", alias="prod")])
def test_a_tag_written_out_reads_back_equal(tag: Tag) -> None:
    assert parse_tag(str(tag)) == tag


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\0b", ".tmp", "_x", "Net", "net ", "né", "n" * 129, "a\n"]
)
def test_a_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="is not a model name; expected"):
        parse_tag(name)


@pytest.mark.parametrize("text", ["net:", "net:0", "net:01", "net:v1", "net:-1", "net:1.0", "net:1:2", "net:١"])
def test_a_version_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="is not a version; expected a number from 1 on, or 'latest'"):
        parse_tag(text)


def test_a_name_in_capitals_is_refused_with_the_right_one() -> None:
    with pytest.raises(StoreError, match='Try "my_net"'):
        parse_tag("My Net")


def test_an_empty_alias_is_refused() -> None:
    with pytest.raises(StoreError, match="is not an alias"):
        parse_tag("net@")
