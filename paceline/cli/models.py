"""`paceline models`: what is in the store."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paceline.cli.terminal import columns, say, say_json, size, styled
from paceline.protocol.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from paceline.protocol.signature import InputSpec, MethodSpec
    from paceline.store import ModelStore, StoredVersion, Tag

TagArgument = Annotated[str, typer.Argument(metavar="TAG", help="name:version, name:latest or name@alias.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Settings.", show_default="./paceline.toml if there is one")
]


def models_list(
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List the stored models and their versions."""
    store = open_store(config)
    versions = store.list(name)
    if as_json:
        say_json([_summary(version) for version in versions])
    elif versions:
        columns(("tag", "framework", "size", "created", "methods", "labels"), [_row(each) for each in versions])
    else:
        say(f"the store {store.home} is empty; save a model first, e.g. with paceline.pytorch.save()", err=True)


def models_show(tag: TagArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show one stored version: its methods, files, labels and context."""
    version = open_store(config).get(parsed(tag))
    if as_json:
        say_json(_summary(version) | _details(version))
        return
    for key, value in _lines(version):
        say(f"{styled(f'{key:<12}', 'bold')}{value}")


def models_verify(tag: TagArgument, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Check every byte of a stored version against its manifest."""
    version = open_store(config).verify(parsed(tag))
    files = version.manifest.files
    if as_json:
        say_json({"tag": str(version.tag), "verified": True, "files": len(files), "bytes": version.manifest.bytes})
    else:
        say(f"{version.tag} is intact: {len(files)} file(s), {size(version.manifest.bytes)}")


def models_delete(
    tag: TagArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Delete one stored version. Servers that run it already are not disturbed."""
    store = open_store(config)
    if ":" not in tag and "@" not in tag:
        raise ConfigError(
            f"delete which version of {tag!r}? Give a tag such as {tag + ':1'!r}; see: paceline models list"
        )
    version = store.get(parsed(tag))
    if not yes:
        _confirm(f"Delete {version.tag} ({size(version.manifest.bytes)}) from {store.home}?")
    deleted = store.delete(version.tag)
    if as_json:
        say_json({"deleted": str(deleted)})
    else:
        say(f"deleted {deleted}")


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


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} Nobody can be asked here; pass -y to say yes.")
    typer.confirm(question, abort=True)


def _summary(version: StoredVersion) -> dict[str, object]:
    manifest = version.manifest
    return {
        "tag": str(version.tag),
        "name": manifest.name,
        "version": manifest.version,
        "framework": manifest.framework,
        "bytes": manifest.bytes,
        "created_at": manifest.created_at,
        "methods": list(manifest.methods),
        "labels": manifest.labels,
        "digest": manifest.digest,
        "saved_here": version.saved_here,
    }


def _details(version: StoredVersion) -> dict[str, object]:
    from paceline.protocol.signature import spec_to_plain

    manifest = version.manifest
    return {
        "methods": [spec_to_plain(method) for method in manifest.methods.values()],
        "files": [{"path": file.path, "bytes": file.bytes, "sha256": file.sha256} for file in manifest.files],
        "code_bearing": manifest.code_bearing,
        "metadata": manifest.metadata,
        "context": manifest.context,
        "path": str(version.path),
    }


def _row(version: StoredVersion) -> tuple[str, ...]:
    manifest = version.manifest
    return (
        str(version.tag),
        manifest.framework,
        size(manifest.bytes),
        manifest.created_at.replace("T", " ").removesuffix("+00:00"),
        ", ".join(manifest.methods),
        ", ".join(f"{key}={value}" for key, value in manifest.labels.items()),
    )


def _lines(version: StoredVersion) -> list[tuple[str, str]]:
    manifest = version.manifest
    origin = "saved by this store" if version.saved_here else "not saved by this store"
    lines = [
        ("tag", str(version.tag)),
        ("framework", manifest.framework + (", brings code along" if manifest.code_bearing else "")),
        ("created", f"{manifest.created_at}, {origin}"),
        ("digest", manifest.digest),
        ("path", str(version.path)),
    ]
    lines += [("method", _method(method)) for method in manifest.methods.values()]
    lines += [("file", f"{file.path}  {size(file.bytes)}") for file in manifest.files]
    lines += [("label", f"{key} = {value}") for key, value in manifest.labels.items()]
    lines += [("metadata", f"{key} = {value}") for key, value in manifest.metadata.items()]
    lines += [("context", f"{key} {value}") for key, value in manifest.context.items()]
    return lines


def _method(method: MethodSpec) -> str:
    inputs = ", ".join(map(_input, method.request_inputs)) + (", ..." if method.open_inputs else "")
    before, after = method.batch_dim
    dims = str(before) if before == after else f"{before} in, {after} out"
    batching = f"batches along dim {dims}" if method.batchable else "one request at a time"
    if method.max_batch_size is not None:
        batching += f", at most {method.max_batch_size} rows"
    if method.padding is not None:
        batching += f", padded along dim {method.padding.dim} to multiples of {method.padding.multiple_of}"
    return f"{method.name}({inputs}): {batching}"


def _input(spec: InputSpec) -> str:
    dtype = spec.dtype.name if spec.dtype is not None else "any"
    shape = "[" + ", ".join("?" if dim < 0 else str(dim) for dim in spec.shape) + "]" if spec.shape is not None else ""
    return f"{spec.name}: {dtype}{shape}{'' if spec.required else ' (optional)'}"
