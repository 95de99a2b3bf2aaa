"""A user's `module:attribute` by its text: the folder goes first on sys.path, the module is imported, the object found.

Called by whoever runs user code: the inspector, API servers, workers. What their code raises becomes a StartError with
the lines of theirs that led there; ours and Python's are left out.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
import traceback
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, cast

from paceline.protocol.errors import PacelineError, StartError, did_you_mean

if TYPE_CHECKING:
    from paceline.protocol.service_app import ServiceApp

_TARGET = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)
_NOT_THEIRS = ("site-packages", "dist-packages")
_LINES_MAX = 40
_STORE_HOME = "PACELINE_HOME"
_SERVICE_PARTS = ("plan", "bind", "asgi", "startup", "shutdown")


@dataclass(frozen=True, slots=True)
class Target:
    """`module` may be dotted: "my.pkg.service"."""

    module: str
    attribute: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def parse_target(text: str) -> Target | None:
    """The target that `text` spells, None if it has another form.

    >>> parse_target("service:svc")
    Target(module='service', attribute='svc')
    """
    found = _TARGET.fullmatch(text)
    return Target(found[1], found[2]) if found else None


def enter(folder: str, store_home: str) -> None:
    """Let the code of a service in: `folder` is the working directory and the first place where modules are looked for,
    and models come from `store_home`, wherever the settings came from.

    Raises StartError if it is not a folder that can be entered.
    """
    os.environ[_STORE_HOME] = store_home
    _enter(folder)


def has_module(module: str, folder: str) -> bool:
    """Whether the module, or the package that it is in, lies in `folder`. Imports nothing."""
    return _is_there(module, [folder])


def import_service(target: str, folder: str, store_home: str) -> ServiceApp:
    """The service that `target` names; see `enter`.

    Raises StartError as `import_target`, and for an object that is no service.
    """
    parsed = parse_target(target)
    if parsed is None:
        raise StartError(f"{target!r} names no service; expected module and variable, such as service:svc")
    enter(folder, store_home)
    found = import_target(parsed, folder)
    if isinstance(found, type) or not all(callable(getattr(found, part, None)) for part in _SERVICE_PARTS):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise StartError(f"{target} is {what}, not a service; expected {parsed.attribute} = paceline.Service(name=...)")
    return cast("ServiceApp", found)


def import_target(target: Target, folder: str) -> object:
    """The object that `target` names, imported in `folder`, which becomes the working directory.

    Raises StartError for a user to read: no such folder, no such module (nearest), a module that does not import (their
    own traceback), no such attribute (nearest).
    """
    _enter(folder)
    _check_module(target, folder)
    try:
        module = importlib.import_module(target.module)
    except (Exception, SystemExit) as error:  # user code, which may do anything; Ctrl-C goes through
        story = _story(error, folder)
        raise StartError(f"{target.module} cannot be imported: {story}{_hint(error, target, folder)}") from error
    if hasattr(module, target.attribute):
        return getattr(module, target.attribute)
    public = [name for name in vars(module) if not name.startswith("_")]
    raise StartError(
        f"{module.__file__ or target.module} has no {target.attribute!r}.{did_you_mean(target.attribute, public)}"
    )


def _enter(folder: str) -> None:
    path = os.path.abspath(folder)
    try:
        os.chdir(path)
    except OSError as error:
        raise StartError(f"cannot enter the service's folder {path}: {error.strerror or error}") from error
    if path in sys.path:
        sys.path.remove(path)
    sys.path.insert(0, path)
    # A folder that was listed before a file came into it is remembered without the file.
    importlib.invalidate_caches()


def code_digest(runnable: str, init: bytes) -> str:
    """The sha256 of what a Runnable is: its module, imported by now, as it is on disk, its name and its parameters."""
    file = getattr(sys.modules[runnable.partition(":")[0]], "__file__", None)
    hashed = hashlib.sha256(Path(file).read_bytes() if file else b"")
    hashed.update(runnable.encode() + b"\0" + init)
    return hashed.hexdigest()


def _story(error: BaseException, folder: str) -> str:
    """What went wrong in user code: an error of ours in one line, with the place; any other as a traceback, in which
    only their own lines are left."""
    if isinstance(error, PacelineError):
        return f"{_place(error, folder)}{error}"
    story = traceback.TracebackException.from_exception(error, compact=True)
    _trim(story, folder)
    lines = "".join(story.format()).rstrip().split("\n")
    if len(lines) > _LINES_MAX:
        lines = [lines[0], "  ...", *lines[2 - _LINES_MAX :]]
    return "\n\n" + "\n".join(f"  {line}" if line else "" for line in lines) + "\n\n"


def _is_there(module: str, path: list[str] | None) -> bool:
    first, dot, _ = module.partition(".")
    spec = PathFinder.find_spec(first, path)
    # A folder without an __init__.py may hold modules, but it is none.
    return spec is not None and (spec.origin is not None or bool(dot))


def _check_module(target: Target, folder: str) -> None:
    if has_module(target.module, folder) or _is_there(target.module, None):
        return
    path = Path(folder).absolute()
    there = sorted(
        {each.stem for each in path.glob("*.py")} | {each.parent.name for each in path.glob("*/__init__.py")}
    )
    first = target.module.partition(".")[0]
    raise StartError(
        f"cannot import {target}: there is no {first}.py in {path}.{did_you_mean(first, there)} A service is named by "
        f"module and variable, such as service:svc; --working-dir names another folder"
    )


def _trim(story: traceback.TracebackException, folder: str) -> None:
    """Leave their frames alone, in it and in what it came from."""
    theirs = [frame for frame in story.stack if _is_theirs(frame.filename, folder)]
    story.stack[:] = theirs
    for other in (story.__cause__, story.__context__):
        if other is not None:
            _trim(other, folder)


def _place(error: BaseException, folder: str) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename, folder)]
    return f"{os.path.relpath(frames[-1].filename, folder)}:{frames[-1].lineno}: " if frames else ""


def _is_theirs(file: str, folder: str) -> bool:
    path = Path(file)
    return path.is_relative_to(Path(folder).absolute()) and not any(part in _NOT_THEIRS for part in path.parts)


def _hint(error: BaseException, target: Target, folder: str) -> str:
    if isinstance(error, PacelineError):
        return ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"Install {error.name!r} where paceline runs ({sys.executable}), or put it into {Path(folder).absolute()}."
        )
    return f'In {Path(folder).absolute()}, {sys.executable} -c "import {target.module}" fails in the same way.'
