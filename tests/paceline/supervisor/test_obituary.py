"""How deaths are worded."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from paceline.supervisor.obituary import Remains, explain, oom_kills, reason_of


@pytest.mark.parametrize(
    ("remains", "reason"),
    [
        (Remains(3), "exit code 3"),
        (Remains(0), "exit code 0, without having been asked to stop"),
        (Remains(-signal.SIGSEGV), "killed by SIGSEGV"),
        (Remains(-60), "killed by signal 60"),
        (Remains(-signal.SIGKILL, killed_for="hang: no beat"), "hang: no beat"),
        (Remains(3, said="OSError: no weights"), "OSError: no weights"),
        (Remains(86), "exit code 86: it lost its parent"),
    ],
)
def test_reason_names_exit_code_signal_or_cause(remains: Remains, reason: str) -> None:
    assert reason_of(remains) == reason


def test_foreign_sigkill_suspects_the_oom_killer_and_with_evidence_says_so() -> None:
    assert "perhaps by the out-of-memory killer" in reason_of(Remains(-signal.SIGKILL))
    assert reason_of(Remains(-signal.SIGKILL, oom_kills=1)).startswith("out of memory")


def test_explanation_names_started_requests() -> None:
    remains = Remains(1, in_hand=((b"\x01" * 16, 5), (b"\x02" * 16, 6)))
    assert explain(remains) == "exit code 1; 2 request(s) had started: 01010101-5, 02020202-6"


def test_many_started_requests_are_counted_not_listed() -> None:
    text = explain(Remains(1, in_hand=tuple((b"\x01" * 16, n) for n in range(100))))
    assert "100 request(s) had started" in text
    assert text.endswith("and 92 more")


def test_unknown_start_is_said() -> None:
    assert "which requests had started is not known" in explain(Remains(1, in_hand=None))


def test_oom_kills_are_read_from_cgroup_two(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills("0::/service\n", tmp_path) == 2


def test_oom_kills_are_read_from_cgroup_one(tmp_path: Path) -> None:
    (tmp_path / "memory" / "a").mkdir(parents=True)
    (tmp_path / "memory" / "a" / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    assert oom_kills("5:cpu,memory:/a\n0::/\n", tmp_path) == 4


def test_oom_kills_without_cgroup_are_none(tmp_path: Path) -> None:
    assert oom_kills("", tmp_path) == 0
    assert oom_kills("0::/\n", tmp_path) == 0
