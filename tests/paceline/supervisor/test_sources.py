"""Which files `--reload` sees, and what it does with a change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.protocol.errors import ConfigError
from paceline.supervisor import sources as sources_module
from paceline.supervisor.events import Broken, Event, Reloading, Stopped
from paceline.supervisor.reloading import serve_reloading
from paceline.supervisor.signals import Signals
from paceline.supervisor.sources import Sources


def write(path: Path, text: str = "x = 1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_new_changed_and_removed_files_are_told_once(tmp_path: Path) -> None:
    write(tmp_path / "service.py")
    write(tmp_path / "lib" / "deep.py")
    write(tmp_path / "gone.py")
    sources = Sources(tmp_path)
    assert sources.changes() == ()
    write(tmp_path / "lib" / "deep.py", "x = 22")
    write(tmp_path / "new.py")
    (tmp_path / "gone.py").unlink()
    assert sources.changes() == ("gone.py", "lib/deep.py", "new.py")
    assert sources.changes() == ()


def test_change_of_the_time_alone_counts(tmp_path: Path) -> None:
    write(tmp_path / "service.py")
    sources = Sources(tmp_path)
    os.utime(tmp_path / "service.py", (1, 1))
    assert sources.changes() == ("service.py",)


def test_what_is_not_the_users_source_is_not_looked_at(tmp_path: Path) -> None:
    sources = Sources(tmp_path)
    write(tmp_path / "data.json")
    write(tmp_path / ".hidden" / "a.py")
    write(tmp_path / "__pycache__" / "a.py")
    write(tmp_path / "env" / "pyvenv.cfg")
    write(tmp_path / "env" / "lib" / "a.py")
    assert sources.changes() == ()


def test_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources_module, "FILES_MAX", 2)
    sources = Sources(tmp_path)
    for name in "abc":
        write(tmp_path / f"{name}.py")
    assert sources.changes() == ("a.py", "b.py")
    monkeypatch.setattr(sources_module, "FOLDERS_MAX", 1)
    write(tmp_path / "a.py", "x = 22")
    write(tmp_path / "A" / "a.py")
    assert sources.changes() == ("a.py",)


def reload_through(
    folder: Path, *rounds: Callable[[Sources], Stopped | Reloading]
) -> tuple[Stopped, list[Event], list[Callable[[Sources], Stopped | Reloading]]]:
    left = list(rounds)
    events: list[Event] = []
    with Signals() as signals:
        stopped = serve_reloading(lambda sources: left.pop(0)(sources), folder, signals, events.append)
    return stopped, events, left


def test_server_starts_anew_after_a_change_until_it_is_stopped(tmp_path: Path) -> None:
    stopped, events, left = reload_through(
        tmp_path, lambda _: Reloading(("a.py",)), lambda _: Reloading(("b.py",)), lambda _: Stopped(0, "drained")
    )
    assert stopped == Stopped(0, "drained")
    assert events == [Reloading(("a.py",)), Reloading(("b.py",))]
    assert left == []


def test_what_cannot_start_is_told_and_tried_again_after_the_next_change(tmp_path: Path) -> None:
    def broken(_: Sources) -> Stopped:
        write(tmp_path / "service.py")
        raise ConfigError("svc cannot be imported")

    def lost(_: Sources) -> Stopped:
        write(tmp_path / "service.py", "x = 22")
        return Stopped(1, "nothing can be served")

    stopped, events, _ = reload_through(tmp_path, broken, lost, lambda _: Stopped(0, "drained"))
    assert stopped == Stopped(0, "drained")
    again = Reloading(("service.py",))
    assert events == [Broken("svc cannot be imported"), again, Broken("nothing can be served"), again]


def test_stop_signal_ends_the_wait_for_a_change(tmp_path: Path) -> None:
    def broken(_: Sources) -> Stopped:
        os.kill(os.getpid(), 15)
        return Stopped(1, "broken")

    stopped, _, _ = reload_through(tmp_path, broken)
    assert stopped.exit_code == 0


def test_second_signal_in_a_drain_is_not_reloaded(tmp_path: Path) -> None:
    stopped, events, _ = reload_through(tmp_path, lambda _: Stopped(130, "stopped at once by a second signal"))
    assert (stopped.exit_code, events) == (130, [])
