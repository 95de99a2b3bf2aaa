"""Recordings in the simulator: they replay to the same actions, and say what another setting would have done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import inf
from pathlib import Path

import pytest

from benchmarks.simulate import cli
from benchmarks.simulate.dispatcher_loop import DispatcherLoop
from benchmarks.simulate.latency import RESNET, jittered
from benchmarks.simulate.recorded import Story, Taken, figures, stories
from benchmarks.simulate.recording import verify
from benchmarks.simulate.what_if import Durations, simulate
from benchmarks.simulate.workloads import poisson
from paceline.runner.dispatcher import (
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatcher,
    DispatcherConfig,
    Event,
    Measured,
    Tick,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.recorder import RecordingDispatcher
from paceline.runner.recording import Header, RecordingError
from paceline.runner.scribe import header_line
from tests.runner.dispatcher.world import World

CONFIG = DispatcherConfig(max_batch_size=64)
BUDGET_S = 0.05


class Memory:
    """A file for the recorder that remembers its lines."""

    recording = True

    def __init__(self, config: DispatcherConfig = CONFIG) -> None:
        self.config = config
        self.lines = [header_line(Header("net", 0, "cpu", config, 0.0, 1.7e9))]
        self.dispatcher = RecordingDispatcher(config, self)  # type: ignore[arg-type]

    def write(self, line: bytes) -> None:
        self.lines.append(line)

    def save(self, path: Path) -> Path:
        path.write_bytes(b"".join(self.lines))
        return path


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """One worker at about nine tenths of what it can do, with jitter."""
    memory = Memory()
    arrivals = poisson(600.0, BUDGET_S, 1500, 1)
    DispatcherLoop(memory.dispatcher, arrivals, BUDGET_S, jittered(RESNET.table(), 0.1, 1), 1).advance()
    return memory.save(tmp_path / "busy.jsonl")


def told(tmp_path: Path, *calls: tuple[float, Iterable[Event]]) -> Story:
    """The story of a recording of these calls."""
    memory = Memory()
    for now, events in calls:
        memory.dispatcher.handle_all(events, now)
    (story,) = stories(memory.save(tmp_path / "told.jsonl"), [])
    return story


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


# Replay


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_a_recorded_random_world_replays_identical(tmp_path: Path, seed: int) -> None:
    world = World(seed, faulty=False)
    memory = Memory(world.config)
    world.dispatcher = memory.dispatcher
    world.run()
    verdict = verify(memory.save(tmp_path / "world.jsonl"))
    assert verdict.difference is None
    assert verdict.calls == len(memory.lines) - 1
    assert verdict.requests == world.next_id


def test_identical_is_said_and_fine(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--recording", busy) == 0
    assert f"{busy}: identical: " in capsys.readouterr().out
    assert run("--recording", busy, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["identical"], answer["requests"], answer["processes"]) == (True, 1500, 1)


def test_the_first_difference_is_shown_and_fails(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = busy.read_bytes().splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if b'"is":[' in line][7]
    lines[at] = lines[at].replace(b'"is":[', b'"is":[1000,')
    busy.write_bytes(b"".join(lines))
    assert run("--recording", busy) == 1
    printed = capsys.readouterr().out
    assert f"line {at + 1} differs" in printed
    assert "request_ids=(1000, " in printed.partition("replayed:")[0]
    assert "request_ids=(1000, " not in printed.partition("replayed:")[2]
    assert run("--recording", busy, "--json") == 1
    difference = json.loads(capsys.readouterr().out)["difference"]
    assert difference["line"] == at + 1


def test_each_process_of_a_file_is_replayed_from_its_own_header(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = busy.read_bytes()
    busy.write_bytes(once + once[:-10] + b"\n" + once + once[:-10])
    assert run("--recording", busy) == 0
    printed = capsys.readouterr().out
    assert "4 process(es)" in printed
    assert printed.count("was cut short") == 2


def test_damage_is_an_error_that_names_the_line(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = busy.read_bytes().splitlines(keepends=True)
    busy.write_bytes(b"".join([*lines[:9], lines[9][:20] + b"\n", *lines[10:]]))
    for more in ([], ["--set", "workers=2"]):
        assert run("--recording", busy, *more) == 2
        assert f"{busy}: line 10 is damaged" in capsys.readouterr().err


def test_a_call_that_raised_replays_and_its_request_is_left_out(tmp_path: Path) -> None:
    memory = Memory()
    memory.dispatcher.handle_all([WorkerJoined(0), Arrived("a", "p"), Arrived("b", "p")], 1.0)
    with pytest.raises(ValueError, match="live already"):
        memory.dispatcher.handle_all([Arrived("b", "p"), Arrived("c", "p", rows=0)], 2.0)
    memory.dispatcher.handle(BatchDone(0, 1, 0.5), 3.0)
    path = memory.save(tmp_path / "raised.jsonl")
    assert verify(path).difference is None
    (story,) = stories(path, [])
    assert [request.request_id for request in story.requests.values()] == [0, 1]


# What was


def test_the_figures_count_every_request_once(tmp_path: Path) -> None:
    story = told(
        tmp_path,
        (1.0, [WorkerJoined("w", "cpu"), Measured("cpu", "p", 1, 0.2)]),
        (1.1, [Arrived("in time", "p", deadline=1.4, arrived_at=1.0)]),
        (1.1, [Arrived("late", "p", deadline=1.5), Arrived("hung up", "p"), Arrived("overdue", "p", deadline=1.2)]),
        (1.3, [Cancelled("hung up"), BatchDone("w", 1, 0.2)]),
        (1.6, [BatchDone("w", 2, 0.3), Arrived("left", "p", rows=3), Arrived("abandoned", "p", deadline=9.0)]),
        (1.7, [Cancelled("abandoned")]),
    )
    shown = figures([(story, story.account)])
    assert shown == {
        "requests": 6,
        "in_time": 1,
        "late": 1,
        "dropped_deadline": 1,
        "dropped_infeasible": 0,
        "dropped_queue_full": 0,
        "dropped_worker_lost": 0,
        "cancelled": 2,
        "unfinished": 1,
        "p50_ms": pytest.approx(400.0),
        "p95_ms": pytest.approx(490.0),
        "p99_ms": pytest.approx(498.0),
        "batches": 2,
        "mean_batch_rows": 1.0,
        "busy_share": [pytest.approx(0.5 / 0.6)],
    }


def test_lost_workers_are_noted_and_their_batches_not_counted(tmp_path: Path) -> None:
    memory = Memory()
    memory.dispatcher.handle_all([WorkerJoined("w"), WorkerJoined("v"), Arrived("a", "p", deadline=9.0)], 1.0)
    memory.dispatcher.handle(WorkerLost("w"), 1.5)
    memory.dispatcher.handle_all([BatchDone("w", 1, 1.0), BatchDone("v", 2, 0.5)], 2.0)
    notes: list[str] = []
    (story,) = stories(memory.save(tmp_path / "lost.jsonl"), notes)
    assert notes == ["1 workers were lost in the recording; the simulation loses none"]
    assert [(batch.worker, batch.finish) for batch in story.account.batches] == [(1, 2.0)]
    assert len(story.profiles) == 2


# What would be


def test_the_same_setting_gives_about_what_was_recorded(busy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--recording", busy, "--set", "max_batch_size=64", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    recorded, simulated = answer["recorded"], answer["simulated"]
    assert recorded["requests"] == simulated["requests"] == 1500
    assert simulated["in_time"] == pytest.approx(recorded["in_time"], rel=0.02)
    for name in ("p50_ms", "p95_ms", "batches", "mean_batch_rows"):
        assert simulated[name] == pytest.approx(recorded[name], rel=0.1)
    assert simulated["busy_share"] == pytest.approx(recorded["busy_share"], rel=0.05)


def test_more_workers_are_shown_side_by_side_with_a_plot(
    busy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--recording", busy, "--set", "workers=2", "--set", "max_batch_size=8", "--out", tmp_path / "out") == 0
    rows = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["requests"][-2:] == ["1500", "1500"]
    assert "workers=2 max_batch_size=8" in " ".join(rows[""])
    assert float(rows["p50 ms"][-1]) < float(rows["p50 ms"][-2])
    assert all(share.endswith("%") for share in rows["busy share"][-2:])
    assert (tmp_path / "out" / "timeline.png").stat().st_size > 10_000


def test_a_request_is_told_when_it_was_there_and_not_when_its_worker_had_time(tmp_path: Path) -> None:
    joined: list[Event] = [WorkerJoined(0, "cpu"), Measured("cpu", "p", 1, 1.0), Measured("cpu", "p", 500, 9.0)]
    story = told(
        tmp_path,
        (0.0, joined),
        (1.0, [Arrived("a", "p", arrived_at=0.75)]),
        (4.0, [BatchDone(0, 1, 3.0), Arrived("b", "p", arrived_at=1.5), CapChanged("p", 1, inf)]),
        (5.0, [BatchDone(0, 2, 1.0)]),
    )
    durations = Durations([Taken("p", 1, 2.0)])
    alone = simulate(story, CONFIG, 1, durations)
    assert [(batch.start, batch.finish) for batch in alone.batches] == [(1.0, 3.0), (3.0, 5.0)]
    both = simulate(story, CONFIG, 2, durations)
    assert [(batch.worker, batch.start) for batch in both.batches] == [(0, 1.0), (1, 1.75)]


def test_a_prefetched_batch_begins_when_the_one_before_it_ends(tmp_path: Path) -> None:
    arrivals: list[Event] = [Arrived(number, "p", batch_limit=1) for number in range(2)]
    story = told(tmp_path, (0.0, [WorkerJoined(0), *arrivals]), (1.0, [BatchDone(0, 1, 1.0)]))
    config = DispatcherConfig(max_batch_size=1, latency_table={1: 1.0}, prefetch_s=0.5)
    batches = simulate(story, config, 1, Durations(story.taken)).batches
    assert [(batch.start, batch.finish) for batch in batches] == [(0.0, 1.0), (1.0, 2.0)]


def test_the_way_to_a_worker_and_back_is_waited_for_but_is_no_work(tmp_path: Path) -> None:
    story = told(
        tmp_path,
        (0.0, [WorkerJoined(0), Arrived("a", "p"), Arrived("b", "p", arrived_at=0.0)]),
        (0.25, [Tick()]),
        (1.5, [BatchDone(0, 1, 1.0)]),
    )
    assert story.taken == [Taken("p", 1, 1.0, True, 0.5)]
    account = simulate(story, DispatcherConfig(1), 1, Durations(story.taken))
    assert [(batch.start, batch.finish) for batch in account.batches] == [(0.5, 1.5), (2.0, 3.0)]
    assert repr(figures([(story, account)])["busy_share"]).startswith("[0.666")


def test_who_hangs_up_while_waiting_is_never_served(tmp_path: Path) -> None:
    story = told(
        tmp_path,
        (0.0, [WorkerJoined(0), Arrived("a", "p")]),
        (0.5, [Arrived("b", "p")]),
        (0.6, [Cancelled("b")]),
        (1.0, [BatchDone(0, 1, 1.0)]),
    )
    account = simulate(story, CONFIG, 1, Durations(story.taken))
    assert [batch.requests for batch in account.batches] == [[0]]
    assert figures([(story, account)])["cancelled"] == 1


def test_durations_are_medians_by_size_never_falling_with_lines_between() -> None:
    taken = [Taken("p", rows, seconds) for rows, seconds in ((1, 1.0), (1, 1.0), (1, 9.0), (4, 4.0), (8, 3.0))]
    durations = Durations([*taken, Taken("p", 1, 500.0, False), Taken("q", 1, 7.0)])
    draws = {rows: {durations.draw("p", rows)[0] for _ in range(200)} for rows in (1, 2, 8)}
    assert min(draws[1]) == pytest.approx(3.0 / 3.5)  # the last one's deviation: 3.0 where 3.5 are pooled
    assert max(draws[1]) == pytest.approx(9.0)
    assert 1.0 in draws[1]
    assert any(seconds == pytest.approx(1.0 + 2.5 / 3) for seconds in draws[2])
    assert any(seconds == pytest.approx(3.5) for seconds in draws[8])
    assert durations.draw("q", 1) == (7.0, 0.0)
    assert durations.draw("unknown", 1)[0] < 100


def test_nothing_can_be_simulated_where_no_batch_was_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecordingError):
        Durations([])
    path = Memory().save(tmp_path / "empty.jsonl")
    assert run("--recording", path) == 0
    assert run("--recording", path, "--set", "workers=2") == 2
    assert "no batch was finished" in capsys.readouterr().err


# The arguments


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("max_batch_sizes=16", 'Did you mean "max_batch_size"?'),
        ("worker=2", 'Did you mean "workers"?'),
        ("workers", "expected NAME=VALUE"),
        ("workers=0", "at least one worker"),
        ("workers=two", "expected a whole number"),
        ("quantile=1.5", "quantile must lie between 0 and 1"),
        ("quantile=high", "expected a number"),
        ("buckets=4;8", "whole numbers separated by commas, or none"),
        ("latency_table=5ms", "such as 1:0.0055,64:0.037"),
        ("latency_tables=x", "give latency_table"),
    ],
)
def test_a_wrong_setting_is_an_error_that_says_what_would_do(
    busy: Path, given: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run("--recording", busy, "--set", given)
    assert exit_.value.code == 2
    assert why in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("given", ["buckets=4,8", "buckets=none", "latency_table=1:0.01,64:0.04", "budget_s=0.02"])
def test_every_kind_of_setting_can_be_given(busy: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--recording", busy, "--set", given) == 0
    assert given in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--recording", "no.jsonl"], ["--set", "workers=2"]])
def test_arguments_that_go_nowhere_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*wrong)
    assert exit_.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_plain_dispatcher_decides_as_a_recorded_one() -> None:
    events: list[Event] = [WorkerJoined(0), *(Arrived(number, "p", deadline=9.0) for number in range(9))]
    assert Memory().dispatcher.handle_all(events, 1.0) == Dispatcher(CONFIG).handle_all(events, 1.0)
