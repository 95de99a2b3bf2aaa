"""Aliases: set, move, list, remove, resolve; what they keep from being deleted; damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paceline.protocol.errors import ModelNotFound, StoreError, VersionNotFound
from paceline.protocol.signature import MethodSpec
from paceline.store import ModelStore, parse_tag


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """net:1 to net:3 and other:1."""
    store = ModelStore(tmp_path / "home")
    for name in ("net", "net", "net", "other"):
        with store.create(name, framework="custom", methods={"__call__": MethodSpec("__call__")}) as pending:
            pending.write("weights.bin", [b"weights"])
    return store


def test_an_alias_names_a_version_and_moves(store: ModelStore) -> None:
    assert store.set_alias("net:1", "prod") is None
    assert str(store.get("net@prod").tag) == "net:1"
    assert store.set_alias("net:latest", "prod") == "1"
    assert str(store.get("net@prod").tag) == str(store.resolve("net@prod")) == "net:3"
    assert store.set_alias("net@prod", "canary") is None
    assert store.set_alias("net:3", "prod") == "3"
    assert store.aliases("net") == {"canary": "3", "prod": "3"}
    assert store.aliases("other") == store.aliases("none") == {}


def test_aliases_are_no_versions_and_no_files_of_one(store: ModelStore) -> None:
    store.set_alias("net:1", "prod")
    assert store.versions("net") == ["1", "2", "3"]
    assert store.names() == ["net", "other"]
    store.verify("net@prod")


def test_a_new_save_leaves_an_alias_where_it_is(store: ModelStore) -> None:
    store.set_alias("net", "prod")
    with store.create("net", framework="custom", methods={}) as pending:
        pending.write("weights.bin", [b"new"])
    assert str(store.get("net@prod").tag) == "net:3"
    assert str(store.get("net").tag) == "net:4"


def test_a_removed_alias_is_gone_and_its_version_stays(store: ModelStore) -> None:
    store.set_alias("net:2", "prod")
    assert store.remove_alias("net@prod") == "2"
    assert store.aliases("net") == {}
    assert str(store.get("net:2").tag) == "net:2"
    with pytest.raises(VersionNotFound, match='no alias "prod"'):
        store.remove_alias("net@prod")
    with pytest.raises(StoreError, match="names no alias; expected name@alias such as 'net@prod'"):
        store.remove_alias("net:2")


def test_an_unknown_alias_names_the_nearest_and_the_way_to_set_it(store: ModelStore) -> None:
    store.set_alias("net:2", "prod")
    with pytest.raises(VersionNotFound, match=r'no alias "prd".*Did you mean "prod".*paceline models alias net:1 prd'):
        store.get("net@prd")
    with pytest.raises(ModelNotFound):
        store.set_alias("ne", "prod")
    with pytest.raises(VersionNotFound, match="no version 9"):
        store.set_alias("net:9", "prod")
    assert store.aliases("net") == {"prod": "2"}


@pytest.mark.parametrize("alias", ["", "Prod", "1", "a/b", "..", ".x", "a" * 65, "a\n", 3, None])
def test_an_alias_that_is_no_plain_name_is_refused(store: ModelStore, alias: object) -> None:
    with pytest.raises(StoreError, match="is not an alias; expected 1 to 64"):
        store.set_alias("net:1", alias)  # type: ignore[arg-type]


def test_latest_cannot_be_set(store: ModelStore) -> None:
    with pytest.raises(StoreError, match='"latest" cannot be set'):
        store.set_alias("net:1", "latest")
    with pytest.raises(StoreError, match="the highest version is net:latest"):
        parse_tag("net@latest")


def test_a_version_that_an_alias_names_is_deleted_by_force_only(store: ModelStore) -> None:
    store.set_alias("net:2", "prod")
    store.set_alias("net:2", "canary")
    store.set_alias("net:1", "old")
    with pytest.raises(StoreError, match=r"net:2 is what net@canary, net@prod names; move .* --force"):
        store.delete("net:2")
    assert str(store.get("net@prod").tag) == "net:2"
    deleted = store.delete("net:2", force=True)
    assert (str(deleted.tag), deleted.aliases) == ("net:2", ("canary", "prod"))
    assert store.aliases("net") == {"old": "1"}


def test_an_alias_of_a_version_that_is_gone_says_so_and_can_be_removed(store: ModelStore) -> None:
    store.set_alias("net:2", "prod")
    os.rename(store.home / "models/net/2", store.home / "elsewhere")
    with pytest.raises(VersionNotFound, match="net@prod names version 2, which is not there; it has 1, 3"):
        store.get("net@prod")
    assert store.remove_alias("net@prod") == "2"


def test_aliases_go_with_their_model(store: ModelStore) -> None:
    store.set_alias("net:2", "prod")
    store.delete_model("net")
    assert store.aliases("net") == {}
    with pytest.raises(ModelNotFound):
        store.set_alias("net:2", "prod")


@pytest.mark.parametrize("content", [b"", b"0\n", b"x\n", b"1\n2\n", b"1" * 100, b"\xff\n"])
def test_a_damaged_alias_is_named_and_can_be_set_again(store: ModelStore, content: bytes) -> None:
    store.set_alias("net:2", "prod")
    (store.home / "models/net/.aliases/prod").write_bytes(content)
    with pytest.raises(StoreError, match="prod"):
        store.get("net@prod")


def test_an_alias_that_is_a_link_is_refused(store: ModelStore, tmp_path: Path) -> None:
    store.set_alias("net:2", "prod")
    (tmp_path / "number").write_text("1\n")
    path = store.home / "models/net/.aliases/prod"
    path.unlink()
    path.symlink_to(tmp_path / "number")
    with pytest.raises(StoreError, match="symbolic link"):
        store.get("net@prod")
