"""Children: their spec through the pipe, and their end with the parent. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from paceline.protocol import child, limits
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ProtocolError, StartError
from paceline.protocol.slot import Slot, read_slot
from paceline.protocol.spec import encode_child
from tests.protocol.corpus import CHILD

CHILD_MAIN = """
import sys, time
from paceline.protocol.child import adopt
spec = adopt(sys.argv)
print(spec.runner, flush=True)
time.sleep(60)
"""

# A parent that starts one child, says its pid, and waits to be killed. With `keep` it hands the lifeline's writing end
# to a bystander, so that only PDEATHSIG can end the child; with `lifeline` it closes that end and lives on.
PARENT_MAIN = """
import os, subprocess, sys, time
from dataclasses import replace
from paceline.protocol.spec import encode_child
from tests.protocol.corpus import CHILD
main, how = sys.argv[1:]
lifeline, alive = os.pipe()
reader, writer = os.pipe()
spec = encode_child(replace(CHILD, parent_pid=os.getpid(), lifeline_fd=lifeline))
child = subprocess.Popen([sys.executable, "-c", main, str(reader)], pass_fds=(reader, lifeline), stdout=subprocess.PIPE)
os.write(writer, spec)
os.close(writer)
assert child.stdout.readline() == b"net\\n"
if how == "lifeline":
    os.close(alive)
    child.wait()
    print(child.returncode, flush=True)
    sys.exit()
bystander = subprocess.Popen(["sleep", "60"], pass_fds=(alive,) if how == "keep" else (), stdout=subprocess.DEVNULL)
print(child.pid, bystander.pid, flush=True)
time.sleep(60)
"""


def start_parent(how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT_MAIN, CHILD_MAIN, how], stdout=subprocess.PIPE)


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    waiting = threading.Event()
    end = SystemClock.now() + timeout_s
    while not true():
        if SystemClock.now() > end:
            return False
        waiting.wait(0.005)
    return True


def gone(pid: int) -> bool:
    """Whether `pid` is no process any more, or one that only its new parent has not noticed to be dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="PDEATHSIG is Linux only")
def test_child_dies_with_its_parent_even_if_the_lifeline_is_held_open() -> None:
    with start_parent("keep") as parent:
        assert parent.stdout is not None
        pid, bystander = map(int, parent.stdout.readline().split())
        assert not gone(pid)
        parent.kill()
    try:
        assert wait_until(lambda: gone(pid))
    finally:
        os.kill(bystander, signal.SIGKILL)


def test_child_exits_at_the_end_of_its_lifeline() -> None:
    with start_parent("lifeline") as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) == child.ORPHANED_EXIT


def test_child_whose_parent_is_gone_already_exits_at_once() -> None:
    code = f"from paceline.protocol.child import die_with_parent; die_with_parent({os.getpid()} + 1, 0); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (child.ORPHANED_EXIT, b"")


@pytest.mark.parametrize("argv", [["worker"], ["worker", "three"], ["worker", "987654"], []])
def test_module_run_by_hand_says_who_starts_it(argv: list[str]) -> None:
    with pytest.raises(StartError, match=r"expected the descriptor of a pipe.*use `paceline serve`"):
        child.adopt(argv)


def test_spec_cut_short_is_a_protocol_error() -> None:
    reader, writer = os.pipe()
    os.write(writer, encode_child(replace(CHILD, parent_pid=1))[:-1])
    os.close(writer)
    with pytest.raises(ProtocolError):
        child.adopt(["worker", str(reader)])


def test_heart_beats_until_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_S", 0.01)
    path = tmp_path / "slot"
    slot = Slot(path)
    stopped = child.beat_forever(slot)

    def beat_ns() -> int:
        view = read_slot(path)
        return view.beat_ns if view else 0

    assert wait_until(lambda: beat_ns() > 0)
    first = beat_ns()
    assert wait_until(lambda: beat_ns() > first)
    slot.close()
    assert wait_until(lambda: "heartbeat" not in {thread.name for thread in threading.enumerate()})
    stopped.set()
