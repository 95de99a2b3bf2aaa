"""The run directory and its lock."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from paceline.protocol.errors import StartError
from paceline.supervisor.run_dir import RunDir, owner_of


def test_directory_is_private_and_gone_after_release(run_dir: Path) -> None:
    with RunDir.acquire(run_dir) as held:
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
        held.fresh_slot().touch()
        held.control.touch()
        assert owner_of(run_dir) == os.getpid()
    assert not run_dir.exists()
    assert owner_of(run_dir) is None


def test_second_owner_is_refused_with_the_pid_of_the_first(run_dir: Path) -> None:
    with RunDir.acquire(run_dir), pytest.raises(StartError, match=rf"pid {os.getpid()}.*--run-dir"):
        RunDir.acquire(run_dir)
    with RunDir.acquire(run_dir):
        pass


def test_what_a_dead_owner_left_is_cleared_and_nothing_else(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    for name in ("control.sock", "h-1", "p-3", "s-2", "lock", "notes.txt"):
        (run_dir / name).touch()
    assert owner_of(run_dir) is None
    with RunDir.acquire(run_dir):
        assert sorted(os.listdir(run_dir)) == ["lock", "notes.txt"]
    assert os.listdir(run_dir) == ["notes.txt"]


def test_directory_that_a_dead_owner_made_is_removed_by_the_next(run_dir: Path) -> None:
    held = RunDir.acquire(run_dir)
    os.close(held._lock_fd)  # what the kernel does for a killed process
    with RunDir.acquire(run_dir):
        pass
    assert not run_dir.exists()


def test_directory_of_the_user_stays(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    with RunDir.acquire(run_dir):
        pass
    assert os.listdir(run_dir) == []


def test_look_at_the_owner_does_not_disturb_a_start(run_dir: Path) -> None:
    RunDir.acquire(run_dir).release()
    run_dir.mkdir(mode=0o700)
    (run_dir / "lock").touch()
    stopped = threading.Event()

    def look() -> None:
        while not stopped.is_set():
            owner_of(run_dir)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            RunDir.acquire(run_dir).release()
    finally:
        stopped.set()
        looking.join()


def test_directory_that_others_can_enter_is_refused(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o755)
    with pytest.raises(StartError, match="mode 0755"):
        RunDir.acquire(run_dir)


def test_link_is_refused(run_dir: Path) -> None:
    target = run_dir.with_name("t")
    target.mkdir(mode=0o700)
    run_dir.symlink_to(target)
    with pytest.raises(StartError, match="not a directory"):
        RunDir.acquire(run_dir)


def test_path_too_long_for_sockets_is_refused(run_dir: Path) -> None:
    with pytest.raises(StartError, match="--run-dir"):
        RunDir.acquire(run_dir / ("x" * 60))
    assert not run_dir.exists()


def test_only_files_of_its_own_are_forgotten(run_dir: Path) -> None:
    with RunDir.acquire(run_dir) as held:
        stranger = run_dir.with_name("s-stranger")
        stranger.touch()
        slot = held.fresh_slot()
        slot.touch()
        for path in (stranger, slot, run_dir / "lock", run_dir / "h-gone"):
            held.forget(path)
        assert os.listdir(run_dir) == ["lock"]
        assert stranger.exists()


def test_two_never_hold_it_at_once_however_they_race(run_dir: Path) -> None:
    holding, seen, errors = threading.Semaphore(1), [], []

    def come_and_go() -> None:
        for _ in range(100):
            try:
                held = RunDir.acquire(run_dir)
            except StartError as error:
                errors.append(str(error))
                continue
            alone = holding.acquire(blocking=False)
            seen.append(alone)
            if alone:
                holding.release()
            held.release()

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(seen)
    assert seen
    assert all("in use" in error or "appears" in error for error in errors)
    assert not run_dir.exists() or os.listdir(run_dir) == []
