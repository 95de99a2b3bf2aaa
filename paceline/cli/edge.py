"""The edge of every command: what it raises becomes one line on stderr and an exit code, never a traceback.

0 = done, 1 = it failed, 2 = asked for wrongly (option, setting, name, input), 130 = interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

import typer

from paceline.cli.terminal import say_json
from paceline.protocol.errors import (
    ConfigError,
    ModelNotFound,
    PacelineError,
    RequestError,
    VersionNotFound,
)

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def edge(command: Callable[..., None], failure: Callable[[PacelineError], object] | None = None) -> Callable[..., None]:
    """`command` with its errors turned into exits. With --json an error is also one JSON object on stdout: `failure`
    of it, or {"error": text} with the code that a server would give it."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> None:
        try:
            command(*args, **options)
            sys.stdout.flush()
        except PacelineError as error:
            if options.get("as_json"):
                say_json((failure or _failure)(error), indent=None)
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader of our output is gone (`| head`); Python would complain once more at its own flush.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from error

    return run


def _failure(error: PacelineError) -> dict[str, str]:
    return {"error": str(error)} | ({"code": error.code} if isinstance(error, RequestError) else {})


def exit_code(error: PacelineError) -> int:
    """USAGE where the caller can mend it."""
    if isinstance(error, (ConfigError, ModelNotFound, VersionNotFound)):
        return USAGE
    if isinstance(error, RequestError) and 400 <= error.http_status < 500 and not error.retryable:
        return USAGE
    return FAILED
