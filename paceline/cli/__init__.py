"""The `paceline` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line in sys.argv and exit with its code."""
    from paceline.cli.app import app

    app(prog_name="paceline")
