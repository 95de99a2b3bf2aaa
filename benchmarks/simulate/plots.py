"""Plots for a person: capacity per policy, latency and batch size against load, and one run as a timeline."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.simulate.cell import Cell
from benchmarks.simulate.contenders import CORKS, NAIVE, OURS
from benchmarks.simulate.latency import RESNET, ROUNDING_S
from benchmarks.simulate.outcome import Outcome

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

SHOWN = (NAIVE, "timeout S/4", "eager fit", "early drop", "deferred", CORKS[0], OURS)
BUDGETS = (3, 5, 10)
LOADS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SEED = 1
TIMELINE_LOAD = 0.75
TIMELINE_BUDGETS = 6
TIMELINE_REQUESTS = 150
LEGEND = "Grey: from arrival on a request waits. Box: a batch with its size. x: dropped. Dot: answered late"


def write(folder: Path, count: int, extra: tuple[str, ...] = (), replay: Path | None = None) -> None:
    """Writes capacity.png, latency.png, batch.png and timeline.png."""
    names = (*SHOWN, *extra)
    workload = "poisson" if replay is None else str(replay)
    _capacity(folder / "capacity.png", [Cell(RESNET, workload, s, count=count) for s in BUDGETS], names)
    cell = Cell(RESNET, workload, 5, count=count)
    outcomes = {name: [cell.run(name, load * cell.peak_rate, SEED) for load in LOADS] for name in names}
    _against_load(folder / "latency.png", cell, outcomes)
    _batches(folder / "batch.png", cell, outcomes)
    _timeline(folder / "timeline.png", cell, (OURS, "deferred", NAIVE))


def _capacity(path: Path, cells: list[Cell], names: tuple[str, ...]) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    width = 0.8 / len(names)
    bounds = [cell.bound(SEED) for cell in cells]
    for at, name in enumerate(names):
        shares = [cell.capacity(name, SEED, bound) / bound for cell, bound in zip(cells, bounds)]
        axes.bar(np.arange(len(cells)) + at * width - 0.4, shares, width, align="edge", label=name)
    axes.set_xticks(range(len(cells)), [f"S = {cell.budgets:g} l(1)" for cell in cells])
    axes.set_ylabel("capacity at 99 % / clairvoyant bound")
    axes.set_title(f"One worker, {cells[0].model.name}, {cells[0].workload}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.legend(fontsize="small", ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.3))
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _against_load(path: Path, cell: Cell, outcomes: dict[str, list[Outcome]]) -> None:
    figure, panes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for pane, percent in zip(panes, (50, 99)):
        for name, runs in outcomes.items():
            pane.plot(
                LOADS, [run.percentile_s(percent) / cell.setting.table[1] for run in runs], marker=".", label=name
            )
        pane.axhline(cell.budgets, color="black", linewidth=0.8)
        pane.set_ylim(0, 1.6 * cell.budgets)
        pane.set_title(f"p{percent} of what is served, in l(1); line: the budget")
        pane.set_xlabel("load / max b/l(b)")
    panes[0].legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _batches(path: Path, cell: Cell, outcomes: dict[str, list[Outcome]]) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for name, runs in outcomes.items():
        axes.plot(LOADS, [run.mean_batch() for run in runs], marker=".", label=name)
    axes.set_xlabel("load / max b/l(b)")
    axes.set_ylabel("mean batch")
    axes.set_title(f"Batch size against load: {cell.name}")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _timeline(path: Path, cell: Cell, names: tuple[str, ...]) -> None:
    figure, panes = pyplot.subplots(len(names), 1, figsize=(12, 3.2 * len(names)), sharex=True, layout="constrained")
    for pane, name in zip(panes, names):
        outcome = cell.run(name, TIMELINE_LOAD * cell.peak_rate, SEED)
        deadlines = [at + outcome.budget_s for at in outcome.arrivals]
        _draw_run(pane, outcome, deadlines, _begin(outcome) + TIMELINE_BUDGETS * outcome.budget_s)
        pane.set_title(name, loc="left")
    panes[-1].set_xlabel("milliseconds")
    figure.suptitle(f"{cell.name} at {TIMELINE_LOAD:g} of max b/l(b). {LEGEND}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_recorded(path: Path, runs: dict[str, tuple[Outcome, list[float]]]) -> None:
    """A timeline of the same recorded requests in several runs, by title, each with the requests' deadlines."""
    figure, panes = pyplot.subplots(len(runs), 1, figsize=(12, 3.2 * len(runs)), sharex=True, layout="constrained")
    for pane, (title, (outcome, deadlines)) in zip(panes, runs.items()):
        last = min(len(outcome.arrivals) - 1, len(outcome.arrivals) // 3 + TIMELINE_REQUESTS)
        _draw_run(pane, outcome, deadlines, outcome.arrivals[last])
        pane.set_title(title, loc="left")
    panes[-1].set_xlabel("milliseconds")
    figure.suptitle(LEGEND)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _begin(outcome: Outcome) -> float:
    """When the part of a run begins that a timeline shows."""
    return outcome.arrivals[len(outcome.arrivals) // 3]


def _draw_run(pane: Axes, outcome: Outcome, deadlines: list[float], end: float) -> None:
    """Requests by number upwards: grey waits, colour runs, one box per batch with its size in it."""
    begin = _begin(outcome)
    first = next(number for number, at in enumerate(outcome.arrivals) if at >= begin)

    def ms(at: float) -> float:
        return (at - begin) * 1000

    for index, batch in enumerate(b for b in outcome.batches if begin <= b.start < end):
        rows = np.asarray(batch.requests) - first
        times = [outcome.arrivals[number] for number in batch.requests]
        late = [batch.finish > deadlines[number] + ROUNDING_S for number in batch.requests]
        colour = f"C{index % 2}"
        pane.hlines(rows, [ms(at) for at in times], ms(batch.start), color="0.7", linewidth=0.7)
        bottom, top = rows.min() - 0.5, rows.max() + 0.5
        pane.fill_between([ms(batch.start), ms(batch.finish)], bottom, top, color=colour, alpha=0.5)
        pane.text(
            ms((batch.start + batch.finish) / 2), rows.mean(), str(len(rows)), ha="center", va="center", fontsize=7
        )
        pane.plot([ms(batch.finish)] * sum(late), rows[late], "r.", markersize=3)
    for at, requests in outcome.drops:
        for number in requests:
            if begin <= at < end:
                pane.hlines(number - first, ms(outcome.arrivals[number]), ms(at), color="0.7", linewidth=0.7)
                pane.plot(ms(at), number - first, "rx", markersize=4)
    pane.set_ylabel("request")
    pane.set_xlim(0, ms(end))
