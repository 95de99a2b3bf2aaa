"""The whole supervisor with real processes: fake children, real signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from paceline.protocol.control import State, Welcome
from paceline.protocol.spec import decode_serve
from paceline.supervisor import fetch_status

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[3]
Start = Callable[..., Any]
Until = Callable[[Callable[[], object]], None]


def pid_of(server: Any, name: str) -> int:
    return int(server.wait_for("ChildReady", again=True, name=name)["pid"])


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_server_becomes_ready_drains_on_sigterm_and_leaves_nothing(start: Start, run_dir: Path) -> None:
    server = start("good", workers=2, api_workers=2)
    ready = server.wait_for("Ready")
    assert [(each["name"], each["workers"], each["dispatch"]) for each in ready["runners"]] == [("good", 2, "worker")]
    assert {path.name[:2] for path in run_dir.iterdir()} == {"lo", "co", "h-", "s-"}
    pids = [pid_of(server, name) for name in ("good/0", "good/1", "api/0", "api/1")]
    server.signal(signal.SIGTERM)
    server.wait_for("Draining")
    assert server.exit_code() == 0
    assert server.events[-1] == {"event": "Stopped", "exit_code": 0, "reason": "drained"}
    assert not run_dir.exists()
    assert all(is_gone(pid) for pid in pids)
    assert "[good/1] loading on '' with 1 thread(s)" in server.errors()


def test_killed_worker_is_explained_published_and_replaced(start: Start, native: Any, run_dir: Path) -> None:
    server = start("busy")
    server.wait_for("Ready")
    client = native()
    first = client.wait_for(lambda topology: bool(topology.hosts))
    assert isinstance(client.messages[0], Welcome)
    assert decode_serve(client.messages[0].serve).runner("busy").version == "1"
    os.kill(pid_of(server, "busy/0"), signal.SIGKILL)
    second = client.wait_for(lambda topology: bool(topology.lost))
    assert second.hosts == ()
    assert second.version > first.version
    lost = second.lost[0]
    assert lost.incarnation == first.hosts[0].incarnation
    assert (lost.known, lost.started) == (True, ((b"o" * 16, 7), (b"o" * 16, 8)))
    assert "out-of-memory" in lost.reason
    third = client.wait_for(lambda topology: bool(topology.hosts))
    assert third.hosts[0].state == State.READY
    assert third.hosts[0].incarnation != first.hosts[0].incarnation
    died = server.wait_for("ChildDied")
    assert "2 request(s) had started" in died["explanation"]
    workers = [process for process in fetch_status(run_dir).processes if process.kind == "worker"]
    assert (workers[0].restarts, workers[0].state) == (1, "ready")
    assert workers[0].last_death == lost.reason
    assert workers[0].rss_bytes > 1_000_000
    assert len([name for name in os.listdir(run_dir) if name.startswith("h-")]) == 1


def test_runner_with_one_queue_is_one_host_and_is_drained_from_the_front(
    start: Start, native: Any, run_dir: Path
) -> None:
    server = start("good", workers=2, dispatch="central")
    assert server.wait_for("Ready")["runners"][0]["dispatch"] == "central"
    server.wait_for("ChildReady", again=True, name="good/0")
    server.wait_for("ChildReady", again=True, name="good/1")
    topology = native().wait_for(lambda topology: bool(topology.hosts))
    assert [host.address.rpartition("/")[2][:2] for host in topology.hosts] == ["h-"]
    assert {path.name[:2] for path in run_dir.iterdir()} == {"lo", "co", "h-", "p-", "s-"}
    server.signal(signal.SIGTERM)
    assert server.exit_code() == 0
    assert not run_dir.exists()
    log = server.errors()
    # Who was ready first is theirs to settle.
    for name in ("good/broker", "good/1"):
        assert any(f"[{name}] sees '{order}', 0 lost" in log for order in ("bww", "wbw", "wwb"))
    assert "[good/0] sees 'ww', 0 lost" in log  # the broker left before them
    assert log.index("[good/broker] drained") < min(log.index("[good/0] drained"), log.index("[good/1] drained"))


def test_killed_broker_is_published_with_what_its_workers_had_begun_and_replaced(
    start: Start, native: Any, run_dir: Path
) -> None:
    server = start("busy", workers=2, dispatch="central")
    server.wait_for("Ready")
    client = native()
    first = client.wait_for(lambda topology: bool(topology.hosts))
    before = {path.name for path in run_dir.iterdir() if path.name.startswith("p-")}
    os.kill(pid_of(server, "busy/broker"), signal.SIGKILL)
    lost = client.wait_for(lambda topology: bool(topology.lost)).lost[0]
    assert (lost.incarnation, lost.known, lost.suspects) == (first.hosts[0].incarnation, True, False)
    assert lost.started == ((b"o" * 16, 7), (b"o" * 16, 8))
    assert server.wait_for("ChildDied")["kind"] == "broker"
    successor = client.wait_for(lambda topology: bool(topology.hosts)).hosts[0]
    assert (successor.state, successor.address != first.hosts[0].address) == (State.READY, True)
    after = {path.name for path in run_dir.iterdir() if path.name.startswith("p-")}
    assert (len(after), after & before) == (1, set())
    brokers = [process for process in fetch_status(run_dir).processes if process.kind == "broker"]
    assert [(broker.runner, broker.restarts, broker.state) for broker in brokers] == [("busy", 1, "ready")]


def test_stopped_worker_leaves_rotation_within_three_seconds(start: Start, native: Any) -> None:
    server = start("good", workers=2)
    server.wait_for("Ready")
    client = native()
    client.wait_for(lambda topology: len(topology.hosts) == 2)
    stopped_at = time.monotonic()
    os.kill(pid_of(server, "good/0"), signal.SIGSTOP)
    client.wait_for(lambda topology: [host.state for host in topology.hosts].count("ready") == 1)
    # The promise is 3.0 s; the rest is for a busy test machine.
    assert time.monotonic() - stopped_at <= 3.3
    lost = client.wait_for(lambda topology: bool(topology.lost)).lost[0]
    assert lost.reason.startswith("hang")
    client.wait_for(lambda topology: [host.state for host in topology.hosts].count("ready") == 2)


def test_batch_over_its_execution_timeout_is_a_hang(start: Start) -> None:
    server = start("stuck", execution_timeout_ms=300)
    server.wait_for("ChildReady", name="stuck/0")
    died = server.wait_for("ChildDied", name="stuck/0")
    assert died["reason"].startswith("hang: a batch ran for")
    assert "execution_timeout_ms" in died["reason"]


def test_worker_in_a_long_batch_is_out_of_rotation_until_it_ends(start: Start, native: Any, run_dir: Path) -> None:
    server = start("slow")
    server.wait_for("ChildReady", name="slow/0")
    ready_at = time.monotonic()
    client = native()
    before = client.wait_for(lambda topology: [host.state for host in topology.hosts] == ["ready"])
    client.wait_for(lambda topology: [host.state for host in topology.hosts] == ["draining"])
    assert time.monotonic() - ready_at <= 3.3
    assert "slow/0" in server.wait_for("Stalled")["name"]
    assert "stalled" in {process.state for process in fetch_status(run_dir).processes}
    after = client.wait_for(lambda topology: [host.state for host in topology.hosts] == ["ready"])
    assert 4.0 <= time.monotonic() - ready_at + 0.1 <= 5.0
    assert after.hosts == before.hosts
    server.wait_for("Recovered", name="slow/0")


def test_crash_loop_is_given_up_and_with_nothing_left_the_exit_code_is_not_zero(start: Start) -> None:
    server = start("crasher")
    died = server.wait_for("ChildDied")
    assert died["reason"] == "exit code 7"
    assert died["last_lines"][-1] == "my last words"
    assert server.exit_code() == 1
    restarts = [event["delay_s"] for event in server.events if event["event"] == "Restarting"]
    assert restarts == [0.1, 0.2, 0.4, 0.8]
    assert "5 deaths" in server.events[-1]["reason"]


def test_load_error_is_given_up_with_its_reason_while_others_serve(start: Start, native: Any) -> None:
    server = start("unloadable", "good")
    given_up = server.wait_for("GivenUp")
    assert "weights are missing" in given_up["reason"]
    assert [each["name"] for each in server.wait_for("Ready")["runners"]] == ["good"]
    failed = native().wait_for(lambda topology: bool(topology.failed)).failed[0]
    assert failed.runner == "unloadable"
    assert "weights are missing" in failed.reason
    assert server.process.poll() is None


def test_second_signal_stops_at_once(start: Start, run_dir: Path) -> None:
    server = start("stubborn", drain_grace_s=60)
    server.wait_for("Ready")
    worker = pid_of(server, "stubborn/0")
    server.signal(signal.SIGINT)
    server.wait_for("Draining")
    server.signal(signal.SIGINT)
    assert server.exit_code() == 130
    assert is_gone(worker)
    assert not run_dir.exists()


def test_child_that_does_not_finish_is_killed_after_the_grace(start: Start) -> None:
    server = start("stubborn", drain_grace_s=0)
    server.wait_for("Ready")
    worker = pid_of(server, "stubborn/0")
    server.signal(signal.SIGTERM)
    assert server.exit_code() == 0
    assert is_gone(worker)


def test_killed_supervisor_leaves_no_process_and_a_clean_next_start(start: Start, run_dir: Path, until: Until) -> None:
    server = start("busy", api_workers=2)
    server.wait_for("Ready")
    pids = [pid_of(server, name) for name in ("busy/0", "api/0", "api/1")]
    left = {path.name for path in run_dir.iterdir() if path.name.startswith(("h-", "s-"))}
    server.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    until(lambda: all(is_gone(pid) for pid in pids))
    assert time.monotonic() - killed_at < 2.0
    again = start("good")
    again.wait_for("Ready")
    assert not left & {path.name for path in run_dir.iterdir()}


def test_second_server_on_the_same_run_dir_names_the_owner(start: Start) -> None:
    server = start("good")
    server.wait_for("Ready")
    second = start("good")
    error = second.wait_for("Error")["text"]
    assert f"pid {server.process.pid}" in error
    assert second.exit_code() == 1
    assert server.process.poll() is None


def test_port_in_use_names_the_owner(start: Start, run_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = start("good", port=port).wait_for("Error")["text"]
    assert f"port {port}" in error
    assert f"pid {os.getpid()}" in error
    assert not run_dir.exists()


def test_own_port_shared_by_api_servers_is_in_use_for_others(start: Start, run_dir: Path) -> None:
    server = start("good", api_workers=2)
    server.wait_for("Ready")
    error = start("good", at=run_dir.with_name("s"), port=server.port, api_workers=2).wait_for("Error")["text"]
    assert f"pid {server.process.pid}" in error


def test_unknown_model_is_a_start_error_in_the_inspectors_words(start: Start, run_dir: Path) -> None:
    server = start("unknown")
    assert server.wait_for("Error")["text"] == 'model "unknown" is not in the store.'
    assert server.exit_code() == 1
    assert not run_dir.exists()


def test_no_connection_is_refused_while_an_api_server_is_replaced(start: Start) -> None:
    server = start("good", api_workers=2)
    server.wait_for("Ready")
    answering = {int(ask(server.port)) for _ in range(64)}
    assert answering == {pid_of(server, "api/0"), pid_of(server, "api/1")}
    os.kill(pid_of(server, "api/0"), signal.SIGKILL)
    killed_at = time.monotonic()
    # Until then it may still accept: its own connections are reset.
    server.wait_for("ChildDied", name="api/0")
    answers = [ask(server.port) for _ in range(64)]
    assert all(answers)
    successor = server.wait_for("ChildReady", name="api/0")
    assert time.monotonic() - killed_at < 3.0
    assert successor["pid"] not in answering


def test_supervisor_imports_neither_torch_nor_the_store() -> None:
    code = "import sys, paceline.supervisor; sys.exit(any(m in sys.modules for m in ('torch', 'paceline.store')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=False).returncode == 0


def test_error_in_an_event_handler_leaves_no_process(start: Start, until: Until) -> None:
    server = start("good")
    server.wait_for("Ready")
    pids = [pid_of(server, name) for name in ("good/0", "api/0")]
    server.process.stdout.close()  # the next event cannot be printed
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: all(is_gone(pid) for pid in pids) and server.process.poll() is not None)


def ask(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile() as stream:
        return stream.readline().strip()
