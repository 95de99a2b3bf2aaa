"""What happens to a server, as the CLI prints it: one frozen dataclass per lifecycle change, and one line for each.

Made by the supervisor, handed to the caller's `on_event`; `describe` is the plain wording, a CLI may style its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

_FILES_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Starting:
    """The port and the run directory are ours; the inspector is about to read the targets."""

    targets: tuple[str, ...]
    url: str
    run_dir: str
    pid: int


@dataclass(frozen=True, slots=True)
class Recording:
    """The decisions of the dispatchers are appended to these files."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunnerLoading:
    """A runner's workers are being started. `model`: its name in the store, or the class of a Runnable, which has no
    `version`."""

    runner: str
    model: str
    version: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildReady:
    """A child said READY, `seconds` after its start. `kind` is "worker", "broker" or "api_server"."""

    kind: str
    name: str
    pid: int
    device: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """A runner that takes requests: with how many workers, how many of which are `ready` by now. `dispatch`: "central",
    with one queue in its broker, or "worker", with one in each worker."""

    name: str
    workers: int
    ready: int
    dispatch: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Every runner that can be served is ready, `seconds` after the start. `native`: the address for native clients on
    other machines, if there is one; `service` and its `routes`, if it is not models alone."""

    url: str
    runners: tuple[Served, ...]
    seconds: float
    native: str = ""
    service: str = ""
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stalled:
    """A READY worker makes no progress: it gets nothing new until it does (Recovered), or is killed."""

    kind: str
    name: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stalled worker goes on, and gets requests again."""

    kind: str
    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class ChildDied:
    """A child is dead without having been told to; `explanation` says how, `last_lines` are what it printed last (they
    were passed on to stderr already)."""

    kind: str
    name: str
    pid: int
    reason: str
    explanation: str
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restarting:
    """The dead child's successor starts in `delay_s`."""

    kind: str
    name: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """This child will not be started again."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Draining:
    """No new requests; those accepted are finished within `grace_s`."""

    cause: str
    grace_s: float


@dataclass(frozen=True, slots=True)
class Reloading:
    """These files changed: the server is drained, and starts anew on the same port."""

    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """Nothing can be served until a file changes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """The server is gone; `exit_code` is what the process should exit with, `reason` why."""

    exit_code: int
    reason: str


Event: TypeAlias = (
    Starting
    | Recording
    | RunnerLoading
    | ChildReady
    | Ready
    | Stalled
    | Recovered
    | ChildDied
    | Restarting
    | GivenUp
    | Draining
    | Reloading
    | Broken
    | Stopped
)


def describe(event: Event) -> str:
    """One line for `event`."""
    match event:
        case Starting(targets, url, run_dir, pid):
            return f"starting {', '.join(targets)} on {url} (pid {pid}, run directory {run_dir})"
        case Recording(paths):
            return f"recording decisions to {', '.join(paths)}"
        case RunnerLoading(runner, model, version, devices):
            return f"loading {runner}: {model}{':' if version else ''}{version} on {', '.join(devices)}"
        case ChildReady(_, name, pid, device, seconds):
            return f"{name} ready in {seconds:.2f} s (pid {pid}{', ' + device if device else ''})"
        case Ready(url, runners, seconds, native, service, _):
            where = f"{url} and {native}" if native else url
            what = [f"service {service}"] if service else []
            return f"ready: {', '.join([*what, *map(_describe_served, runners)])} on {where} after {seconds:.2f} s"
        case Stalled(_, name, pid, reason):
            return f"{name} (pid {pid}) gets no new requests: {reason}"
        case Recovered(_, name, pid):
            return f"{name} (pid {pid}) goes on, and gets requests again"
        case ChildDied(_, name, pid, _, explanation, _):
            return f"{name} (pid {pid}) died: {explanation}"
        case Restarting(_, name, delay_s):
            return f"{name} restarts in {delay_s:.1f} s"
        case GivenUp(_, name, reason):
            return f"{name} is given up: {reason}"
        case Draining(cause, grace_s):
            return f"draining ({cause}): finishing accepted requests, at most {grace_s:g} s; once more stops at once"
        case Reloading(files):
            more = f" and {len(files) - _FILES_SHOWN_MAX} more" if len(files) > _FILES_SHOWN_MAX else ""
            return f"{', '.join(files[:_FILES_SHOWN_MAX])}{more} changed: starting anew"
        case Broken(reason):
            return f"cannot serve, waiting for a change: {reason}"
        case Stopped(exit_code, reason):
            return f"stopped: {reason}" if exit_code == 0 else f"stopped with exit code {exit_code}: {reason}"


def _describe_served(runner: Served) -> str:
    """Its name, its workers, and where its queue lives."""
    count = f"{runner.workers} worker{'s' if runner.workers > 1 else ''}"
    if runner.ready < runner.workers:
        count = f"{runner.ready} of {count}"
    if runner.dispatch == "central":
        return f"{runner.name} ({count}, one queue in its broker)"
    return f"{runner.name} ({count}{', each with a queue' if runner.workers > 1 else ''})"
