"""`paceline models`: what is in the store, and its names."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.edge import FAILED
from paceline.cli.model_details import details, lines, summary
from paceline.cli.terminal import columns, printable, say, say_json, size, styled
from paceline.protocol.errors import ConfigError, PacelineError, StoreError

if TYPE_CHECKING:
    from paceline.store import ModelStore, StoredVersion, Tag

TagArgument = Annotated[str, typer.Argument(metavar="TAG", help="name:version, name:latest or name@alias.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
]


def models_list(
    name: Annotated[str | None, typer.Argument(help="Only this model, or a pattern such as 'text-*'.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only versions with this label; may be repeated.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the stored models and their versions."""
    store = open_store(config)
    versions = store.list(name, labels=_labels(label or []))
    aliases = {each: _aliases_by_version(store, each) for each in {version.tag.name for version in versions}}
    named = [(version, aliases[version.tag.name].get(version.manifest.version, [])) for version in versions]
    if as_json:
        say_json([summary(version, names) for version, names in named])
    elif named:
        header = ("tag", "aliases", "framework", "size", "created", "methods", "labels")
        columns(header, [_row(version, names) for version, names in named])
    elif name or label:
        say("no stored version is like that; see: paceline models list", err=True)
    else:
        say(f"the store {store.home} is empty; save a model first, e.g. with paceline.pytorch.save()", err=True)


def models_show(tag: TagArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one stored version: its methods, sample, files, aliases, labels, metadata and context."""
    store = open_store(config)
    version = store.get(parsed(tag))
    aliases = _aliases_by_version(store, version.tag.name).get(version.manifest.version, [])
    if as_json:
        say_json(summary(version, aliases) | details(version))
        return
    for key, value in lines(version, aliases):
        say(f"{styled(f'{key:<12}', 'bold')}{printable(value)}")


def models_verify(
    tag: Annotated[str | None, typer.Argument(metavar="TAG", help="name:version, name:latest or name@alias.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every version, and every alias.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check every byte of a stored version, or of all of them, against its manifest."""
    store = open_store(config)
    if everything == (tag is not None):
        raise ConfigError("verify what? Give a tag such as my_model:1, or --all")
    if tag is None:
        _verify_all(store, as_json)
        return
    version = store.verify(parsed(tag))
    files = version.manifest.files
    if as_json:
        say_json({"tag": str(version.tag), "verified": True, "files": len(files), "bytes": version.manifest.bytes})
    else:
        say(f"{version.tag} is intact: {len(files)} file(s), {size(version.manifest.bytes)}")


def models_delete(
    tag: TagArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if aliases name it; they go too.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Delete one stored version. Servers that run it already are not disturbed."""
    store = open_store(config)
    if ":" not in tag and "@" not in tag:
        raise ConfigError(
            f"delete which version of {tag!r}? Give a tag such as {tag + ':1'!r}; see: paceline models list"
        )
    exact = store.resolve(parsed(tag))
    if not yes:
        _confirm(f"Delete {exact} from {store.home}?")
    deleted = store.delete(exact, force=force)
    if as_json:
        say_json({"deleted": str(deleted.tag), "aliases": deleted.aliases, "freed_bytes": deleted.freed_bytes})
        return
    say(f"deleted {deleted.tag}, freed {size(deleted.freed_bytes)}")
    for alias in deleted.aliases:
        say(f"removed {deleted.tag.name}@{alias}")


def models_alias(
    tag: Annotated[
        str | None, typer.Argument(metavar="TAG", help="The version to name; alone, the model to list.")
    ] = None,
    alias: Annotated[str | None, typer.Argument(metavar="ALIAS", help="Its name from now on, such as prod.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias TAG, such as my_model@prod.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Name a version (`alias my_model:3 prod`), which also moves the name; remove a name; or list names."""
    store = open_store(config)
    if remove and (tag is None or alias is not None):
        raise ConfigError("remove which alias? Expected: paceline models alias --remove my_model@prod")
    if remove:
        _remove_alias(store, str(tag), as_json)
    elif tag is not None and alias is not None:
        _set_alias(store, tag, alias, as_json)
    else:
        _list_aliases(store, tag, as_json)


def open_store(config: Path | None) -> ModelStore:
    """The store that the settings name."""
    from paceline.config import load_config
    from paceline.store import ModelStore

    return ModelStore(load_config({}, config, os.environ).store_home)


def parsed(tag: str) -> Tag:
    """The tag, or ConfigError: it is the user who wrote it."""
    from paceline.store import parse_tag

    try:
        return parse_tag(tag)
    except StoreError as error:
        raise ConfigError(str(error)) from error


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--label {text!r} is no label; expected KEY=VALUE such as stage=dev")
        labels[key] = value
    return labels


def _aliases_by_version(store: ModelStore, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alias, version in store.aliases(name).items():
        found.setdefault(version, []).append(alias)
    return found


def _verify_all(store: ModelStore, as_json: bool) -> None:
    """Every version and alias, whatever is wrong with another; exit code 1 if anything is."""
    results = [(str(tag), _failure(store, tag)) for tag in store.tags()]
    dangling = [
        (f"{name}@{alias}", f"names version {version}, which is not there")
        for name in store.names()
        for alias, version in store.aliases(name).items()
        if version not in store.versions(name)
    ]
    damaged = [(what, reason) for what, reason in results + dangling if reason]
    if as_json:
        say_json(
            [
                {"tag": what, "verified": not reason} | ({"error": reason} if reason else {})
                for what, reason in results + dangling
            ]
        )
    else:
        for what, reason in damaged:
            say(f"{styled(what, 'red bold')}: {printable(reason)}")
        say(f"{len(results)} version(s) checked, {len(damaged)} problem(s)")
    if damaged:
        raise typer.Exit(FAILED)


def _failure(store: ModelStore, tag: Tag) -> str:
    try:
        store.verify(tag)
    except PacelineError as error:
        return str(error)
    return ""


def _set_alias(store: ModelStore, tag: str, alias: str, as_json: bool) -> None:
    exact = store.resolve(parsed(tag))
    before = store.set_alias(exact, alias)
    name = f"{exact.name}@{alias}"
    if as_json:
        say_json({"alias": name, "version": exact.version, "before": before})
    elif before is None:
        say(f"{name} names {exact}")
    else:
        say(f"{name} names {exact}" + (", as before" if before == exact.version else f", before {exact.name}:{before}"))


def _remove_alias(store: ModelStore, tag: str, as_json: bool) -> None:
    wanted = parsed(tag)
    before = store.remove_alias(wanted)
    if as_json:
        say_json({"removed": str(wanted), "version": before})
    else:
        say(f"removed {wanted}, which named {wanted.name}:{before}")


def _list_aliases(store: ModelStore, name: str | None, as_json: bool) -> None:
    names = store.names() if name is None else [store.resolve(parsed(name)).name]
    found = [(each, alias, version) for each in names for alias, version in store.aliases(each).items()]
    if as_json:
        say_json([{"alias": f"{each}@{alias}", "version": version} for each, alias, version in found])
    elif found:
        columns(("alias", "version"), [(f"{each}@{alias}", f"{each}:{version}") for each, alias, version in found])
    else:
        say("no aliases; set one with: paceline models alias my_model:1 prod", err=True)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody can be asked here; pass -y to say yes.")
    typer.confirm(question, abort=True)


def _row(version: StoredVersion, aliases: list[str]) -> tuple[str, ...]:
    manifest = version.manifest
    return (
        str(version.tag),
        ", ".join(aliases),
        printable(manifest.framework),
        size(manifest.bytes),
        printable(manifest.created_at.replace("T", " ").removesuffix("+00:00")),
        ", ".join(manifest.methods),
        printable(", ".join(f"{key}={value}" for key, value in manifest.labels.items())),
    )
