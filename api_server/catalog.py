"""What is served, by the names that clients use: models, their versions and aliases, their methods.

Built once from the ServeSpec. Called by the routes; knows nothing of HTTP or of hosts.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from paceline.protocol.errors import ModelNotFound, VersionNotFound, did_you_mean
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import RunnerSpec, ServeSpec

LATEST = "latest"


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One runner under its public name. `versions` are all names of the one version that it serves."""

    spec: RunnerSpec
    methods: dict[str, MethodSpec]
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelPath:
    """`/v2/models/{name}[/versions/{version}][/{verb}]`, decoded; `verb` is "" for the model itself."""

    name: str
    version: str | None
    verb: str


class Catalog:
    """The models of one server."""

    def __init__(self, serve: ServeSpec) -> None:
        self.models = {
            runner.name: ServedModel(
                spec=runner,
                methods={method.name: method for method in runner.methods},
                versions=frozenset((runner.version, LATEST, *runner.aliases)),
            )
            for runner in serve.runners
        }

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model that `name` and `version` (None = the served one) mean. Raises ModelNotFound, VersionNotFound."""
        model = self.models.get(name)
        if model is None:
            known = ", ".join(self.models) or "none"
            hint = did_you_mean(name, self.models)
            raise ModelNotFound(f"model {name[:128]!r} is not served.{hint} Served: {known}.")
        if version is not None and version not in model.versions:
            hint = did_you_mean(version, model.versions)
            raise VersionNotFound(
                f"model {name!r} has no version {version[:128]!r} here.{hint} Served: {model.spec.version}."
            )
        return model


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
