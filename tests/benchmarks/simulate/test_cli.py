"""The command on tiny sizes: it prints tables, writes files, compares with the reference and says what is met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.simulate import bars, cli, reproduction
from benchmarks.simulate.bars import Check, Trial
from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import NAIVE
from benchmarks.simulate.jobs import Jobs
from benchmarks.simulate.latency import RESNET
from benchmarks.simulate.table import read_rows
from benchmarks.simulate.tables import COUNTS, Line, lines

TINY = ("--quick", "--requests", "200", "--processes", "1")


def test_a_table_is_printed_and_written_with_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--table", "D", *TINY, "--out", str(tmp_path)]) == 0
    assert "Table D." in capsys.readouterr().out
    written = read_rows(tmp_path / "table_d.csv")
    assert [row.keys["model"] for row in written[::2]] == ["resnet", "mlp", "cpu"]
    assert all(row.figures["eager greedy p50"] >= 1 for row in written)
    for name in ("capacity", "latency", "batch", "timeline"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_recorded_arrivals_and_another_policy_take_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = tmp_path / "a day.txt"
    recorded.write_text("\n".join(str(number * 0.1) for number in range(50)))
    policy = "benchmarks.simulate.policies.early_drop:EarlyDrop"
    assert cli.main(["--table", "D", *TINY, "--replay", str(recorded), "--policy", policy]) == 0
    printed = capsys.readouterr().out
    assert str(recorded) in printed
    assert f"{policy} p99" in printed


@pytest.mark.parametrize("wrong", [["--policy", "nobody"], ["--policy", "nobody:Here"], ["--replay", "no.txt"]])
def test_what_is_not_there_is_named(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--table", "D", *wrong])
    assert exit_.value.code == 2
    assert wrong[1] in capsys.readouterr().err


def test_missed_bars_are_said_and_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [Check(1, "enough", 2.0, 1.0), Check(2, "too late", 2.0, 1.0, at_least=False), Check(2, "so", 1.0, None)]
    monkeypatch.setattr(bars, "all_checks", lambda trial: checks)
    assert cli.main(["--bars", "--json", *TINY]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["met"] == {"1": True, "2": False}
    assert [check["met"] for check in answer["checks"]] == [True, False, True]
    monkeypatch.setattr(bars, "all_checks", lambda trial: checks[:1])
    assert cli.main(["--bars", *TINY]) == 0
    assert "bar 1: met" in capsys.readouterr().out


def test_every_row_of_the_reference_is_computed_here() -> None:
    for table in COUNTS:
        reference = read_rows(reproduction.FOLDER / f"table_{table.lower()}.csv")
        assert [row.keys for row in reference] == [line.keys for line in lines(table)], table


def test_an_overload_row_of_the_reference_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Line("A2", Cell(RESNET, "poisson", 3, count=COUNTS["A2"]), 0.8, own=())
    monkeypatch.setattr(reproduction, "lines", lambda table, own: [row])
    with Jobs(1) as jobs:
        found = reproduction.deviations("A2", jobs)
    assert len(found) == 9
    assert max(deviation.size for deviation in found) < 0.02


def test_eager_greedy_is_quick_when_idle_and_falls_in_overload() -> None:
    with Jobs(1) as jobs:
        trial = Trial(jobs, (1,), NAIVE, quick=True)
        assert all(check.met for check in bars.idle.checks(trial) if "fit" not in check.what)
        assert not all(check.met for check in bars.overload.checks(trial))
