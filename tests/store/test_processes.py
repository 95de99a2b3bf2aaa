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

ARM = """
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
"""

KILL = """
def kill_at_each_point(old, after):
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

print(*[kill_at_each_point(old, after) for old in (0, 1) for after in (False, True)])
"""

KILL_CHANGES = """
# The same for what changes or brings versions: a state per operation that is neither old nor new would show.
import shutil

home = Path(sys.argv[1]) / "prepared"
for data in (b"1", b"2"):
    save(home, data)
ModelStore(home).set_alias("net:1", "prod")
for _ in range(3):
    save(home / "other", b"3")
ModelStore(home / "other").export("net:3", home / "archive")

OPERATIONS = {
    "move": lambda store, archive: store.set_alias("net:2", "prod"),
    "remove": lambda store, archive: store.remove_alias("net@prod"),
    "delete": lambda store, archive: store.delete("net:2"),
    "force": lambda store, archive: store.delete("net:1", force=True),
    "import": lambda store, archive: store.import_archive(archive),
    "export": lambda store, archive: store.export("net:1", archive.with_name("out")),
}

def state(store, archive):
    versions = {number: store.verify(f"net:{number}").read("a.bin") for number in store.versions("net")}
    aliases = {alias: version for alias, version in store.aliases("net").items() if version in versions}
    out = archive.with_name("out")
    checked = ModelStore(out.with_name("checked"))
    return versions, aliases, checked.import_archive(out, name="net").version.digest if out.exists() else None

def kill_at_each_point(name, after):
    seen = []
    for point in range(1, 500):
        home = Path(sys.argv[1]) / f"{name}-{after}-{point}"
        shutil.copytree(Path(sys.argv[1]) / "prepared", home)
        store, archive = ModelStore(home), home / "archive"
        before = state(store, archive)
        pid = os.fork()
        if pid == 0:
            arm(point, after)
            OPERATIONS[name](store, archive)
            os._exit(0)
        code = wait(pid)
        assert code in (0, -signal.SIGKILL), code
        seen.append(state(store, archive))
        if code == 0:
            break
        # No lock stays behind: everybody can go on.
        store.set_alias("net:latest", "next")
        later = ModelStore(home, wall_clock=lambda: time.time() + 7200)
        later.sweep()
        assert os.listdir(home / "models" / ".tmp") == []
    assert code == 0 and seen[-1] != before
    assert all(each in (before, seen[-1]) for each in seen), (name, seen)
    return point

print(*[kill_at_each_point(name, after) for name in OPERATIONS for after in (False, True)])
"""

ALIASES = """
# Eight movers of one alias, two deleters with force, a reader: it names a version that is there, or none at all.
home = Path(sys.argv[1])
for number in range(6):
    save(home, b"x")
ModelStore(home).set_alias("net:6", "prod")

def mover(index):
    store = ModelStore(home)
    for step in range(40):
        store.set_alias(f"net:{(index + step) % 3 + 4}", "prod")

def reader():
    store = ModelStore(home)
    for _ in range(400):
        assert store.get("net@prod").tag.version in ("4", "5", "6")

def deleter(number):
    ModelStore(home).delete(f"net:{number}", force=True)

children = [lambda index=index: mover(index) for index in range(8)] + [reader, reader]
children += [lambda number=number: deleter(number) for number in (1, 2)]
pids = []
for child in children:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    pids.append(pid)
assert [wait(pid) for pid in pids] == [0] * len(pids)
assert ModelStore(home).versions("net") == ["3", "4", "5", "6"]
assert os.listdir(home / "models" / ".tmp") == []
"""

IMPORTS = """
# Eight bring the same version at once, eight the same under new numbers: one of each tag is new, all are whole.
home, archive = Path(sys.argv[1]) / "home", Path(sys.argv[1]) / "archive"
save(home.with_name("other"), b"x")
ModelStore(home.with_name("other")).export("net:1", archive)
pids = []
for index in range(16):
    pid = os.fork()
    if pid == 0:
        from paceline.protocol.errors import StoreError
        try:
            ModelStore(home).import_archive(archive, name="copy" if index % 2 else None)
        except StoreError as error:
            os._exit(0 if "came into the store meanwhile" in str(error) else 1)
        os._exit(0)
    pids.append(pid)
assert [wait(pid) for pid in pids] == [0] * 16
store = ModelStore(home)
assert [str(version.tag) for version in store.list()] == [f"copy:{number}" for number in range(1, 9)] + ["net:1"]
for tag in store.tags():
    store.verify(tag)
assert os.listdir(home / "models" / ".tmp") == []
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
    points = [int(text) for text in run(ARM + KILL, tmp_path).split()]
    assert len(points) == 4
    assert min(points) >= 25
    assert sum(points) >= 100


def test_a_kill_at_any_point_of_a_change_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    points = [int(text) for text in run(ARM + KILL_CHANGES, tmp_path).split()]
    assert len(points) == 12
    assert min(points) >= 4


def test_an_alias_that_many_move_at_once_always_names_a_version(tmp_path: Path) -> None:
    run(ALIASES, tmp_path)


def test_one_archive_that_many_import_at_once_is_stored_once(tmp_path: Path) -> None:
    run(IMPORTS, tmp_path)


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
