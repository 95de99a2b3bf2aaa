"""Two data sockets as one, and what becomes of the second where its port or keys are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paceline.protocol.channel import Channels, fresh_incarnation
from paceline.protocol.key_folder import create
from paceline.protocol.spec import HttpSpec, NativeSpec, RunnerSpec, ServeSpec
from paceline.protocol.tcp import split_tcp
from paceline.runner.crossing import Crossing, open_remote
from tests.runner.host_fakes import FakePort


@pytest.fixture
def channels() -> Iterator[Channels]:
    with Channels() as opened:
        yield opened


def spec(listen: str, keys: Path) -> ServeSpec:
    runner = RunnerSpec("net", "net", "1", "", "pytorch", "/store", (), workers=2)
    return ServeSpec((runner, replace(runner, name="other")), HttpSpec(), "/run/p", NativeSpec(listen, str(keys)))


def test_messages_come_from_both_and_answers_go_where_their_peer_is() -> None:
    local, remote = FakePort(), FakePort()
    here, there = fresh_incarnation(), fresh_incarnation(remote=True)
    local.inbound, remote.inbound = [(here, [b"1"])], [(there, [b"2"])]
    both: Any = Crossing(local, remote)  # type: ignore[arg-type]  # ports are all that it needs
    assert list(both.drain()) == [(here, [b"1"]), (there, [b"2"])]
    remote.deaf = {there}
    assert (both.send(here, [b"3"]), both.send(there, [b"4"])) == (True, False)
    assert (local.sent, remote.sent) == ([(here, [b"3"])], [])


def test_workers_have_the_ports_after_the_servers_own_in_order() -> None:
    serve = spec("tcp://gpu-1:7400", Path("/keys"))
    places = [("net", 0), ("net", 1), ("other", 0), ("other", 1)]
    assert [serve.native_address(*place) for place in places] == [f"tcp://gpu-1:740{number}" for number in (1, 2, 3, 4)]
    assert spec("tcp://gpu-1:0", Path("/keys")).native_address("other", 1) == "tcp://gpu-1:0"
    assert spec("tcp://gpu-1:65534", Path("/keys")).native_address("net", 1) == "tcp://gpu-1:0"


def test_of_a_runner_with_one_queue_only_the_broker_has_a_port() -> None:
    serve = spec("tcp://gpu-1:7400", Path("/keys"))
    serve = replace(serve, runners=(replace(serve.runners[0], dispatch="central"), *serve.runners[1:]))
    assert [serve.native_address(*place) for place in (("net", 0), ("other", 0))] == [
        "tcp://gpu-1:7401",
        "tcp://gpu-1:7402",
    ]


def test_a_client_on_another_machine_is_told_no_path_and_no_address() -> None:
    serve = spec("tcp://0.0.0.0:7400", Path("/keys"))
    told = str(replace(serve, http=HttpSpec(host="10.1.2.3", port=8123)).for_remote())
    assert not [text for text in ("/keys", "/run/p", "/store", "10.1.2.3", "8123", "7400") if text in told]


def test_without_native_listen_there_is_no_second_socket(channels: Channels) -> None:
    assert open_remote(channels, replace(spec("", Path()), native=NativeSpec()), "net", 0) is None


def test_a_taken_port_is_replaced_by_a_free_one(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path / "keys")
    first = open_remote(channels, spec("tcp://127.0.0.1:0", tmp_path / "keys"), "net", 0)
    assert first is not None
    _, port = split_tcp(first.address)
    second = open_remote(channels, spec(f"tcp://127.0.0.1:{port - 1}", tmp_path / "keys"), "net", 0)
    assert second is not None
    assert split_tcp(second.address)[1] not in (0, port)
    assert [record.getMessage() for record in caplog.records] == ["remote clients get a free port"]


def test_keys_that_are_gone_cost_the_other_machines_and_nobody_else(
    channels: Channels, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert open_remote(channels, spec("tcp://127.0.0.1:0", tmp_path), "net", 0) is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
