"""URLs of models: which model, version and verb a path names. Pure; called by the routes."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class ModelPath:
    """`/v2/models/{name}[/versions/{version}][/{verb}]`, decoded; `verb` is "" for the model itself."""

    name: str
    version: str | None
    verb: str


def parse_model_path(path: str) -> ModelPath | None:
    """The parts of a raw (percent-encoded, query-free) path, each decoded once; None if it is not of this form."""
    parts = path.split("/")
    if len(parts) < 4 or parts[0] or parts[1] != "v2" or parts[2] != "models" or not parts[3]:
        return None
    name = unquote(parts[3])
    if len(parts) >= 6 and parts[4] == "versions":
        version, rest = unquote(parts[5]), parts[6:]
    else:
        version, rest = None, parts[4:]
    if len(rest) > 1 or version == "":
        return None
    return ModelPath(name, version, rest[0] if rest else "")
