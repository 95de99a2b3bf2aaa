"""What the batching policies do under a virtual clock: tables, plots, the bars, and the check on the simulator itself.

python -m benchmarks.simulate --table A --table D --seeds 1 --out results
python -m benchmarks.simulate --bars --json
python -m benchmarks.simulate --reproduce
python -m benchmarks.simulate --recording decisions.jsonl --set max_batch_size=16
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.simulate import bars, plots, recording, reproduction
from benchmarks.simulate.bars import Check, Trial
from benchmarks.simulate.cell import COUNT
from benchmarks.simulate.contenders import NAIVE, OURS, contender
from benchmarks.simulate.jobs import Jobs
from benchmarks.simulate.table import Table
from benchmarks.simulate.tables import TITLES, lines

SEEDS = 5
QUICK_COUNT = 2_000


def main(arguments: Sequence[str] | None = None) -> int:
    """0 = everything asked for was met, 1 = a bar was missed, a table did not come out or a recording did not replay,
    2 = wrong arguments."""
    options = _parse(arguments)
    if options.recording is not None:
        return recording.run(options.recording, options.changes, options.json, options.out)
    with Jobs(options.processes) as jobs:
        if options.bars:
            return _bars(options, jobs)
        if options.reproduce:
            return _reproduce(options, jobs)
        _tables(options, jobs)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bars", action="store_true", help="the nine bars, each met or missed; exits 1 on a miss")
    what.add_argument("--reproduce", action="store_true", help="compare baselines with the reference; exits 1 if off")
    what.add_argument(
        "--recording", type=Path, help="replay what `paceline serve --record` wrote; exits 1 if it differs"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="with --recording: what would this have done?"
    )
    parser.add_argument("--table", action="append", choices=list(TITLES), help="only this one; may be repeated")
    parser.add_argument("--policy", action="append", default=[], help="module:class of another policy to show as well")
    parser.add_argument("--replay", type=Path, help="a file of arrival times, in seconds, one per line")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from 1 on (default {SEEDS})")
    parser.add_argument("--requests", type=int, help="per run, at most (default: as in the reference, by table)")
    parser.add_argument("--processes", type=int, default=2, help="at a time (default 2)")
    parser.add_argument("--quick", action="store_true", help=f"one seed, {QUICK_COUNT} requests or fewer cells")
    parser.add_argument("--json", action="store_true", help="with --bars and --recording: one JSON object")
    parser.add_argument("--out", type=Path, help="folder for CSV files and plots")
    options = parser.parse_args(arguments)
    for name in options.policy:
        try:
            contender(name)
        except (KeyError, ImportError, AttributeError) as error:
            parser.error(f"--policy {name}: {error}; expected module:class, importable from here")
    try:
        options.changes = recording.parse_changes(options.set)
    except ValueError as error:
        parser.error(str(error))
    if options.changes and options.recording is None:
        parser.error("--set: only with --recording")
    if options.recording is not None and not options.recording.is_file():
        parser.error(f"--recording {options.recording}: no such file")
    if options.replay is not None and not options.replay.is_file():
        parser.error(f"--replay {options.replay}: no such file")
    if options.quick:
        options.seeds, options.requests = 1, min(options.requests or QUICK_COUNT, QUICK_COUNT)
    return options


# Tables


def _tables(options: argparse.Namespace, jobs: Jobs) -> None:
    seeds = range(1, options.seeds + 1)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    for name in options.table or list(TITLES):
        table = Table(name, TITLES[name])
        wanted = lines(name, (OURS, *options.policy), options.requests, options.replay)
        for row in jobs.rows(wanted, seeds):
            table.rows.append(row)
            print(f"table {name}: {len(table.rows)} of {len(wanted)} rows", file=sys.stderr, flush=True)
        print(table.text(), flush=True)
        if options.out is not None:
            table.write_csv(options.out / f"table_{name.lower()}.csv")
    if options.out is not None:
        plots.write(options.out, options.requests or COUNT, tuple(options.policy), options.replay)


# Bars


def _bars(options: argparse.Namespace, jobs: Jobs) -> int:
    begin = time.monotonic()
    trial = Trial(jobs, tuple(range(1, options.seeds + 1)), OURS, options.quick)
    checks: list[Check] = []
    for check in bars.all_checks(trial):
        checks.append(check)
        print(check.text(), file=sys.stderr if options.json else sys.stdout, flush=True)
    met = {bar: all(check.met for check in group) for bar, group in groupby(checks, key=lambda check: check.bar)}
    if options.json:
        print(json.dumps({"met": met, "seconds": time.monotonic() - begin, "checks": [_as_json(c) for c in checks]}))
    else:
        print(*(f"bar {bar}: {'met' if kept else 'MISSED'}" for bar, kept in met.items()), sep="\n")
    return 0 if all(met.values()) else 1


def _as_json(check: Check) -> dict[str, object]:
    limit = {"limit": check.limit, "at_least": check.at_least}
    return {"bar": check.bar, "what": check.what, "value": check.value, **limit, "met": check.met, "where": check.where}


# Reproduction


def _reproduce(options: argparse.Namespace, jobs: Jobs) -> int:
    good = True
    for table in options.table or reproduction.CHECKED:
        found = reproduction.deviations(table, jobs)
        missed = [deviation for deviation in found if not deviation.reproduced]
        known = [deviation for deviation in missed if deviation.explanation]
        off = [deviation for deviation in missed if not deviation.explanation]
        good = good and not off
        largest = max(found, key=lambda deviation: deviation.size / deviation.tolerance)
        print(f"table {table}: {len(found)} figures, {len(known)} off with a known reason, {len(off)} off without")
        print(f"  largest: {largest.text()}")
        for deviation in [*known, *off]:
            print(f"  {deviation.text()}  {deviation.explanation or 'NOT REPRODUCED'}")
    bars_missed = _naive_misses(jobs)
    print(f"{NAIVE}, held to the bars, misses: {', '.join(map(str, bars_missed)) or 'none'}")
    return 0 if good and bars_missed else 1


def _naive_misses(jobs: Jobs) -> list[int]:
    checks: Iterable[Check] = bars.policy_checks(Trial(jobs, (reproduction.SEED,), NAIVE, quick=True))
    return sorted({check.bar for check in checks if not check.met})
