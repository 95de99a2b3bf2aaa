"""`paceline status` where there is nothing to ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.protocol.errors import StartError
from paceline.supervisor.run_dir import RunDir
from paceline.supervisor.status import fetch_status, live_run_dirs


def test_directory_without_server_is_a_clear_error(run_dir: Path) -> None:
    with pytest.raises(StartError, match="no server runs in"):
        fetch_status(run_dir)


def test_server_that_does_not_answer_is_named(run_dir: Path) -> None:
    with RunDir.acquire(run_dir), pytest.raises(StartError, match=r"did not answer within 0\.05 s"):
        fetch_status(run_dir, timeout_s=0.05)


def test_only_living_servers_are_listed(run_dir: Path) -> None:
    (run_dir / "run" / "p1").mkdir(mode=0o700, parents=True)
    (run_dir / "run" / "p1" / "lock").touch()
    with RunDir.acquire(run_dir / "run" / "p2"):
        assert live_run_dirs(run_dir) == [run_dir / "run" / "p2"]
    assert live_run_dirs(run_dir) == []
