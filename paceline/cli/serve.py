"""`paceline serve`: starts a server from this terminal and tells what happens to it, one line per event."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paceline.cli.edge import exit_code
from paceline.cli.terminal import say, say_json, styled

if TYPE_CHECKING:
    from paceline.config import Config
    from paceline.protocol.errors import PacelineError
    from paceline.supervisor import Event
    from paceline.supervisor.events import Ready

_EXAMPLES_MAX = 3
_STYLES = {
    "starting": "dim",
    "child_ready": "green",
    "ready": "green bold",
    "child_died": "red",
    "restarting": "yellow",
    "given_up": "red bold",
    "draining": "yellow",
    "reloading": "yellow",
    "broken": "red bold",
}


def _option(metavar: str, text: str, default: str) -> Any:
    """An option whose default is that of the settings, unless another layer gives one."""
    return typer.Option(metavar=metavar, help=text, show_default=default)


def serve(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET", help="A service by module and variable: service:svc. Or models by tag: my_model:latest."
        ),
    ],
    host: Annotated[str | None, _option("ADDRESS", "Address to listen on.", "127.0.0.1")] = None,
    port: Annotated[str | None, _option("PORT", "Port to listen on; 0 takes a free one.", "8000")] = None,
    api_workers: Annotated[str | None, _option("COUNT", "API-server processes.", "1")] = None,
    workers: Annotated[str | None, _option("COUNT", "Worker processes of each model.", "one per GPU")] = None,
    devices: Annotated[
        str | None, _option("LIST", "Devices of the workers, one each in turn: cuda:0,cuda:1.", "every GPU")
    ] = None,
    dispatch: Annotated[
        str | None, _option("WHERE", "Queues: central (one for all workers) or worker (one in each).", "auto")
    ] = None,
    max_batch_size: Annotated[str | None, _option("ROWS", "Most rows of one batch.", "64")] = None,
    buckets: Annotated[str | None, _option("SIZES", "Pad batches up to these sizes: 1,8,64.", "none")] = None,
    latency_table_ms: Annotated[
        str | None, _option("TABLE", "How long a batch takes, by its rows: 1:5.5,64:37.", "learned")
    ] = None,
    latency_budget_ms: Annotated[
        str | None, _option("MS", "Time from arrival to answer of a request that names none.", "30000")
    ] = None,
    native_listen: Annotated[
        str | None, _option("TCP", "Where native clients on other machines connect: tcp://0.0.0.0:7400.", "off")
    ] = None,
    native_keys: Annotated[Path | None, _option("FOLDER", "Their keys, made by: paceline keys new.", "off")] = None,
    run_dir: Annotated[
        Path | None, _option("FOLDER", "Private folder of sockets and locks.", "below the store")
    ] = None,
    record: Annotated[
        Path | None, _option("FILE", "Record each decision of the dispatcher, to replay it.", "off")
    ] = None,
    config: Annotated[Path | None, _option("FILE", "Settings.", "./paceline.toml if there is one")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let other machines use the models; nobody is asked who they are.")
    ] = None,
    working_dir: Annotated[
        Path, _option("FOLDER", "Where the service's module is looked for.", "the current folder")
    ] = Path(),
    reload: Annotated[
        bool, typer.Option("--reload", help="Start the service anew when a Python file of its folder changes.")
    ] = False,
    production: Annotated[
        bool, typer.Option("--production", help="No effect: without --reload a server is one for production.")
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Load code that this store did not save.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per event.")] = False,
) -> None:
    """Serve a service, or models from the store, until Ctrl-C."""
    from paceline.config import load_config
    from paceline.protocol.errors import ConfigError
    from paceline.supervisor import ServeOptions
    from paceline.supervisor import serve as run_server

    if production and reload:
        raise ConfigError("--production and --reload exclude each other: --reload is for development")
    # Values stay texts until the table of settings reads them: one place says what is expected.
    flags = {
        "host": host,
        "port": port,
        "api_workers": api_workers,
        "workers": workers,
        "devices": devices,
        "dispatch": dispatch,
        "max_batch_size": max_batch_size,
        "buckets": buckets,
        "latency_table_ms": latency_table_ms,
        "latency_budget_ms": latency_budget_ms,
        "native_listen": native_listen,
        "native_keys": native_keys,
        "run_dir": run_dir,
        "record": record,
        "insecure": insecure,
    }
    settings = load_config(flags, config, os.environ)
    for warning in settings.warnings():
        say(styled(f"WARNING: {warning}", "yellow bold", err=True), err=True)
    options = ServeOptions(tuple(targets), settings, trust=trust, folder=working_dir, reload=reload)
    code = run_server(options, event_in_json if as_json else teller(options.targets, settings))
    if code:
        raise typer.Exit(code)


def failed_start(error: PacelineError) -> dict[str, object]:
    """The last event of a server that cannot start, with the error as other commands write it."""
    from paceline.supervisor.events import Stopped

    return _plain_event(Stopped(exit_code(error), str(error))) | {"error": str(error)}


def event_in_json(event: Event) -> None:
    """One line, flushed: programs wait for it."""
    say_json(_plain_event(event), indent=None)


def _plain_event(event: Event) -> dict[str, object]:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"event": event_name(event), "time": time, **asdict(event)}


def teller(targets: tuple[str, ...], settings: Config) -> Callable[[Event], None]:
    """What tells people of events."""
    from paceline.supervisor import describe
    from paceline.supervisor.events import Ready

    def tell(event: Event) -> None:
        stamp = styled(f"{datetime.now():%H:%M:%S}", "dim")
        say(f"{stamp} {styled(describe(event), _STYLES.get(event_name(event), ''))}")
        if isinstance(event, Ready):
            _show_usage(event, targets, settings)

    return tell


def event_name(event: Event) -> str:
    """`ChildReady` is "child_ready"."""
    return re.sub(r"(?<!^)([A-Z])", r"_\1", type(event).__name__).lower()


def _show_usage(event: Ready, targets: tuple[str, ...], settings: Config) -> None:
    from paceline.cli.example_request import curl_line

    say()
    if event.service:
        for route in event.routes:
            say(f"  {event.url}{route}")
    else:
        for target in targets[:_EXAMPLES_MAX]:
            say(f"  {curl_line(event.url, target, settings.store_home)}")
    say(f"  {styled('Ctrl-C', 'bold')} stops: accepted requests are finished first; a second one stops at once")
    say()
