"""`paceline profile`: a trace of a live worker by PyTorch's profiler, and its top operators."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.status import live_run_dir
from paceline.cli.terminal import columns, printable, say, say_json, size
from paceline.protocol.errors import ConfigError, PacelineError
from paceline.protocol.limits import TRACE_EVENTS_MAX, TRACE_S_MAX, TRACE_S_MIN

if TYPE_CHECKING:
    from paceline.cli.operators import Operator
    from paceline.protocol.control import ProfileDone

TOP = 15


def profile(
    runner: Annotated[str, typer.Argument(help="The runner's name; a model's name where it is served from the store.")],
    seconds: Annotated[float, typer.Option(min=TRACE_S_MIN, max=TRACE_S_MAX, help="How long to record.")] = 5.0,
    worker: Annotated[
        int | None, typer.Option(min=0, metavar="INDEX", help="Which worker.", show_default="the one that served most")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the trace goes.")] = Path("trace.json"),
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The server's run directory.", show_default="of the one that runs"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Record what a worker of a running server does, with PyTorch's profiler, while it serves."""
    from paceline.cli.operators import read_operators
    from paceline.protocol.control import ProfileRequest
    from paceline.supervisor import fetch_profile

    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: expected a file in a folder that exists")
    asked = ProfileRequest(runner, worker, seconds)
    done = fetch_profile(run_dir if run_dir is not None else live_run_dir(config), asked)
    _take(Path(done.path), output)
    found = read_operators(output)
    if as_json:
        figures = {"worker": done.worker, "seconds": done.seconds, "batches": done.batches, "full": done.full}
        say_json({**figures, "trace": str(output), "operators": [asdict(each) for each in found]})
        return
    _tell(done, output, found)


def _take(made: Path, output: Path) -> None:
    try:
        shutil.move(made, output)
    except OSError as error:
        raise PacelineError(f"the trace cannot be moved from {made} to {output}: {error.strerror or error}") from error


def _tell(done: ProfileDone, output: Path, found: Sequence[Operator]) -> None:
    say(f"{done.worker}: {done.seconds:.1f} s, batches: {done.batches}")
    if done.full:
        say(f"ended early: a trace holds about {TRACE_EVENTS_MAX:,} events")
    if found:
        say()
        columns(
            ("operator", "calls", "self cpu", "self device", "share"),
            [_row(each) for each in found[:TOP]],
            right=("calls", "self cpu", "self device", "share"),
        )
        if len(found) > TOP:
            say(f"and {len(found) - TOP} more (--json)")
    else:
        idle = "no operator of PyTorch ran" if done.batches else "no batch ran there; send requests while it records"
        say(f"the trace has no operators: {idle}")
    say(f"\ntrace: {output} ({size(output.stat().st_size)}); open it in https://ui.perfetto.dev or chrome://tracing")


def _row(each: Operator) -> tuple[object, ...]:
    device = f"{each.self_device_us / 1000:.2f} ms" if each.self_device_us else "-"
    return printable(each.name), each.calls, f"{each.self_cpu_us / 1000:.2f} ms", device, f"{each.share:.1%}"
