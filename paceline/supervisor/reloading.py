"""Serving anew after each change of the sources: for development, where mistakes are mended while it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paceline.protocol import channel
from paceline.protocol.errors import PacelineError
from paceline.supervisor.events import Broken, Event, Reloading, Stopped
from paceline.supervisor.signals import Signals
from paceline.supervisor.sources import POLL_S, Sources


def serve_reloading(
    run: Callable[[Sources], Stopped | Reloading],
    folder: Path,
    signals: Signals,
    on_event: Callable[[Event], None],
) -> Stopped:
    """`run` a server until it is told to stop; again after each change below `folder`, which is also what is waited for
    when it cannot start or has nothing left to serve."""
    sources = Sources(folder)
    while True:
        outcome = _try(run, sources)
        if isinstance(outcome, Stopped) and outcome.exit_code == 1:
            on_event(Broken(outcome.reason))
            outcome = _await_change(sources, signals)
        if isinstance(outcome, Stopped):
            return outcome
        on_event(outcome)


def _try(run: Callable[[Sources], Stopped | Reloading], sources: Sources) -> Stopped | Reloading:
    try:
        return run(sources)
    except PacelineError as error:
        return Stopped(1, str(error))


def _await_change(sources: Sources, signals: Signals) -> Stopped | Reloading:
    while True:
        channel.wait((), POLL_S, (signals.fd,))
        if signals.take():
            return Stopped(0, "told to stop while nothing was served")
        if changed := sources.changes():
            return Reloading(changed)
