"""`paceline config show`: every setting, its value, and who set it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.terminal import columns, say_json

if TYPE_CHECKING:
    from paceline.config import Config


def config_show(
    target: Annotated[
        str | None, typer.Argument(metavar="[SERVICE]", help="Also what the code of this service says: service:svc.")
    ] = None,
    working_dir: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", help="Where the service's module is looked for.", show_default="the current folder"
        ),
    ] = Path(),
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every setting with its value and its origin."""
    from paceline.config import load_config

    settings = load_config({}, config, os.environ)
    rows = settings.origins(_said_by(target, working_dir, settings) if target is not None else {})
    if as_json:
        say_json([{"key": row.key, "value": row.value, "origin": row.origin} for row in rows])
        return
    columns(("key", "value", "origin"), [(row.key, _shown(row.value), row.origin) for row in rows])


def _said_by(target: str, folder: Path, settings: Config) -> dict[str, dict[str, object]]:
    from paceline.supervisor import ServeOptions, code_settings

    return code_settings(ServeOptions((target,), settings, folder=folder))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
