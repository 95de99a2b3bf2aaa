"""Finding versions below a store's folder: names, numbers, aliases, and what a tag means at this moment.

Takes no lock and changes nothing. It says what was found instead, in words for the user. ModelStore and what works for
it call it with `<home>/models`.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

from paceline.protocol.errors import ModelNotFound, VersionNotFound, did_you_mean
from paceline.store.aliases import read_alias, read_aliases
from paceline.store.artefact import read_file
from paceline.store.folders import list_folder
from paceline.store.key import load_key
from paceline.store.manifest import MANIFEST_BYTES_MAX, MANIFEST_NAME, decode_manifest, is_sealed_by
from paceline.store.stored_version import StoredVersion
from paceline.store.tags import Tag, check_name, is_name, is_version

_NAMES_SHOWN_MAX = 8
_VERSIONS_SHOWN_MAX = 20


def names(models: Path) -> list[str]:
    """Names of the models that have a version, sorted."""
    return [name for name in sorted(list_folder(models)) if is_name(name) and versions(models, name)]


def versions(models: Path, name: str) -> list[str]:
    """Complete versions of `name`, ascending by number; empty if there is no such model."""
    found = [entry for entry in list_folder(models / name) if is_version(entry) and _is_there(models, name, entry)]
    return sorted(found, key=int)


def tags(models: Path, name: str | None) -> list[Tag]:
    """Every version (of a name, or of those that a pattern fits), sorted by name and number. Raises ModelNotFound."""
    if name is None:
        wanted = names(models)
    elif any(mark in name for mark in "*?["):
        wanted = [each for each in names(models) if fnmatch.fnmatchcase(each, name)]
    else:
        resolve(models, Tag(check_name(name)))
        wanted = [name]
    return [Tag(each, number) for each in wanted for number in versions(models, each)]


def resolve(models: Path, tag: Tag) -> Tag:
    """`tag` with the number of a version that exists. Raises ModelNotFound (names the nearest), VersionNotFound."""
    there = versions(models, tag.name)
    if not there:
        raise _no_model(models, tag.name)
    if tag.alias is not None:
        return _named_by(models, tag, there)
    if tag.version is None:
        return Tag(tag.name, there[-1])
    if tag.version not in there:
        raise VersionNotFound(f'model "{tag.name}" has no version {tag.version}; {_shown(there)}')
    return tag


def read_version(home: Path, models: Path, tag: Tag, *, trusted: bool) -> StoredVersion:
    """The version of exactly this `tag`. Raises VersionNotFound, StoreError (damaged, a link)."""
    folders = (tag.name, str(tag.version))
    try:
        data = read_file(models, folders, MANIFEST_NAME, MANIFEST_BYTES_MAX)
    except FileNotFoundError as error:
        raise VersionNotFound(f"{tag} was deleted meanwhile") from error
    manifest = decode_manifest(data, tag)
    key = load_key(home)
    saved_here = key is not None and is_sealed_by(manifest, key)
    return StoredVersion(manifest, models.joinpath(*folders), saved_here, saved_here or trusted)


def no_alias(models: Path, tag: Tag) -> VersionNotFound:
    """That `tag`'s alias is not there, and which are."""
    there = list(read_aliases(models, tag.name))
    hint = did_you_mean(str(tag.alias), there) or (f" It has {', '.join(there)}." if there else "")
    return VersionNotFound(
        f'model "{tag.name}" has no alias "{tag.alias}".{hint} Set one with: paceline models alias {tag.name}:1 '
        f"{tag.alias}"
    )


def _named_by(models: Path, tag: Tag, there: list[str]) -> Tag:
    version = read_alias(models, tag.name, str(tag.alias))
    if version is None:
        raise no_alias(models, tag)
    # The alias may have moved to a version that is newer than the list.
    if version not in there and not _is_there(models, tag.name, version):
        raise VersionNotFound(f"{tag} names version {version}, which is not there; {_shown(there)}")
    return Tag(tag.name, version)


def _is_there(models: Path, name: str, version: str) -> bool:
    return (models / name / version / MANIFEST_NAME).exists()


def _no_model(models: Path, name: str) -> ModelNotFound:
    there = names(models)
    hint = did_you_mean(name, there)
    if not there:
        hint = " The store is empty: save a model first, e.g. with paceline.pytorch.save()."
    elif not hint:
        shown = ", ".join(there[:_NAMES_SHOWN_MAX]) + (", ..." if len(there) > _NAMES_SHOWN_MAX else "")
        hint = f" It holds {shown}; save the model first, or choose one of these."
    return ModelNotFound(f'model "{name}" is not in the store.{hint}')


def _shown(there: list[str]) -> str:
    shown = ", ".join(there[-_VERSIONS_SHOWN_MAX:])
    return f"it has {shown}" if len(there) <= _VERSIONS_SHOWN_MAX else f"its newest are {shown}"
