"""The store between processes: concurrent saves, readers beside them, and a kill at every point of a save.

The children are forked from a small program that has imported the store and nothing heavy: hundreds of saves in
seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

COMMON = """
import os, signal, sys, time
from pathlib import Path
from paceline.protocol.signature import MethodSpec
from paceline.store import ModelStore

METHODS = {"__call__": MethodSpec("__call__")}

def save(home, data):
    with ModelStore(home).create("net", framework="custom", methods=METHODS) as pending:
        pending.write("a.bin", [data])
        pending.write("b.bin", [data * 1000])
    return pending.saved.tag.version

def check(home, contents):
    store = ModelStore(home)
    for version in store.versions("net"):
        found = store.verify(f"net:{version}")
        assert found.saved_here and found.read("a.bin") in contents, version
    return [int(version) for version in store.versions("net")]

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

KILL = """
CALLS = ("open", "write", "fsync", "mkdir", "rename", "link", "unlink", "rmdir", "close", "fchmod")

def arm(point, after):
    # SIGKILL at the point-th system call of the save: before it, or after it (a write: after half of it).
    passed = 0
    def wrap(name, call):
        def counted(*args, **kwargs):
            nonlocal passed
            passed += 1
            if passed == point:
                if after:
                    if name == "write":
                        args = (args[0], args[1][: len(args[1]) // 2])
                    try:
                        call(*args, **kwargs)
                    finally:
                        os.kill(os.getpid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return counted
    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))

def points(old, after):
    point = 0
    while True:
        point += 1
        home = Path(sys.argv[1]) / f"{old}-{after}-{point}"
        for _ in range(old):
            save(home, b"old")
        pid = os.fork()
        if pid == 0:
            arm(point, after)
            save(home, b"new")
            os._exit(0)
        code = wait(pid)
        assert code in (0, -signal.SIGKILL), code
        versions = check(home, {b"old", b"new"})
        before = list(range(1, old + 1))
        if code == 0:
            assert versions == [*before, old + 1], versions
            return point - 1
        # Only what is killed behind the rename has a new version, and then a whole one.
        assert versions in (before, [*before, old + 1]), versions
        assert versions == before or ModelStore(home).get("net").read("a.bin") == b"new"
        later = ModelStore(home, wall_clock=lambda: time.time() + 7200)
        later.sweep()
        assert os.listdir(home / "models" / ".tmp") == [] if (home / "models" / ".tmp").exists() else True
        number = int(save(home, b"next"))
        assert number > max(versions, default=0), number
        check(home, {b"old", b"new", b"next"})

print(*[points(old, after) for old in (0, 1) for after in (False, True)])
"""

SAVES = """
def spawn(home, gate, child):
    pid = os.fork()
    if pid == 0:
        os.close(gate[1])
        os.read(gate[0], 1)  # ends when the parent closes its end: all start at once
        try:
            child(home)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid

def write(home):
    save(home, b"x")

def read(home):
    store = ModelStore(home)
    while len(versions := store.versions("net")) < 32:
        if versions:
            assert store.verify("net").read("a.bin") == b"x"
            store.list("net")

def churn(home):
    # A cleaner beside them: it sweeps, and deletes versions of another model while they are being made.
    store = ModelStore(home)
    while len(store.versions("net")) < 32:
        store.sweep()
        with store.create("other", framework="custom", methods=METHODS) as pending:
            pending.write("a.bin", [b"y"])
        store.delete(pending.saved.tag)

for round in range(int(sys.argv[2])):
    home = Path(sys.argv[1]) / str(round)  # not even a key yet: the 32 must agree on one
    gate = os.pipe()
    pids = [spawn(home, gate, child) for child in [write] * 32 + [read] * 2 + [churn]]
    os.close(gate[0]); os.close(gate[1])
    assert [wait(pid) for pid in pids] == [0] * 35
    assert check(home, {b"x"}) == list(range(1, 33))
    assert os.listdir(home / "models" / ".tmp") == []
"""


def run(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_kill_at_any_point_of_a_save_leaves_the_old_state_or_the_whole_new_one(tmp_path: Path) -> None:
    points = [int(text) for text in run(KILL, tmp_path).split()]
    assert len(points) == 4
    assert min(points) >= 25
    assert sum(points) >= 100


def test_32_concurrent_saves_make_32_versions_and_no_reader_fails(tmp_path: Path) -> None:
    run(SAVES, tmp_path, 10)


def test_the_store_is_read_without_torch(tmp_path: Path) -> None:
    program = (
        "import paceline.pytorch, paceline.torchscript; save(Path(sys.argv[1]), b'x'); check(Path(sys.argv[1]), {b'x'})"
    )
    assert (
        run(program + "; print([name for name in ('torch', 'zmq', 'cloudpickle') if name in sys.modules])", tmp_path)
        == "[]\n"
    )
