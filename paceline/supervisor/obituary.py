"""How a child died, in words: exit code or signal, out of memory, hang, what it had in hand, its last lines.

Pure, but for reading the cgroup's count of out-of-memory kills.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

from paceline.protocol.child import ORPHANED_EXIT

REASON_CHARS_MAX = 500
_IDS_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a dead child. `returncode` as subprocess tells it (negative: a signal). `killed_for`: why we
    killed it, empty if we did not. `said`: its own FAILED message. `oom_kills`: kills for our cgroup's memory limit
    while it lived. `in_hand`: (origin, counter) of the requests that it ran when it died, None if that cannot be told;
    `started`: also of those that it had run before."""

    returncode: int
    killed_for: str = ""
    said: str = ""
    oom_kills: int = 0
    in_hand: tuple[tuple[bytes, int], ...] | None = ()
    started: tuple[tuple[bytes, int], ...] = ()
    last_lines: tuple[str, ...] = ()


def reason_of(remains: Remains) -> str:
    """One line: why it died."""
    if remains.killed_for:
        return remains.killed_for[:REASON_CHARS_MAX]
    if remains.said:
        return remains.said[:REASON_CHARS_MAX]
    code = remains.returncode
    if code == -signal.SIGKILL:
        return _killed(remains.oom_kills)
    if code < 0:
        return f"killed by {_signal_name(-code)}"
    if code == ORPHANED_EXIT:
        return "exit code 86: it lost its parent"
    return f"exit code {code}" if code else "exit code 0, without having been asked to stop"


def explain(remains: Remains) -> str:
    """The reason, and what it had in hand."""
    parts = [reason_of(remains)]
    if remains.in_hand is None:
        parts.append("which requests had started is not known")
    elif remains.in_hand:
        shown = ", ".join(f"{origin.hex()[:8]}-{counter}" for origin, counter in remains.in_hand[:_IDS_SHOWN_MAX])
        more = f" and {len(remains.in_hand) - _IDS_SHOWN_MAX} more" if len(remains.in_hand) > _IDS_SHOWN_MAX else ""
        parts.append(f"{len(remains.in_hand)} request(s) had started: {shown}{more}")
    return "; ".join(parts)


def oom_kills(cgroups: str, root: Path = Path("/sys/fs/cgroup")) -> int:
    """How often the out-of-memory killer struck in our cgroup; `cgroups` is the text of /proc/self/cgroup."""
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        below = path.lstrip("/")
        candidates = []
        if not controllers:
            candidates = [root / below / "memory.events", root / "memory.events"]
        elif "memory" in controllers.split(","):
            candidates = [root / "memory" / below / "memory.oom_control", root / "memory" / "memory.oom_control"]
        for file in candidates:
            with contextlib.suppress(OSError, ValueError):
                return _counter(file.read_text(), "oom_kill")
    return 0


def own_oom_kills() -> int:
    with contextlib.suppress(OSError):
        return oom_kills(Path("/proc/self/cgroup").read_text())
    return 0


def _counter(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    raise ValueError(name)


def _killed(oom: int) -> str:
    if oom:
        return (
            "out of memory: killed by the kernel's out-of-memory killer (the memory limit of this cgroup was reached)"
        )
    return "killed by SIGKILL, which we did not send: perhaps by the out-of-memory killer"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
