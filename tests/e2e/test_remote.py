"""Native clients over tcp, as from another machine: keys, deadlines, deaths; and no keys, no port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

import paceline
from paceline.client import native_link
from paceline.protocol import key_folder
from paceline.protocol.keys import load_client, load_server
from tests.e2e.harness import ROOT, Server, wait_until

pytestmark = pytest.mark.e2e

X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A server's key folder."""
    folder = tmp_path / "keys"
    key_folder.create(folder)
    return folder


@pytest.fixture
def alice(keys: Path) -> Path:
    """The key file of an allowed client."""
    return key_folder.admit(keys, "alice")


@pytest.fixture
def server(serve: Callable[..., Server], keys: Path) -> Server:
    return serve("--native-listen", "tcp://127.0.0.1:0", "--native-keys", str(keys))


def address(server: Server) -> str:
    event = server.event("ready")
    assert event is not None
    return str(event["native"])


def test_a_client_with_a_key_predicts_blocking_and_asyncio(server: Server, alice: Path) -> None:
    with paceline.Client(address(server), key_file=alice) as client:
        np.testing.assert_array_equal(client.predict("probe", X), X + 1)
        large = np.random.default_rng(1).random((40, 250_000), np.float32)
        np.testing.assert_array_equal(client.predict("probe", large), large + np.float32(1))
        assert client.ready("probe")
        assert client.metadata("probe")["versions"] == ["1"]
        with pytest.raises(paceline.ModelRejectedInput, match="13 is refused"):
            client.predict("probe", np.full((1, 4), 13, np.float32))

    async def ask() -> list[object]:
        async with paceline.AsyncClient(address(server), key_file=str(alice)) as client:
            return list(await asyncio.gather(*[client.predict("probe", X - number) for number in range(200)]))

    for number, answer in enumerate(asyncio.run(ask())):
        np.testing.assert_array_equal(np.asarray(answer), X - number + 1)


def test_a_key_that_is_not_allowed_gets_nothing_and_an_error_that_says_so(
    server: Server, alice: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "LOST_S", 1.0)
    other = tmp_path / "other"
    key_folder.create(other)
    of_another_server = key_folder.admit(other, "alice")
    unknown = key_folder.admit(keys, "mallory")
    key_folder.revoke(keys, "alice")
    mallory = unknown.read_text()
    key_folder.revoke(keys, "mallory")
    (tmp_path / "mallory.key").touch(0o600)
    (tmp_path / "mallory.key").write_text(mallory)
    for key_file in (of_another_server, tmp_path / "mallory.key"):
        with (
            paceline.Client(address(server), key_file=key_file) as client,
            pytest.raises(paceline.ServerUnreachable, match="does not let this client's key in"),
        ):
            client.predict("probe", X)


def test_a_revoked_key_is_cut_off_where_it_is_in_already(
    server: Server, alice: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_link, "LOST_S", 1.0)
    bob = key_folder.admit(keys, "bob")
    with (
        paceline.Client(address(server), 2.0, key_file=alice) as client,
        paceline.Client(address(server), key_file=bob) as other,
    ):
        client.predict("probe", X)
        key_folder.revoke(keys, "alice")

        errors: list[Exception] = []

        def is_refused() -> bool:
            """The old connection is given up first, then no new one is to be had."""
            try:
                client.predict("probe", X)
            except (paceline.ServerUnreachable, paceline.NoWorker, paceline.DeadlineExceeded) as error:
                errors.append(error)
            return bool(errors) and isinstance(errors[-1], paceline.ServerUnreachable)

        wait_until(is_refused, 20.0, "the revoked key to be refused")
        assert "revoked" in str(errors[-1])
        np.testing.assert_array_equal(other.predict("probe", X), X + 1)


def test_a_deadline_is_kept_and_the_next_request_answered(server: Server, alice: Path) -> None:
    with paceline.Client(address(server), key_file=alice) as client:
        client.predict("probe", X)
        began = time.monotonic()
        with pytest.raises(paceline.DeadlineExceeded):
            client.predict("probe", np.full((1, 1), 0.6, np.float32), method="nap", timeout_s=0.2)
        assert 0.2 <= time.monotonic() - began < 0.5
        np.testing.assert_array_equal(client.predict("probe", X, timeout_s=5.0), X + 1)


def test_a_killed_worker_loses_nothing_of_a_remote_client(server: Server, alice: Path) -> None:
    server.deaths_planned = True
    with paceline.Client(address(server), key_file=alice) as client, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(client.predict, "probe", X - number) for number in range(50)]
        victim = server.pid("worker")
        os.kill(victim, signal.SIGKILL)
        answers += [pool.submit(client.predict, "probe", X - number) for number in range(50, 100)]
        for number, answer in enumerate(answers):
            np.testing.assert_array_equal(np.asarray(answer.result(40)), X - number + 1)
        assert server.pid("worker") != victim


def test_workers_listen_on_the_ports_after_the_servers_own(
    serve: Callable[..., Server], keys: Path, alice: Path
) -> None:
    port = free_ports(2)
    server = serve("--native-listen", f"tcp://127.0.0.1:{port}", "--native-keys", str(keys))
    with paceline.Client(address(server), key_file=alice) as client:
        client.predict("probe", X)
    assert listens_on(server.pid("supervisor"), port)
    assert listens_on(server.pid("worker"), port + 1)


def test_a_client_finds_the_server_again_after_its_restart(
    serve: Callable[..., Server], keys: Path, alice: Path
) -> None:
    listen = f"tcp://127.0.0.1:{free_ports(2)}"
    flags = ("--native-listen", listen, "--native-keys", str(keys))
    first = serve(*flags)
    with paceline.Client(listen, key_file=alice) as client:
        client.predict("probe", X)
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(10)
        serve(*flags)
        np.testing.assert_array_equal(client.predict("probe", X), X + 1)


def test_secrets_are_in_no_argument_variable_or_line(server: Server, keys: Path, alice: Path) -> None:
    with paceline.Client(address(server), key_file=alice) as client:
        client.predict("probe", X)
    secrets = [load_server(keys).pair.secret, load_client(alice).pair.secret]
    seen = ["".join(server.stderr), str(server.events), str(server.status())]
    for process in server.processes():
        seen += [
            " ".join(process.cmdline()),
            Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace"),
        ]
    assert not [text for text in seen for secret in secrets if secret.decode() in text]


def test_without_keys_it_refuses_to_listen(store_home: Path, run_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "paceline", "serve", "probe", "--port", "0", "--run-dir", str(run_dir)]
    environ = os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)}
    for flags in ((), ("--native-keys", str(tmp_path))):
        done = subprocess.run(
            [*command, "--native-listen", "tcp://0.0.0.0:7400", *flags],
            capture_output=True,
            text=True,
            env=environ,
            cwd="/",
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "paceline keys new" in done.stderr


def test_without_native_listen_nothing_listens_but_http(serve: Callable[..., Server]) -> None:
    server = serve()
    assert address(server) == ""
    ports = {each.laddr.port for process in server.processes() for each in process.net_connections("tcp")}
    assert ports == {server.port}


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that are free now."""
    for first in range(20_000 + os.getpid() % 10_000, 32_000):
        opened = []
        try:
            for port in range(first, first + count):
                opened.append(socket.socket())
                opened[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for each in opened:
                each.close()
    raise AssertionError("no free ports")


def listens_on(pid: int, port: int) -> bool:
    found = psutil.Process(pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in found)
