"""A saved model in the user's hands: which version it is and what its manifest says. Loads nothing by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from paceline.handle import Runner, RunnerSettings
from paceline.protocol.errors import ConfigError, StoreError
from paceline.store import Manifest, ModelStore, StoredVersion, Tag


class Model:
    """One stored version; `str(model)` is its tag.

    >>> model = paceline.pytorch.get("my_model:latest")
    >>> str(model), model.manifest.labels
    ('my_model:3', {'stage': 'dev'})
    """

    def __init__(self, version: StoredVersion) -> None:
        self.version = version

    @property
    def tag(self) -> Tag:
        """Name and exact version."""
        return self.version.tag

    @property
    def manifest(self) -> Manifest:
        """Framework, methods, labels, metadata, files."""
        return self.version.manifest

    @property
    def path(self) -> Path:
        """The version's folder. Read its files through `version`, which verifies them."""
        return self.version.path

    def to_runner(self, name: str | None = None, **settings: Unpack[RunnerSettings]) -> Runner:
        """A runner that serves this version, for a service's `runners=[...]` or `init_local()`.

        name: of the runner, by default the model's. settings: the keys of [runner.<name>] in paceline.toml, which an
        operator can override there: `max_batch_size`, `latency_budget_ms`, `workers`, `devices`, ... Raises ConfigError
        for a wrong one, StartError for a method that is named like an attribute of Runner.

        >>> runner = paceline.pytorch.get("my_model").to_runner(max_batch_size=32, latency_budget_ms=100)
        """
        chosen = self.tag.name if name is None else name
        return Runner.of_model(str(self.tag), self.manifest.methods, chosen, settings)

    def __str__(self) -> str:
        return str(self.tag)

    def __repr__(self) -> str:
        return f"Model({str(self)!r})"


def get_model(tag: str | Tag, framework: str, *, trust: bool = False) -> Model:
    """The handle of a stored model of `framework`. Raises ModelNotFound, VersionNotFound, StoreError."""
    version = ModelStore().get(tag, trust=trust)
    saved_as = version.manifest.framework
    if saved_as != framework:
        raise StoreError(
            f"{version.tag} is a {saved_as} model; use paceline.{saved_as} instead of paceline.{framework}"
        )
    return Model(version)


def check_order(model: object, name: object, call: str) -> None:
    """Raise ConfigError if model and name were given in the other order; `call` spells the right one."""
    if isinstance(model, str) and not isinstance(name, str):
        raise ConfigError(f"model and name are swapped: expected {call}, got a string where the model goes")
    if not isinstance(name, str):
        raise ConfigError(f"the name is a {type(name).__name__}, expected a string: {call}")


def announce(model: Model, *, sampled: bool) -> None:
    """Say on stdout, once per save, what the user may miss: these are the first questions about serving."""
    _announce_batching(model)
    if not sampled:
        _announce_no_sample(model)


def _announce_no_sample(model: Model) -> None:
    methods = model.manifest.methods.values()
    is_open = any(method.open_inputs or any(spec.shape is None for spec in method.inputs) for method in methods)
    what = (
        "inputs of {} are OPEN: not tried, not checked, workers not warmed up"
        if is_open
        else ("{} was NOT TRIED, and workers are not warmed up")
    )
    print(  # noqa: T201  # the user's own script saves; this is for its terminal
        f"{what.format(model.tag.name)} (pass sample_inputs=, the arguments of one call, to change that)"
    )


def _announce_batching(model: Model) -> None:
    methods = model.manifest.methods
    if any(method.batchable for method in methods.values()):
        return
    names = ", ".join(f"{model.tag.name}.{method}" for method in methods)
    remedy = f'{{"{next(iter(methods))}": {{"batchable": True, "batch_dim": 0}}}}'
    print(  # noqa: T201  # the user's own script saves; this is for its terminal
        f"batching is OFF for {names} (pass signatures={remedy} to turn it on)"
    )
