"""How commands speak: JSON for programs, aligned columns and a little colour for people.

Colour only on a terminal that can do it, and not if NO_COLOR is set. Columns are never cut: scripts read them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

import typer


def say(text: str = "", *, err: bool = False) -> None:
    """One line (or more) for people."""
    typer.echo(text, err=err)


def say_json(value: object, *, indent: int | None = 2) -> None:
    """`value` as JSON: indented, or with None on one line."""
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def styled(text: str, style: str, *, err: bool = False) -> str:
    """`text` in `style` ("green bold", "dim"), if the stream shows colours."""
    words = style.split()
    if not words or not has_colour(err=err):
        return text
    colour = next((word for word in words if word not in ("bold", "dim")), None)
    # None, not False: False would write "not dim", which also ends bold.
    return typer.style(text, fg=colour, bold="bold" in words or None, dim="dim" in words or None)


def has_colour(*, err: bool = False) -> bool:
    stream = sys.stderr if err else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(header: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Aligned columns under `header`; those named in `right` are flush right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(title), *[len(row[at]) for row in texts]]) for at, title in enumerate(header)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(cells, widths, header)
        ]
        return "  ".join(padded).rstrip()

    say(styled(line([title.upper() for title in header]), "bold"))
    for row in texts:
        say(line(row))


def printable(text: str) -> str:
    """`text` with what could steer a terminal written out: labels and the like may come from elsewhere.

    Colours of our own are added after it.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def size(count: int) -> str:
    """A number of bytes, readable: "64 MiB"."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """A time span, readable: "3 h 12 min"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
