"""`paceline keys`: for people and with --json; secrets never in the output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paceline.cli.app import app
from paceline.protocol.keys import load_client, load_server


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "keys")


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["keys", *words])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def test_from_a_new_folder_to_a_client_that_is_revoked(folder: str) -> None:
    assert f"--native-keys {folder}" in run("new", folder).stdout
    file = str(Path(folder, "hand-over", "alice.key"))
    assert file in run("client", folder, "alice").stdout
    assert "alice" in run("list", folder).stdout
    assert "revoked alice" in run("revoke", folder, "alice").stdout
    listed = run("list", folder)
    assert not listed.stdout
    assert "no client is allowed" in listed.stderr


def test_each_has_its_json(folder: str, tmp_path: Path) -> None:
    assert json.loads(run("new", folder, "--json").stdout) == {
        "folder": folder,
        "public": load_server(Path(folder)).pair.public.decode(),
    }
    out = str(tmp_path / "a.key")
    assert json.loads(run("client", folder, "alice", "--out", out, "--json").stdout) == {
        "name": "alice",
        "key_file": out,
    }
    public = load_client(Path(out)).pair.public.decode()
    file = str(Path(folder, "clients", "alice.pub"))
    assert json.loads(run("list", folder, "--json").stdout) == [{"name": "alice", "public": public, "file": file}]
    assert json.loads(run("revoke", folder, "alice", "--json").stdout) == {"revoked": "alice"}
    assert json.loads(run("list", folder, "--json").stdout) == []


def test_no_secret_is_printed(folder: str) -> None:
    printed = run("new", folder).output + run("client", folder, "alice").output + run("list", folder, "--json").output
    client = load_client(Path(folder, "hand-over", "alice.key"))
    for secret in (load_server(Path(folder)).pair.secret, client.pair.secret):
        assert secret.decode() not in printed


def test_what_is_wrong_is_one_line_and_exit_code_2(folder: str) -> None:
    assert "paceline keys new" in run("client", folder, "alice", code=2).stderr
    run("new", folder)
    assert "has a server key already" in run("new", folder, code=2).stderr
    assert "client name is '../x'" in run("client", folder, "../x", code=2).stderr
    run("client", folder, "alice")
    assert 'Did you mean "alice"' in run("revoke", folder, "alicia", code=2).stderr
