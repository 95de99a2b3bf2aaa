"""`--recording FILE`: replays what a server decided and compares, or shows what another setting would have done.

python -m benchmarks.simulate --recording decisions.jsonl
python -m benchmarks.simulate --recording decisions.jsonl --set max_batch_size=16 --set workers=4 --out results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from benchmarks.simulate import plots
from benchmarks.simulate.recorded import Account, Figures, Story, as_outcome, entries, figures, stories, torn_note
from benchmarks.simulate.what_if import Durations, simulate
from paceline.protocol.errors import did_you_mean
from paceline.runner.dispatcher import Action, Arrived, Dispatcher, DispatcherConfig
from paceline.runner.recording import Header, RecordingError, Step, Torn

WORKERS = "workers"
SETTABLE = (WORKERS, *(f.name for f in fields(DispatcherConfig)))
DIFFERENT, UNREADABLE = 1, 2


@dataclass(frozen=True, slots=True)
class Difference:
    """The first call whose answer came out otherwise. None for "raised ValueError"."""

    line: int
    recorded: tuple[Action, ...] | None
    replayed: tuple[Action, ...] | None


@dataclass(slots=True)
class Verdict:
    """Of a replay: what was compared, up to the first difference."""

    processes: int = 0
    calls: int = 0
    requests: int = 0
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)


def run(path: Path, changes: dict[str, str], as_json: bool, out: Path | None) -> int:
    """The command; its exit code. `changes` are checked already."""
    try:
        return _compare(path, changes, as_json, out) if changes else _verify(path, as_json)
    except RecordingError as error:
        print(f"{path}: {error}", file=sys.stderr)
        return UNREADABLE


# Replay


def verify(path: Path) -> Verdict:
    """Feeds the very events at their times to a fresh dispatcher. Raises OSError, RecordingError."""
    verdict = Verdict()
    dispatcher = Dispatcher(DispatcherConfig(1))
    for number, entry in entries(path):
        match entry:
            case Header():
                verdict.processes += 1
                dispatcher = Dispatcher(entry.config)
            case Torn():
                verdict.notes.append(torn_note(number))
            case Step():
                recorded = None if entry.refused else entry.actions
                replayed = _replayed(dispatcher, entry)
                if recorded != replayed:
                    verdict.difference = Difference(number, recorded, replayed)
                    return verdict
                verdict.calls += 1
                verdict.requests += sum(isinstance(event, Arrived) for event in entry.events)
    return verdict


def _replayed(dispatcher: Dispatcher, step: Step) -> tuple[Action, ...] | None:
    try:
        return tuple(dispatcher.handle_all(step.events, step.now))
    except ValueError:
        return None


def _verify(path: Path, as_json: bool) -> int:
    verdict = verify(path)
    difference = verdict.difference
    if as_json:
        print(
            json.dumps(
                {
                    "recording": str(path),
                    "identical": difference is None,
                    "processes": verdict.processes,
                    "calls": verdict.calls,
                    "requests": verdict.requests,
                    "difference": None
                    if difference is None
                    else {
                        "line": difference.line,
                        "recorded": _shown(difference.recorded),
                        "replayed": _shown(difference.replayed),
                    },
                    "notes": verdict.notes,
                }
            )
        )
    else:
        _print_verdict(path, verdict)
    return 0 if difference is None else DIFFERENT


def _print_verdict(path: Path, verdict: Verdict) -> None:
    print(*(f"note: {note}" for note in verdict.notes), sep="\n", end="\n" if verdict.notes else "")
    what = f"{verdict.calls} calls, {verdict.requests} requests, {verdict.processes} process(es)"
    if verdict.difference is None:
        print(f"{path}: identical: {what}")
        return
    print(f"{path}: line {verdict.difference.line} differs, after {what}")
    print("recorded:", *_shown(verdict.difference.recorded), sep="\n  ")
    print("replayed:", *_shown(verdict.difference.replayed), sep="\n  ")


def _shown(actions: tuple[Action, ...] | None) -> list[str]:
    return ["ValueError"] if actions is None else [repr(action) for action in actions] or ["nothing"]


# Another setting


def parse_changes(texts: Sequence[str]) -> dict[str, str]:
    """`name=value` texts by name. Raises ValueError for the user to read: no such setting, no such value."""
    changes: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ValueError(f"--set {text}: expected NAME=VALUE, such as max_batch_size=16")
        if name not in SETTABLE:
            raise ValueError(
                f"--set {name}: no such setting.{did_you_mean(name, SETTABLE)} Known: {', '.join(SETTABLE)}"
            )
        changes[name] = value
    changed(DispatcherConfig(max_batch_size=1), changes)
    return changes


def changed(config: DispatcherConfig, changes: dict[str, str]) -> DispatcherConfig:
    """`config` with `changes`, but for the number of workers. Raises ValueError."""
    values = {name: _value(name, text) for name, text in changes.items()}
    values.pop(WORKERS, None)
    return replace(config, **values)  # type: ignore[arg-type]  # each value is read by its field


def _value(name: str, text: str) -> object:
    defaults = {f.name: f.default for f in fields(DispatcherConfig)}
    kind = int if name in (WORKERS, "max_batch_size") else type(defaults[name])
    try:
        if text == "none" and defaults.get(name, 0) in (None, ()):
            return defaults[name]
        if name == "latency_table":
            return {int(rows): float(seconds) for rows, seconds in (pair.split(":") for pair in text.split(","))}
        if name == "latency_tables":
            raise ValueError
        if kind is tuple:
            return tuple(int(part) for part in text.split(","))
        value = int(text) if kind is int else float(text)
    except ValueError as error:
        raise ValueError(f"--set {name}={text}: expected {_expected(name, kind)}") from error
    if name == WORKERS and value < 1:
        raise ValueError(f"--set {name}={text}: expected at least one worker")
    return value


def _expected(name: str, kind: type) -> str:
    match name, kind:
        case "latency_table", _:
            return "ROWS:SECONDS,..., such as 1:0.0055,64:0.037, or none to have it learned"
        case "latency_tables", _:
            return "none: give latency_table, which is that of every device"
        case _, _ if kind is tuple:
            return "whole numbers separated by commas, or none"
        case _, _ if kind is int:
            return "a whole number"
    return "a number"


def _compare(path: Path, changes: dict[str, str], as_json: bool, out: Path | None) -> int:
    notes: list[str] = []
    told = stories(path, notes)
    durations = Durations(taken for story in told for taken in story.taken)
    recorded = [(story, story.account) for story in told]
    simulated = [(story, _simulated(story, changes, durations)) for story in told]
    sides = {"recorded": figures(recorded), "simulated": figures(simulated)}
    if as_json:
        print(json.dumps({"recording": str(path), "set": changes, **sides, "notes": notes}))
    else:
        print(*(f"note: {note}" for note in notes), sep="\n", end="\n" if notes else "")
        print(_side_by_side(sides["recorded"], sides["simulated"], changes))
    if out is not None:
        _draw(out, recorded, simulated, changes)
    return 0


def _simulated(story: Story, changes: dict[str, str], durations: Durations) -> Account:
    workers = int(changes.get(WORKERS, max(1, len(story.profiles))))
    return simulate(story, changed(story.header.config, changes), workers, durations)


def _side_by_side(recorded: Figures, simulated: Figures, changes: dict[str, str]) -> str:
    lines = [("", "recorded", _title(changes))]
    lines += [(name.replace("_", " "), _figure(recorded[name]), _figure(simulated[name])) for name in recorded]
    widths = [max(len(line[at]) for line in lines) for at in range(3)]
    return "\n".join(
        "  ".join([name.ljust(widths[0]), left.rjust(widths[1]), right.rjust(widths[2])]) for name, left, right in lines
    )


def _title(changes: dict[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in changes.items())


def _figure(value: float | list[float] | None) -> str:
    match value:
        case None:
            return "-"
        case int():
            return str(value)
        case float():
            return f"{value:.2f}"
    return " ".join(f"{share:.0%}" for share in value)


def _draw(
    out: Path, recorded: list[tuple[Story, Account]], simulated: list[tuple[Story, Account]], changes: dict[str, str]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    busiest = max(range(len(recorded)), key=lambda at: len(recorded[at][0].requests))
    runs = {"recorded": recorded[busiest], f"simulated with {_title(changes)}": simulated[busiest]}
    plots.write_recorded(out / "timeline.png", {name: as_outcome(*run) for name, run in runs.items()})
