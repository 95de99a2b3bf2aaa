"""`paceline profile`: what a trace says, what the command prints, and how it asks; on a fake server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from paceline.cli.app import app
from paceline.cli.operators import Operator, operators, read_operators
from paceline.protocol.control import ProfileDone, ProfileRequest
from paceline.protocol.errors import ModelNotFound, PacelineError


def span(name: str, ts: float, dur: float, launch: int = 0, cat: str = "cpu_op", tid: int = 1) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": tid, "ts": ts, "dur": dur} | {
        "args": {"External id": launch}
    }


LINEAR = [span("aten::linear", 0, 100, 1), span("aten::t", 10, 20, 2), span("aten::addmm", 30, 60, 3)]


def test_time_of_an_operators_own_is_without_those_that_it_calls() -> None:
    assert operators([*LINEAR, span("aten::addmm", 0, 40, tid=2)]) == [
        Operator("aten::addmm", 2, 100.0, 0.0, 100 / 140),
        Operator("aten::linear", 1, 20.0, 0.0, 20 / 140),
        Operator("aten::t", 1, 20.0, 0.0, 20 / 140),
    ]


def test_device_time_goes_to_the_operator_that_launched_it_and_decides_the_share() -> None:
    launched = [span("gemm", 200, 300, 3, "kernel"), span("copy", 500, 100, 1, "gpu_memcpy")]
    first, second, third = operators([*LINEAR, *launched, {"ph": "M", "name": "process_name"}])
    assert (first.name, first.self_device_us, first.share) == ("aten::addmm", 300.0, 0.75)
    assert (second.name, second.self_device_us, second.share) == ("aten::linear", 100.0, 0.25)
    assert (third.name, third.share) == ("aten::t", 0.0)


def test_a_trace_without_operators_has_none() -> None:
    assert operators([{"ph": "M", "name": "process_name"}]) == []


@pytest.mark.parametrize("text", ["", '{"traceEvents": [', "[]", "{}"])
def test_half_a_trace_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(PacelineError, match=r"t\.json cannot be read"):
        read_operators(tmp_path / "t.json")


class FakeServer:
    """In place of `fetch_profile`: makes a trace of `events` and remembers what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.made = folder / "t-1.json"
        self.events: list[dict[str, Any]] = LINEAR
        self.full = False
        self.error: PacelineError | None = None
        self.asked: list[tuple[Path, ProfileRequest]] = []

    def __call__(self, run_dir: Path, request: ProfileRequest) -> ProfileDone:
        self.asked.append((run_dir, request))
        if self.error is not None:
            raise self.error
        self.made.write_text(json.dumps({"traceEvents": self.events}))
        return ProfileDone(str(self.made), request.seconds, 3 if self.events else 0, self.full, "net/1")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    (tmp_path / "run").mkdir()
    fake = FakeServer(tmp_path / "run")
    monkeypatch.setattr("paceline.supervisor.fetch_profile", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["profile", "net", "--run-dir", "/run/x", *words])
    return result.exit_code, result.stdout


def test_profile_shows_the_operators_and_takes_the_trace_away(server: FakeServer, tmp_path: Path) -> None:
    server.full = True
    code, text = run("--seconds", "2", "--worker", "1")
    assert code == 0
    assert server.asked == [(Path("/run/x"), ProfileRequest("net", 1, 2.0))]
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:2] == ["net/1: 2.0 s, batches: 3", "ended early: a trace holds about 100,000 events"]
    assert lines[3:5] == ["OPERATOR CALLS SELF CPU SELF DEVICE SHARE", "aten::addmm 1 0.06 ms - 60.0%"]
    assert lines[-1].startswith("trace: trace.json (")
    assert not server.made.exists()
    assert len(read_operators(tmp_path / "trace.json")) == 3


def test_profile_prints_json(server: FakeServer) -> None:
    code, text = run("--json", "--output", "mine.json")
    shown = json.loads(text)
    assert code == 0
    assert server.asked[0][1] == ProfileRequest("net", None, 5.0)
    assert (shown["worker"], shown["batches"], shown["trace"]) == ("net/1", 3, "mine.json")
    assert shown["operators"][0]["name"] == "aten::addmm"


def test_profile_without_traffic_says_so(server: FakeServer) -> None:
    server.events = []
    code, text = run()
    assert code == 0
    assert "the trace has no operators: no batch ran there" in text


def test_profile_refuses_before_it_asks(server: FakeServer) -> None:
    assert run("--output", "nowhere/trace.json")[0] == 2
    assert run("--output", ".")[0] == 2
    assert run("--seconds", "61")[0] == 2
    assert run("--seconds", "0.05")[0] == 2
    assert server.asked == []


def test_profile_passes_the_servers_refusal_on(server: FakeServer) -> None:
    server.error = ModelNotFound("runner 'nte' is not served here.")
    code, text = run("--json")
    assert code == 2
    assert json.loads(text) == {"error": "runner 'nte' is not served here.", "code": "model_not_found"}
