"""Serves with fake children: `fake_serve.py RUN_DIR KEY=VALUE... -- TARGET...`; prints each event as one JSON line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from paceline.config import load_config
from paceline.protocol.errors import PacelineError
from paceline.supervisor import Event, Programs, ServeOptions, serve

HERE = Path(__file__).parent


def main() -> int:
    at = sys.argv.index("--")
    flags = dict(flag.split("=", 1) for flag in sys.argv[2:at])
    config = load_config({"port": "0", **flags}, None, {})
    fake = (sys.executable, str(HERE / "fake_child.py"))
    programs = Programs(
        worker=fake, broker=fake, api_server=fake, inspector=(sys.executable, str(HERE / "fake_inspector.py"))
    )
    options = ServeOptions(tuple(sys.argv[at + 1 :]), config, Path(sys.argv[1]), programs=programs)
    try:
        return serve(options, say)
    except PacelineError as error:
        write({"event": "Error", "text": str(error)})
        return 1


def say(event: Event) -> None:
    write({"event": type(event).__name__, **asdict(event)})


def write(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
