"""What a reader of this repository may rely on, proved file by file from the syntax tree.

Each check is a function (path, tree) -> findings; BAD holds a snippet per check on which it must fail.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("protocol", "store", "runner", "api_server")
PRODUCT = (*ROOMS, "paceline")
EVERYTHING = (*PRODUCT, "benchmarks", "examples", "tests")

Finding: TypeAlias = tuple[int, str]
Check: TypeAlias = Callable[[str, ast.Module], Iterator[Finding]]

UNSAFE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "__import__"}
UNSAFE_METHODS = {"recv_pyobj", "send_pyobj", "recv_serialized", "send_serialized"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc"}


def python_files(*folders: str) -> list[str]:
    """The .py files below `folders`, as posix paths from the root; through no link."""
    found = []
    for folder in folders:
        for here, _, names in os.walk(ROOT / folder):
            found += [Path(here, name).relative_to(ROOT).as_posix() for name in names if name.endswith(".py")]
    return sorted(found)


def imports(tree: ast.AST) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """(line, module, names taken from it) of every absolute import, whatever block it stands in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from [(node.lineno, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and dotted(node.func) in {"importlib.import_module", "import_module"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, ()


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an expression that is one, else an empty string for the part that is not a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def top(module: str) -> str:
    return module.split(".")[0]


def typing_lines(tree: ast.Module) -> set[int]:
    """The lines that only a type checker reads."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and dotted(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        for inner in node.body
        for line in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1)
    }


def no_code_from_bytes(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Nothing turns bytes into objects or code, outside the one module that may."""
    if path == "store/pickled.py":
        return
    for line, module, names in imports(tree):
        if top(module) in UNSAFE_MODULES:
            yield line, f"imports {module}; only store/pickled.py may"
        if module == "torch" and "load" in names:
            yield line, "imports torch.load; read safetensors, or go through store/pickled.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
            yield node.lineno, f"calls {node.func.id}"
        if isinstance(node, ast.Attribute) and node.attr in UNSAFE_METHODS:
            yield node.lineno, f"uses {node.attr}, which unpickles"
        if isinstance(node, ast.Attribute) and dotted(node) == "torch.load":
            yield node.lineno, "uses torch.load; read safetensors, or go through store/pickled.py"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_false(node.value):
            yield node.value.lineno, "allows pickles in a numpy file"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def zmq_in_its_places_only(path: str, tree: ast.Module) -> Iterator[Finding]:
    """zmq is imported by protocol/channel.py and its neighbour curve.py alone."""
    for line, module, _ in imports(tree):
        if top(module) == "zmq" and path not in ("protocol/channel.py", "protocol/curve.py"):
            yield line, f"imports {module}; only protocol/channel.py and protocol/curve.py may"


def torch_in_its_places_only(path: str, tree: ast.Module) -> Iterator[Finding]:
    """torch is imported by executor, trace recorder and frameworks alone (annotations may name it)."""
    if path in ("runner/executor.py", "runner/trace_recorder.py") or path.startswith("runner/frameworks/"):
        return
    unread = typing_lines(tree)
    for line, module, _ in imports(tree):
        if top(module) in {"torch", "torchvision", "torchaudio"} and line not in unread:
            yield line, f"imports {module}; only executor.py, trace_recorder.py and frameworks/ of runner/ may"


def onnxruntime_in_its_place_only(path: str, tree: ast.Module) -> Iterator[Finding]:
    """onnxruntime is an extra: one module imports it, when it is needed, and says what to install."""
    if path == "runner/frameworks/onnx_session.py":
        return
    unread = typing_lines(tree)
    for line, module, _ in imports(tree):
        if top(module) in {"onnxruntime", "onnx"} and line not in unread:
            yield line, f"imports {module}; only runner/frameworks/onnx_session.py may"


def docstring_on_top(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Every module says what it owns."""
    if not (ast.get_docstring(tree) or "").strip():
        yield 1, "has no docstring"


def rooms_by_their_full_name(path: str, tree: ast.Module) -> Iterator[Finding]:
    """`protocol.frames` would be a second copy of the classes of `paceline.protocol.frames`."""
    for line, module, _ in imports(tree):
        if top(module) in ROOMS:
            yield line, f"imports {module}, expected paceline.{module}"


def names_that_say_something(path: str, tree: ast.Module) -> Iterator[Finding]:
    """No module is named after nothing."""
    vague = {part.removesuffix(".py") for part in path.split("/")} & VAGUE_NAMES
    if vague:
        yield 1, f"is named {', '.join(sorted(vague))}: find the noun"


def one_clock(path: str, tree: ast.Module) -> Iterator[Finding]:
    """time.monotonic is read by protocol/clock.py alone; everyone else asks SystemClock or is given `now`."""
    if path == "protocol/clock.py":
        return
    for line, module, names in imports(tree):
        if module == "time" and {"monotonic", "monotonic_ns"} & set(names):
            yield line, "imports time.monotonic, expected paceline.protocol.clock.SystemClock"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in {"time.monotonic", "time.monotonic_ns"}:
            yield node.lineno, f"uses {dotted(node)}, expected paceline.protocol.clock.SystemClock"


CHECKS: dict[Check, tuple[str, ...]] = {
    no_code_from_bytes: (*PRODUCT, "benchmarks"),
    zmq_in_its_places_only: (*PRODUCT, "benchmarks", "examples"),
    torch_in_its_places_only: PRODUCT,
    onnxruntime_in_its_place_only: PRODUCT,
    docstring_on_top: EVERYTHING,
    rooms_by_their_full_name: EVERYTHING,
    names_that_say_something: EVERYTHING,
    one_clock: PRODUCT,
}

BAD: list[tuple[Check, str, str]] = [
    *[
        (no_code_from_bytes, "store/x.py", code)
        for code in (
            "import pickle",
            "import cloudpickle as cp",
            "from dill import loads",
            "import joblib",
            "import marshal",
            "def f():\n    import shelve",
            "from torch import load",
            "import torch\ntorch.load('x')",
            "import torch\nread = torch.load",
            "eval('1')",
            "exec('x = 1')",
            "__import__('pickle')",
            "import importlib\nimportlib.import_module('pickle')",
            "socket.recv_pyobj()",
            "self.socket.send_pyobj(1)",
            "np.load(file, allow_pickle=True)",
        )
    ],
    (zmq_in_its_places_only, "protocol/ledger.py", "import zmq.asyncio"),
    (zmq_in_its_places_only, "api_server/gateway.py", "def f():\n    from zmq import Context"),
    (torch_in_its_places_only, "runner/worker.py", "import torch.nn as nn"),
    (torch_in_its_places_only, "paceline/client/http.py", "try:\n    import torch\nexcept ImportError:\n    pass"),
    (onnxruntime_in_its_place_only, "runner/frameworks/onnx.py", "import onnxruntime as ort"),
    (onnxruntime_in_its_place_only, "paceline/onnx.py", "from onnx import ModelProto"),
    (docstring_on_top, "runner/x.py", "X = 1"),
    (docstring_on_top, "runner/x.py", '"""  """'),
    (rooms_by_their_full_name, "runner/x.py", "import protocol.tensor"),
    (rooms_by_their_full_name, "tests/test_x.py", "from store import ModelStore"),
    (names_that_say_something, "runner/utils.py", ""),
    (names_that_say_something, "api_server/common/x.py", ""),
    (one_clock, "runner/x.py", "import time\ntime.monotonic()"),
    (one_clock, "runner/x.py", "import time\nclock = time.monotonic_ns"),
    (one_clock, "runner/x.py", "from time import monotonic as now"),
]

GOOD: list[tuple[Check, str, str]] = [
    (no_code_from_bytes, "store/pickled.py", "import pickle"),
    (
        no_code_from_bytes,
        "runner/x.py",
        "from paceline.store import pickled\nmodel.eval()\nnp.load(f, allow_pickle=False)",
    ),
    (zmq_in_its_places_only, "protocol/channel.py", "import zmq"),
    (zmq_in_its_places_only, "protocol/curve.py", "from zmq.utils import z85"),
    (torch_in_its_places_only, "runner/frameworks/x.py", "import torch"),
    (torch_in_its_places_only, "runner/trace_recorder.py", "import torch"),
    (torch_in_its_places_only, "paceline/x.py", "if TYPE_CHECKING:\n    from torch.nn import Module"),
    (onnxruntime_in_its_place_only, "runner/frameworks/onnx_session.py", "import_module('onnxruntime')"),
    (rooms_by_their_full_name, "runner/x.py", "from paceline.protocol import tensor"),
    (rooms_by_their_full_name, "runner/x.py", "from .store import x"),
    (one_clock, "protocol/clock.py", "import time\ntime.monotonic()"),
]


def case_id(value: object) -> str | None:
    return value.__name__ if callable(value) and hasattr(value, "__name__") else None


@pytest.mark.parametrize("check", CHECKS, ids=case_id)
def test_repository_passes(check: Check) -> None:
    findings = [
        f"{path}:{line} {text}"
        for path in python_files(*CHECKS[check])
        for line, text in check(path, ast.parse((ROOT / path).read_text(encoding="utf-8")))
    ]
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize(("check", "path", "code"), BAD, ids=case_id)
def test_check_fails_on_bad_code(check: Check, path: str, code: str) -> None:
    assert list(check(path, ast.parse(code)))


@pytest.mark.parametrize(("check", "path", "code"), GOOD, ids=case_id)
def test_check_passes_good_code(check: Check, path: str, code: str) -> None:
    assert not list(check(path, ast.parse(code)))


def test_every_check_is_tested_on_bad_code() -> None:
    assert {check for check, _, _ in BAD} == set(CHECKS)


def test_files_are_found_in_every_room_and_none_twice() -> None:
    found = python_files(*EVERYTHING)
    assert len(set(found)) == len(found)
    assert {"protocol/ledger.py", "store/__init__.py", "paceline/__init__.py", "tests/test_tidy.py"} <= set(found)
    assert not [path for path in found if path.startswith(tuple(f"paceline/{room}/" for room in ROOMS))]


def broken_links(root: Path) -> list[str]:
    """The rooms whose link in `root`/paceline does not point to them, relatively."""
    links = {room: root / "paceline" / room for room in ROOMS}
    return [room for room, link in links.items() if not link.is_symlink() or os.readlink(link) != f"../{room}"]


def test_links_of_the_package_point_to_their_rooms() -> None:
    assert broken_links(ROOT) == []


def test_link_that_became_a_file_or_points_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "paceline").mkdir()
    (tmp_path / "paceline/protocol").write_text("../protocol")
    (tmp_path / "paceline/store").symlink_to("../runner")
    (tmp_path / "paceline/runner").symlink_to("../runner")
    assert broken_links(tmp_path) == ["protocol", "store", "api_server"]
