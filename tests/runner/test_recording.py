"""Recordings: every event and action comes back, the very dispatcher replays them, and no disk costs a request."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import fields
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.protocol.spec import ChildSpec, HttpSpec, RunnerSpec, ServeSpec
from paceline.runner.dispatcher import (
    Action,
    Arrived,
    BatchDone,
    Cancelled,
    CapChanged,
    Dispatch,
    Dispatcher,
    DispatcherConfig,
    Event,
    Measured,
    Reject,
    RejectReason,
    Tick,
    WakeAt,
    WorkerDraining,
    WorkerJoined,
    WorkerLost,
)
from paceline.runner.dispatching import dispatcher_for
from paceline.runner.recorder import RecordingDispatcher, RecordingFile, open_to_append, recorded
from paceline.runner.recording import ACTIONS, COLUMNS, EVENTS, Header, RecordingError, Step, Torn, read
from paceline.runner.scribe import NOBODY, Scribe, header_line, key_text
from tests.runner.dispatcher.world import World

CONFIG = DispatcherConfig(max_batch_size=4)
HEADER = Header("net", 0, "cpu", CONFIG, 12.5, 1.7e9)
LINE = header_line(HEADER)
WORKER, BATCH_ID = 0, 1

times = st.floats(0, 1e9) | st.just(inf)
rows = st.integers(1, 10_000)
keys = st.sampled_from(["predict", "null", ("predict", "0123abcd")])
plain_events = (
    st.builds(
        Arrived,
        st.just(0),
        keys,
        rows=rows,
        deadline=times | st.floats(),
        priority=st.integers(-(2**63), 2**63 - 1),
        arrived_at=st.none() | times,
        length=st.integers(0, 1000),
        batch_limit=st.none() | rows,
        starts=st.integers(0, 3),
        starts_max=st.none() | rows,
    )
    | st.builds(Cancelled, st.just(NOBODY))
    | st.builds(WorkerJoined, st.just(WORKER), st.sampled_from(["", "cuda:0"]))
    | st.builds(WorkerDraining, st.just(NOBODY))
    | st.builds(WorkerLost, st.just(NOBODY), st.none() | st.lists(rows, unique=True).map(lambda n: tuple(sorted(n))))
    | st.builds(BatchDone, st.just(NOBODY), rows, times, st.booleans())
    | st.builds(CapChanged, keys, rows, times)
    | st.builds(Measured, st.sampled_from(["", "cpu"]), keys, rows, times, st.integers(0, 1000))
    | st.just(Tick())
)
plain_actions = (
    st.builds(
        Dispatch,
        st.just(NOBODY),
        rows,
        st.lists(st.just(NOBODY), min_size=1).map(tuple),
        key=st.just("predict"),
        rows=rows,
        padded_rows=rows,
        length=rows,
        predicted_s=times,
    )
    | st.builds(Reject, st.just(NOBODY), st.sampled_from(RejectReason), st.none() | times)
    | st.builds(WakeAt, times)
)


def written(*steps: Step) -> list[bytes]:
    scribe = Scribe()
    return [LINE, *(scribe.line(step.now, step.events, step.actions, step.refused) for step in steps)]


def steps_of(lines: Iterable[bytes]) -> list[Step]:
    return [entry for _, entry in read(lines) if isinstance(entry, Step)]


def arrived(number: Hashable, key: Hashable = "predict", deadline: float = 9.0) -> Arrived:
    return Arrived(number, key, deadline=deadline)


# The form


def test_every_field_of_every_event_and_action_has_a_name_of_its_own() -> None:
    recorded_classes = {*EVENTS.values(), *ACTIONS.values()}
    assert recorded_classes == {*Event.__args__, *Action.__args__}
    assert len({*EVENTS, *ACTIONS}) == len(EVENTS) + len(ACTIONS)
    assert {f.name for cls in recorded_classes for f in fields(cls)} == set(COLUMNS)
    shorts = [column.short for column in COLUMNS.values()]
    assert len(set(shorts)) == len(shorts)
    assert "e" not in shorts


def test_the_operations_page_names_every_kind_and_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text().partition("## Recording decisions")[2]
    section = page.partition("\n## ")[0]
    kinds = {
        name for row in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert kinds - {"e"} == {*EVENTS, *ACTIONS}
    named = set(re.findall(r"`(\w+)`", section))
    assert {column.short for column in COLUMNS.values()} <= named


@given(now=times, event=plain_events, action=plain_actions, refused=st.booleans())
def test_every_event_and_action_comes_back_as_it_was(now: float, event: Event, action: Action, refused: bool) -> None:
    step = Step(now, (event,), (action,), refused)
    (back,) = steps_of(written(step))
    key = ("predict", key_text(("predict", "0123abcd")).partition("/")[2])
    expected = repr(step).replace(repr(("predict", "0123abcd")), repr(key))
    assert repr(back) == expected  # floats by their digits, and nan is nan


tables = st.dictionaries(rows, st.floats(0, 10), min_size=1, max_size=5)


@given(
    st.builds(
        DispatcherConfig,
        max_batch_size=rows,
        latency_table=st.none() | tables,
        latency_tables=st.none() | st.dictionaries(st.sampled_from(["cpu", "cuda:0"]), tables),
        budget_s=st.none() | times,
        reply_s=times,
        prefetch_s=times,
        starts_max=rows,
        quantile=st.floats(0.01, 0.99),
        buckets=st.lists(rows, max_size=3).map(tuple),
        queue_rows_max=rows,
        ageing_s=times,
        keys_max=rows,
    )
)
def test_the_header_holds_the_whole_configuration(config: DispatcherConfig) -> None:
    header = Header("net", 3, "cuda:0", config, 12.25, 1.7e9)
    ((number, back),) = read([header_line(header)])
    assert (number, back) == (1, header)


def test_ids_become_numbers_and_keys_digests() -> None:
    secret = b"client-17"
    events = (WorkerJoined(b"incarnation"), Arrived((secret, 1), ("predict", b"float32 4")), Arrived((secret, 2), "a"))
    dispatch = Dispatch(b"incarnation", BATCH_ID, ((secret, 2), (secret, 1)), ("predict", b"float32 4"))
    lines = written(Step(1.0, events, (dispatch,)))
    text = b"".join(lines)
    assert secret not in text
    assert b"incarnation" not in text
    assert b"float32" not in text
    (step,) = steps_of(lines)
    assert step.events[1] == Arrived(0, ("predict", step.events[1].key[1]))  # type: ignore[union-attr, index]
    (again,) = step.actions
    assert isinstance(again, Dispatch)
    assert (again.worker_id, again.request_ids) == (0, (1, 0))


def test_a_key_has_the_same_text_in_every_process() -> None:
    assert key_text(("predict", b"\x01float32")) == "predict/ecb88b31806f"
    assert key_text("predict") == "predict"
    assert "/" not in key_text(("a/b",)).partition("/")[2]
    assert key_text("a/b") != "a/b"
    assert key_text(("m", 1)) != key_text(("m", 2))


# Who is numbered how long


def numbers_of(scribe: Scribe, *calls: tuple[tuple[Event, ...], tuple[Action, ...]]) -> list[Step]:
    lines = [scribe.line(float(at), events, actions) for at, (events, actions) in enumerate(calls)]
    return steps_of([LINE, *lines])


def batch(batch_id: int, *request_ids: str, worker: str = "w") -> Dispatch:
    return Dispatch(worker, batch_id, request_ids, "predict")


def test_who_is_done_is_forgotten_and_a_new_one_of_the_name_is_somebody_else() -> None:
    scribe = Scribe()
    steps = numbers_of(
        scribe,
        ((WorkerJoined("w"), arrived("a"), arrived("b")), (batch(1, "a"), Reject("b", RejectReason.QUEUE_FULL))),
        ((BatchDone("other", 1, 0.1), BatchDone("w", 2, 0.1), arrived("c")), ()),
        ((BatchDone("w", 1, 0.1), Cancelled("c")), ()),
        ((arrived("a"), arrived("b"), arrived("c"), Cancelled("nobody")), ()),
    )
    assert [event.request_id for event in steps[-1].events] == [3, 4, 5, NOBODY]  # type: ignore[union-attr]
    assert len(scribe._requests) == 3
    assert not scribe._batches


def test_one_that_comes_and_goes_and_is_rejected_in_one_call_keeps_its_number_for_it() -> None:
    (step,) = numbers_of(
        Scribe(), ((arrived("a"), arrived("b"), Cancelled("b")), (Reject("b", RejectReason.INFEASIBLE),))
    )
    assert step.events[2] == Cancelled(1)
    assert step.actions == (Reject(1, RejectReason.INFEASIBLE),)


def test_a_second_life_outlives_the_batch_of_the_first() -> None:
    scribe = Scribe()
    steps = numbers_of(
        scribe,
        ((WorkerJoined("w"), arrived("a")), (batch(1, "a"),)),
        ((Cancelled("a"),), ()),
        ((arrived("a"),), ()),
        ((BatchDone("w", 1, 0.1),), (batch(2, "a"),)),
        ((WorkerLost("w"),), (Reject("a", RejectReason.WORKER_LOST),)),
    )
    assert steps[3].actions[0].request_ids == (1,)  # type: ignore[union-attr]
    assert steps[4].actions[0] == Reject(1, RejectReason.WORKER_LOST)
    assert not scribe._requests
    assert not scribe._workers
    assert not scribe._batches


# Replay


class Memory:
    """A file for lines that remembers them."""

    recording = True

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


def recorded_world(seed: int) -> tuple[World, list[bytes]]:
    world, memory = World(seed, faulty=False), Memory()
    world.dispatcher = RecordingDispatcher(world.config, memory)  # type: ignore[arg-type]
    world.run()
    return world, [header_line(Header("net", 0, "", world.config, 0.0, 0.0)), *memory.lines]


@pytest.mark.parametrize("seed", range(30))
def test_a_random_world_replays_to_the_same_actions(seed: int) -> None:
    world, lines = recorded_world(seed)
    entries = [entry for _, entry in read(lines)]
    header = entries[0]
    assert isinstance(header, Header)
    replayed = Dispatcher(header.config)
    for step in entries[1:]:
        assert isinstance(step, Step)
        assert tuple(replayed.handle_all(step.events, step.now)) == step.actions
    # Whoever is done is forgotten.
    scribe = world.dispatcher._scribe  # type: ignore[attr-defined]
    assert not scribe._requests
    assert not scribe._batches
    assert set(scribe._workers) == set(world.machines)
    assert not scribe._draining


def test_a_call_that_raises_is_recorded_and_raises_again() -> None:
    memory = Memory()
    dispatcher = RecordingDispatcher(CONFIG, memory)  # type: ignore[arg-type]
    dispatcher.handle(arrived("a"), 1.0)
    with pytest.raises(ValueError, match="live already"):
        dispatcher.handle_all([arrived("a"), arrived("b")], 2.0)
    dispatcher.handle(WorkerJoined("w"), 3.0)
    steps = steps_of([LINE, *memory.lines])
    assert [step.refused for step in steps] == [False, True, False]
    assert [event.request_id for event in steps[1].events] == [0, 1]  # type: ignore[union-attr]
    replayed = Dispatcher(CONFIG)
    replayed.handle_all(steps[0].events, 1.0)
    with pytest.raises(ValueError, match="live already"):
        replayed.handle_all(steps[1].events, 2.0)
    assert tuple(replayed.handle_all(steps[2].events, 3.0)) == steps[2].actions


# Damage


def some_lines() -> list[bytes]:
    return written(Step(1.0, (arrived("a"),), ()), Step(2.0, (Tick(),), ()))


def test_a_line_cut_short_at_the_end_is_tolerated() -> None:
    lines = some_lines()
    entries = list(read([*lines[:2], lines[2][:10]]))
    assert [number for number, _ in entries] == [1, 2, 3]
    assert isinstance(entries[2][1], Torn)


def test_a_line_cut_short_before_the_header_of_a_successor_is_tolerated() -> None:
    lines = some_lines()
    entries = [entry for _, entry in read([*lines[:2], lines[2][:10] + b"\n", LINE, lines[1]])]
    assert [type(entry) for entry in entries] == [Header, Step, Torn, Header, Step]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"t":1.0,"e":[\n', "not JSON"),
        (b"[1]\n", "expected an object"),
        (b'{"t":1.0,"e":[{"e":"Z"}],"a":[]}\n', "KeyError"),
        (b'{"t":1.0,"e":[{"e":"A","k":"p"}],"a":[]}\n', "request_id"),
        (b'{"t":1.0,"e":[{"e":"A","k":"p","i":"x"}],"a":[]}\n', "whole number"),
        (b'{"t":1.0,"e":[{"e":"T"}]}\n', "KeyError"),
        (b'{"t":1.0,"e":[{"e":"F","w":0,"b":1,"dt":[]}],"a":[]}\n', "expected a number"),
        (b'{"t":1.0,"e":[],"a":[{"e":"R","i":1,"y":"bored"}]}\n', "bored"),
        (b'{"t":1.0,"e":[[]],"a":[]}\n', "line 2"),
        (LINE.replace(b'"version":1', b'"version":9'), "expected 'paceline decisions' 1"),
        (LINE.replace(b'"quantile"', b'"quintile"'), "quintile, which this version does not know"),
        (LINE.replace(b'"quantile":0.5', b'"quantile":1.5'), "between 0 and 1"),
    ],
)
def test_a_damaged_line_is_named_by_its_number(line: bytes, why: str) -> None:
    lines = some_lines()
    with pytest.raises(RecordingError, match="line 2 is damaged") as caught:
        list(read([lines[0], line, *lines[1:]]))
    assert why in str(caught.value)


@pytest.mark.parametrize("lines", [[], [b"0.1\n"], [b'{"t":1.0,"e":[],"a":[]}\n'], [b"hello\n"]])
def test_another_file_is_no_recording(lines: list[bytes]) -> None:
    with pytest.raises(RecordingError):
        list(read(lines))


@settings(max_examples=50)
@given(st.data())
def test_garbage_raises_nothing_else(data: st.DataObject) -> None:
    text = bytearray(b"".join(some_lines()))
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RecordingError):
        list(read(bytes(text).splitlines(keepends=True)))


# The file


def test_lines_are_in_the_file_once_it_is_closed(tmp_path: Path) -> None:
    file = RecordingFile(str(tmp_path / "d.jsonl"))
    for line in some_lines():
        file.write(line)
    file.close()
    assert (tmp_path / "d.jsonl").read_bytes() == b"".join(some_lines())


def test_a_successor_appends_after_the_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(LINE + some_lines()[1][:7])
    file = RecordingFile(str(path))
    file.write(LINE)
    file.close()
    with path.open("rb") as lines:
        assert [type(entry) for _, entry in read(lines)] == [Header, Torn, Header]


def test_two_processes_cannot_record_to_one_file(tmp_path: Path) -> None:
    path = str(tmp_path / "d.jsonl")
    held = open_to_append(path)
    with pytest.raises(OSError, match="another process records to it"):
        open_to_append(path)
    held.close()
    open_to_append(path).close()


def test_a_file_at_its_limit_takes_no_more_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(LINE)
    file = RecordingFile(str(path), bytes_max=len(LINE) + 20)
    for _ in range(3):
        file.write(b'{"sixteen": 16}\n')
    file.close()
    assert path.read_bytes() == LINE + b'{"sixteen": 16}\n'
    assert [record.message for record in caplog.records] == ["recording ended"]
    assert not file.recording


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_recording_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    file = RecordingFile("/dev/full")
    dispatcher = RecordingDispatcher(CONFIG, file)
    dispatcher.handle(arrived("a"), 1.0)
    file.close()
    assert len(dispatcher.handle(WorkerJoined("w"), 2.0)) == 1
    (warning,) = caplog.records
    assert warning.message == "recording ended"
    assert warning.__dict__["reason"] == os.strerror(28)


def test_a_disk_that_hangs_ends_the_recording_before_memory_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = RecordingFile(str(tmp_path / "d.jsonl"), pending_bytes_max=-1)
    file.write(b"1\n")
    file.close()
    assert [record.__dict__["reason"] for record in caplog.records] == ["the disk does not keep up"]


def test_a_file_that_cannot_be_opened_leaves_the_dispatcher_unrecorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = recorded(str(tmp_path / "nowhere" / "d.jsonl"), HEADER)
    assert type(dispatcher) is Dispatcher
    assert [record.message for record in caplog.records] == ["recording not begun"]
    assert caplog.records[0].levelno == logging.WARNING


# Where to


def runner_spec(name: str, workers: int, record: str, dispatch: str = "worker") -> RunnerSpec:
    return RunnerSpec(name, name, "1", "", "pytorch", "/s", (), workers, dispatch=dispatch, record=record)


def serve_spec(*runners: RunnerSpec) -> ServeSpec:
    return ServeSpec(runners, HttpSpec(), "/run/p")


def test_one_queue_has_the_file_as_it_is_and_several_one_each() -> None:
    record = "/log/decisions.v1.jsonl"
    assert serve_spec(runner_spec("net", 1, record)).record_paths() == (record,)
    assert serve_spec(runner_spec("net", 4, record, "central")).record_paths() == (record,)
    assert serve_spec(runner_spec("net", 2, record), runner_spec("other", 1, record)).record_paths() == (
        "/log/decisions.v1.net-0.jsonl",
        "/log/decisions.v1.net-1.jsonl",
        "/log/decisions.v1.other-0.jsonl",
    )
    assert serve_spec(runner_spec("net", 2, "")).record_paths() == ()


def test_another_machine_is_told_no_path() -> None:
    assert "/log" not in repr(serve_spec(runner_spec("net", 1, "/log/d.jsonl")).for_remote())


@pytest.mark.parametrize("on", [True, False])
def test_a_child_records_if_the_server_does(tmp_path: Path, on: bool) -> None:
    path = tmp_path / "d.jsonl"
    serve = serve_spec(runner_spec("net", 1, str(path) if on else ""))
    dispatcher = dispatcher_for(ChildSpec(serve, "worker", "net", 0, b"", "", "", 0, 0))
    dispatcher.handle(WorkerJoined(0, "cpu"), 1.0)
    assert isinstance(dispatcher, RecordingDispatcher) is on
    assert path.exists() is on
    if isinstance(dispatcher, RecordingDispatcher):
        dispatcher._file.close()
        first, second = path.read_bytes().splitlines()
        assert json.loads(first)["config"]["max_batch_size"] == 64
        assert (json.loads(first)["runner"], json.loads(first)["profile"]) == ("net", "cpu")
        assert json.loads(second) == {"t": 1.0, "e": [{"e": "J", "w": 0, "f": "cpu"}], "a": []}
