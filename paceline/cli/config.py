"""`paceline config show`: every setting, its value, and who set it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.terminal import columns, say_json


def config_show(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and its origin."""
    from paceline.config import load_config

    rows = load_config({}, config, os.environ).origins()
    if as_json:
        say_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
        return
    columns(("key", "value", "origin"), [(row.key, _shown(row.value), row.origin) for row in rows])


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
