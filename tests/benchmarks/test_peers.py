"""The comparison's pure parts; that BentoML can be installed is nobody's promise."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import environment
from benchmarks.peers.comparison import Pair, table
from benchmarks.peers.json_load import JsonLoad
from benchmarks.peers.service_file import service_text
from benchmarks.report import Report


def report(rate: float, p99_ms: float, errors: dict[str, int] | None = None) -> Report:
    latency = {"p50": p99_ms / 2, "p90": p99_ms, "p99": p99_ms, "p99.9": p99_ms}
    return Report(int(rate), rate, latency, errors or {}, 1.0, {}, 1.0, 1.0)


def test_ratios_are_medians_of_the_repetitions_own_ratios() -> None:
    pair = Pair("default")
    pair.paceline = [report(800, 10), report(100, 80), report(900, 10)]
    pair.bentoml = [report(100, 100), report(50, 160), report(100, 100)]
    assert pair.rate_ratio == 8.0
    assert pair.p99_ratio == 0.1
    assert all(pair.bars().values())


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        (report(799, 10), "requests/s >= 8x BentoML's"),
        (report(800, 21), "p99 <= 0.2x BentoML's"),
        (report(800, 10, {"500": 1}), "no error"),
    ],
)
def test_a_bar_is_missed_alone(ours: Report, missed: str) -> None:
    pair = Pair("default", [ours], [report(100, 100)])
    assert [bar for bar, met in pair.bars().items() if not met] == [missed]
    assert f"default: {missed}: MISSED" in table([pair])


def test_errors_of_bentoml_count_too() -> None:
    pair = Pair("default", [report(800, 10)], [report(100, 100, {"503": 2})])
    assert not pair.bars()["no error"]
    assert pair.to_plain()["bentoml"]["errors"] == 2


def test_the_table_has_a_line_for_each_product_and_setting() -> None:
    pairs = [Pair(setting, [report(812, 10)], [report(100, 100)]) for setting in peers.SETTINGS]
    lines = table(pairs).splitlines()
    assert lines[1].split() == ["Paceline,", "one", "process", "812", "5.0", "10", "0"]
    assert lines[5].split() == ["BentoML,", "default", "100", "50.0", "100", "0"]


def test_service_files_differ_in_the_products_name_alone() -> None:
    ours, theirs = service_text("paceline"), service_text("bentoml")
    assert ours.replace("paceline", "bentoml") == theirs
    compile(ours, "service.py", "exec")


def test_a_request_says_how_long_its_body_is() -> None:
    head, _, body = JsonLoad(8000, "[1.5]", 64, 0.5, 1.0).request().partition(b"\r\n\r\n")
    assert head.startswith(b"POST /predict HTTP/1.1\r\n")
    assert b"Content-Length: 5" in head
    assert body == b"[1.5]"


def test_other_pins_have_an_environment_of_their_own(tmp_path: Path) -> None:
    folders = {environment.environment_folder(pins, tmp_path) for pins in (b"torch==2.5.1", b"torch==2.5.0")}
    assert len(folders) == 2
    assert all(folder.is_relative_to(tmp_path) for folder in folders)


def test_pins_are_exact() -> None:
    pins = [line for line in environment.PINS.read_text().splitlines() if not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    assert {"bentoml==1.1.11", "torch==2.5.1"} <= set(pins)


def test_without_bentoml_nothing_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: slow\nERROR: no matching distribution\n")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))
    monkeypatch.setattr(subprocess, "run", no_network)
    assert peers.main([]) == 0
    assert capsys.readouterr().out == "skipped, nothing compared: ERROR: no matching distribution\n"
    assert not list(tmp_path.rglob("whole"))
