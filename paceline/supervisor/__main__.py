"""`python -m paceline.supervisor TARGET...`: what `paceline serve` does, in plain lines, without typer."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from paceline.config import KEYS, load_config
from paceline.protocol.errors import ConfigError, PacelineError
from paceline.supervisor.events import Event, describe
from paceline.supervisor.options import ServeOptions
from paceline.supervisor.supervisor import serve


def main(argv: list[str]) -> int:
    given = vars(_parser().parse_args(argv))
    targets, trust, file = tuple(given.pop("targets")), given.pop("trust"), given.pop("config")
    folder, reload = given.pop("working_dir"), given.pop("reload")
    try:
        config = load_config(given, file, os.environ)
        return serve(ServeOptions(targets, config, trust=trust, folder=folder, reload=reload), _say)
    except PacelineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  # this is a command line
        return 2 if isinstance(error, ConfigError) else 1


def _say(event: Event) -> None:
    print(describe(event), file=sys.stderr, flush=True)  # noqa: T201  # this is a command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m paceline.supervisor", description="Serve a service, or models.")
    parser.add_argument(
        "targets", nargs="+", metavar="TARGET", help="service:svc, or a model's tag, such as my_model:latest"
    )
    parser.add_argument("--config", type=Path, help="paceline.toml")
    parser.add_argument("--working-dir", type=Path, default=Path(), help="where the service's module is looked for")
    parser.add_argument("--reload", action="store_true", help="start anew when a Python file of that folder changes")
    parser.add_argument("--trust", action="store_true", help="load code that this store did not save")
    for key in KEYS:
        if isinstance(key.default, bool):
            parser.add_argument(key.flag, action="store_const", const=True, help=key.doc)
        else:
            parser.add_argument(key.flag, help=key.doc)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
