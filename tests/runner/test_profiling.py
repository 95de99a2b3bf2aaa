"""The rules of a recording, on a fake recorder and a virtual clock; and torch's own recorder on a small model."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

import pytest
import torch

from paceline.cli.operators import read_operators
from paceline.protocol.clock import VirtualClock
from paceline.protocol.control import ProfileDone, Trace
from paceline.protocol.limits import TRACE_EVENTS_MAX
from paceline.runner.profiling import Profiling, TraceFailed
from paceline.runner.trace_recorder import TraceRecorder
from tests.runner.host_fakes import FakeEngine

ORDER = Trace(5.0, "/run/p/t-1.json")


@dataclass
class FakeRecording:
    number: int
    events: int
    running: bool = True
    fails_to_write: bool = False
    written_to: Path | None = None

    def stop(self) -> int:
        self.running = False
        return self.events

    def write(self, path: Path) -> None:
        if self.fails_to_write:
            raise TraceFailed("no space left")
        assert not self.running
        self.written_to = path


class FakeRecorder:
    """`events`: how many each recording will have."""

    def __init__(self) -> None:
        self.events = 10
        self.refuses = False
        self.fails_to_write = False
        self.made: list[FakeRecording] = []

    def start(self) -> FakeRecording:
        if self.refuses:
            raise TraceFailed("a profiler runs already")
        assert not any(recording.running for recording in self.made)
        self.made.append(FakeRecording(len(self.made), self.events, fails_to_write=self.fails_to_write))
        return self.made[-1]

    @property
    def written(self) -> list[int]:
        return [recording.number for recording in self.made if recording.written_to is not None]


class Bench:
    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.recorder = FakeRecorder()
        self.profiling = Profiling(FakeEngine(self.clock), self.recorder, self.clock)

    def batch(self) -> ProfileDone | None:
        """One batch, then what the worker's loop does after it."""
        self.profiling.run("__call__", [], self.clock.now)
        return self.profiling.look()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_idle_worker_wakes_and_answers_when_the_time_is_over(bench: Bench) -> None:
    assert bench.profiling.wake_at() == inf
    assert bench.profiling.begin(ORDER) is None
    assert bench.profiling.wake_at() == bench.clock.now() + 5.0
    assert bench.profiling.look() is None
    bench.clock.advance(5.0)
    assert bench.profiling.look() == ProfileDone(ORDER.path, 5.0, 0)
    assert bench.recorder.written == [0]
    assert (bench.profiling.wake_at(), bench.profiling.look()) == (inf, None)


def test_the_first_batch_measures_and_the_others_are_in_the_trace(bench: Bench) -> None:
    bench.profiling.begin(ORDER)
    assert [bench.batch() for _ in range(4)] == [None] * 4
    bench.clock.advance(5.0)
    done = bench.profiling.look()
    assert done is not None
    assert (done.batches, done.full, done.error) == (3, False, "")
    assert bench.recorder.written == [1]


def test_a_lone_batch_is_kept(bench: Bench) -> None:
    bench.profiling.begin(ORDER)
    bench.batch()
    bench.clock.advance(5.0)
    done = bench.profiling.look()
    assert done is not None
    assert (done.batches, bench.recorder.written) == (1, [0])


def test_a_batch_that_ends_after_the_time_is_in_the_trace(bench: Bench) -> None:
    bench.profiling.begin(ORDER)
    bench.clock.advance(6.0)
    done = bench.batch()
    assert done is not None
    assert (done.batches, done.full, bench.recorder.written) == (1, False, [0])


def test_a_trace_ends_before_it_has_more_events_than_allowed(bench: Bench) -> None:
    bench.recorder.events = TRACE_EVENTS_MAX // 3
    bench.profiling.begin(ORDER)
    answers = [bench.batch() for _ in range(4)]
    assert answers[:3] == [None] * 3
    assert answers[3] is not None
    assert (answers[3].batches, answers[3].full, bench.recorder.written) == (3, True, [1])


def test_one_batch_that_fills_a_trace_is_the_trace(bench: Bench) -> None:
    bench.recorder.events = 2 * TRACE_EVENTS_MAX
    bench.profiling.begin(ORDER)
    done = bench.batch()
    assert done is not None
    assert (done.batches, done.full, bench.recorder.written) == (1, True, [0])


def test_a_second_order_is_refused_while_one_runs(bench: Bench) -> None:
    bench.profiling.begin(ORDER)
    refused = bench.profiling.begin(Trace(1.0, "/run/p/t-2.json"))
    assert refused is not None
    assert "profiled already" in refused.error
    assert bench.profiling.wake_at() == bench.clock.now() + 5.0


def test_what_the_recorder_cannot_do_is_the_answer_and_the_next_order_is_taken(bench: Bench) -> None:
    bench.recorder.refuses = True
    refused = bench.profiling.begin(ORDER)
    assert refused is not None
    assert refused.error == "a profiler runs already"
    bench.recorder.refuses, bench.recorder.fails_to_write = False, True
    assert bench.profiling.begin(ORDER) is None
    bench.clock.advance(5.0)
    failed = bench.profiling.look()
    assert failed is not None
    assert failed.error == "no space left"
    assert bench.profiling.begin(ORDER) is None


def test_a_worker_that_ends_stops_and_writes_what_it_has(bench: Bench) -> None:
    assert bench.profiling.close() is None
    bench.profiling.begin(ORDER)
    bench.clock.advance(1.0)
    assert bench.profiling.close() == ProfileDone(ORDER.path, 1.0, 0)
    assert not any(recording.running for recording in bench.recorder.made)


def test_torch_records_operators_into_a_file_of_its_own_user(tmp_path: Path) -> None:
    model, path = torch.nn.Linear(4, 4), tmp_path / "t-1.json"
    recording = TraceRecorder("cpu").start()
    with torch.inference_mode():
        model(torch.zeros(2, 4))
    assert recording.stop() > 0
    recording.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    found = {each.name: each for each in read_operators(path)}
    assert found["aten::addmm"].calls == 1
    assert found["aten::addmm"].self_cpu_us > 0


def test_trace_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    recording = TraceRecorder("cpu").start()
    recording.stop()
    with pytest.raises(TraceFailed, match="cannot be written"):
        recording.write(tmp_path / "nowhere" / "t-1.json")
