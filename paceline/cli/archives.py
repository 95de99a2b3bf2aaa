"""`paceline models export, import, push, pull`: versions from one store to another, as one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.models import ConfigOption, JsonOption, TagArgument, open_store, parsed
from paceline.cli.progress import Meter
from paceline.cli.terminal import say, say_json, size
from paceline.protocol.errors import ConfigError

if TYPE_CHECKING:
    from paceline.store import Imported

STREAM = "-"

ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Store it as the next version of this model.")
]
UrlArgument = Annotated[
    str,
    typer.Argument(metavar="URL", help="What fsspec knows: s3://..., sftp://..., file://...; needs the extra remote."),
]


def models_export(
    tag: TagArgument,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A file, a folder, or - for stdout.")] = ".",
    force: ForceOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write a stored version into one file, for another store."""
    from paceline.store.archive import archive_chunks, archive_name

    store = open_store(config)
    version = store.get(parsed(tag))
    if out == STREAM:
        if as_json or sys.stdout.isatty():
            raise ConfigError("the archive itself goes to stdout: expected a pipe or a file behind it, and no --json")
        with Meter() as meter:
            for chunk in archive_chunks(version, meter.show):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return
    path = Path(out) / archive_name(version) if Path(out).is_dir() else Path(out)
    with Meter() as meter:
        store.export(version.tag, path, replace=force, progress=meter.show)
    written = path.stat().st_size
    if as_json:
        say_json({"tag": str(version.tag), "path": str(path), "bytes": written, "digest": version.digest})
    else:
        say(f"wrote {version.tag} to {path}, {size(written)}")


def models_import(
    source: Annotated[str, typer.Argument(metavar="FILE", help="What export wrote, or - for stdin.")],
    name: AsOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Store the version in a file that another store exported. Code in it is not trusted by that."""
    store = open_store(config)
    if source == STREAM and sys.stdin.isatty():
        raise ConfigError("nothing comes from stdin; expected a file, or an archive piped in")
    with Meter() as meter:
        imported = store.import_archive(
            sys.stdin.buffer if source == STREAM else Path(source), name=name, progress=meter.show
        )
    _say_imported(imported, as_json)


def models_push(
    tag: TagArgument,
    url: UrlArgument,
    force: ForceOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Export a stored version to a URL; into it if it ends in "/"."""
    store = open_store(config)
    version = store.get(parsed(tag))
    with Meter() as meter:
        where = store.push(version.tag, url, replace=force, progress=meter.show)
    if as_json:
        say_json({"tag": str(version.tag), "url": where, "digest": version.digest})
    else:
        say(f"pushed {version.tag} to {where}")


def models_pull(
    url: UrlArgument, name: AsOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Import a version from a URL. Code in it is not trusted by that."""
    with Meter() as meter:
        imported = open_store(config).pull(url, name=name, progress=meter.show)
    _say_imported(imported, as_json)


def _say_imported(imported: Imported, as_json: bool) -> None:
    version = imported.version
    needs_trust = version.manifest.code_bearing and not version.saved_here
    if as_json:
        say_json(
            {
                "tag": str(version.tag),
                "is_new": imported.is_new,
                "bytes": version.manifest.bytes,
                "digest": version.digest,
                "needs_trust": needs_trust,
            }
        )
        return
    if imported.is_new:
        say(f"imported {version.tag}, {size(version.manifest.bytes)}")
    else:
        say(f"{version.tag} is in the store already, with the same digest; nothing was changed")
    if needs_trust:
        say("it brings code along that was not saved here: serving it needs --trust")
