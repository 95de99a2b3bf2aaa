"""`paceline status`: every process of a running server."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.terminal import columns, duration, say, say_json, size, styled
from paceline.protocol.errors import ConfigError

if TYPE_CHECKING:
    from paceline.protocol.control import ProcessStatus

_RIGHT = ("pid", "restarts", "requests", "rss")


def status(
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The server's run directory.", show_default="of the one that runs"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every process of a running server."""
    from paceline.supervisor import fetch_status

    found = fetch_status(run_dir if run_dir is not None else live_run_dir(config))
    if as_json:
        say_json(asdict(found))
        return
    state = styled("draining", "yellow") if found.draining else styled("serving", "green")
    service = f" service {found.service}" if found.service else ""
    say(f"paceline {found.version} on {found.url}:{service} {state}")
    say()
    columns(
        ("process", "kind", "pid", "state", "device", "uptime", "restarts", "requests", "rss"),
        [_row(process) for process in found.processes],
        right=_RIGHT,
    )
    for process in found.processes:
        if process.last_death:
            say(f"\nlast death of {process.name}: {process.last_death}")


def live_run_dir(config: Path | None) -> Path:
    """The directory that the settings name; else that of the one server which lives."""
    from paceline.config import load_config
    from paceline.supervisor import live_run_dirs

    settings = load_config({}, config, os.environ)
    alive = live_run_dirs(settings.store_home)
    if settings.server.run_dir in alive or len(alive) == 0:
        return settings.server.run_dir
    if len(alive) == 1:
        return alive[0]
    names = ", ".join(map(str, alive))
    raise ConfigError(f"{len(alive)} servers run; name one of their directories with --run-dir: {names}")


def _row(process: ProcessStatus) -> tuple[object, ...]:
    return (
        process.name,
        process.kind,
        process.pid or "-",
        process.state,
        process.device or "-",
        duration(process.uptime_s),
        process.restarts,
        process.requests,
        size(process.rss_bytes),
    )
