"""Key files and folders: private, checked, never shown; who is let in follows the folder."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from paceline.protocol import keys
from paceline.protocol.errors import ConfigError
from paceline.protocol.key_folder import admit, allowed_clients, create, revoke
from paceline.protocol.keys import AllowList, ClientKeys, KeyPair, load_client, load_public, load_server

PUBLIC, SECRET = b"p" * 40, b"s" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "keys")
    return tmp_path / "keys"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create(tmp_path / "keys")
        admit(tmp_path / "keys", "alice")
    finally:
        os.umask(before)
    modes = {mode_of(path) for path in (tmp_path / "keys").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {mode_of(path) for path in [tmp_path / "keys", *(tmp_path / "keys").rglob("*")] if path.is_dir()} == {0o700}


def test_a_client_gets_its_own_pair_and_the_servers_public_key(folder: Path) -> None:
    alice, bob = load_client(admit(folder, "alice")), load_client(admit(folder, "bob"))
    assert alice.server == bob.server == load_server(folder).pair.public
    assert len({alice.pair.public, alice.pair.secret, bob.pair.public, bob.pair.secret}) == 4
    assert AllowList(folder / "clients").read() == {alice.pair.public, bob.pair.public}
    assert [(each.name, each.public.encode()) for each in allowed_clients(folder)] == [
        ("alice", alice.pair.public),
        ("bob", bob.pair.public),
    ]


def test_no_secret_of_a_client_stays_among_what_the_server_reads(folder: Path, tmp_path: Path) -> None:
    file = admit(folder, "alice", tmp_path / "alice.key")
    secret = load_client(file).pair.secret
    assert not [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_secrets_are_not_in_the_texts_of_keys(folder: Path) -> None:
    server, client = load_server(folder), load_client(admit(folder, "alice"))
    texts = f"{server!r} {server} {client!r} {client}"
    assert server.pair.secret.decode() not in texts
    assert client.pair.secret.decode() not in texts


def test_a_list_follows_its_folder(folder: Path) -> None:
    allowed = AllowList(folder / "clients")
    assert allowed.read() == frozenset()
    alice = load_client(admit(folder, "alice")).pair.public
    assert allowed.read() == {alice}
    revoke(folder, "alice")
    assert allowed.read() == frozenset()
    again = load_client(admit(folder, "alice")).pair.public
    assert allowed.read() == {again} != {alice}


def test_a_damaged_or_open_file_lets_its_client_in_no_more_and_disturbs_no_other(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("alice", "bob", "carol")
    alice, *_ = [load_client(admit(folder, name)).pair.public for name in names]
    (folder / "clients" / "bob.pub").write_text('public = "')
    (folder / "clients" / "carol.pub").chmod(0o644)
    (folder / "clients" / "notes.txt").write_text("hello")
    allowed = AllowList(folder / "clients")
    with caplog.at_level(logging.WARNING):
        assert allowed.read() == {alice}
        assert allowed.read() == {alice}
    assert len(caplog.records) == 2
    (folder / "clients" / "carol.pub").chmod(0o600)
    assert len(allowed.read()) == 2


def test_a_folder_that_cannot_be_read_lets_nobody_in(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    admit(folder, "alice")
    allowed = AllowList(folder / "clients")
    assert len(allowed.read()) == 1
    (folder / "clients").rename(folder / "elsewhere")
    assert allowed.read() == allowed.read() == frozenset()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_more_clients_than_the_limit_are_not_let_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "CLIENT_KEYS_MAX", 2)
    for name in ("a", "b", "c"):
        admit(folder, name)
    assert len(AllowList(folder / "clients").read()) == 2


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="client name is"):
        admit(folder, name)
    with pytest.raises(ConfigError, match="client name is"):
        revoke(folder, name)


def test_what_exists_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a server key already"):
        create(folder)
    admit(folder, "alice")
    with pytest.raises(ConfigError, match="revoke it first"):
        admit(folder, "alice")
    (tmp_path / "taken").touch()
    with pytest.raises(ConfigError, match="File exists"):
        admit(folder, "bob", tmp_path / "taken")
    assert [client.name for client in allowed_clients(folder)] == ["alice"]


def test_revoking_takes_the_hand_over_file_along_and_knows_near_names(folder: Path) -> None:
    file = admit(folder, "alice")
    with pytest.raises(ConfigError, match='Did you mean "alice"'):
        revoke(folder, "alise")
    revoke(folder, "alice")
    assert not file.exists()


def test_a_folder_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"paceline keys new {tmp_path}"):
        load_server(tmp_path)


@pytest.mark.parametrize("which", ["", "server.key", "clients"])
def test_what_others_can_read_is_refused_with_the_remedy(folder: Path, which: str) -> None:
    path = folder / which
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(ConfigError, match=f"chmod (700|600) {path}"):
        load_server(folder)


def test_a_clients_file_that_others_can_read_is_refused(folder: Path) -> None:
    file = admit(folder, "alice")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {file}"):
        load_client(file)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "public = 1",
        'public = "short"',
        f'public = "{"p" * 41}"',
        f'public = "{"p" * 39}\\""',
        'public = "' + "é" * 40 + '"',
        "[" * 2000,
        "x" * 5000,
        "\0",
        f'secret = "{"s" * 40}"',
    ],
)
def test_a_damaged_file_is_an_error_that_shows_nothing_of_it(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.pub"
    keys.write_keys(file, "a comment")
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_public(file)
    assert str(caught.value) == f"{file} is not a key file with public; make one with: paceline keys"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the key file .*none: No such file"):
        load_client(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot read the key file"):
        load_client(tmp_path)


def test_keys_are_read_as_they_were_written(tmp_path: Path) -> None:
    keys.write_keys(tmp_path / "k", "a comment", server=PUBLIC, public=PUBLIC, secret=SECRET)
    assert load_client(tmp_path / "k") == ClientKeys(PUBLIC, KeyPair(PUBLIC, SECRET))
