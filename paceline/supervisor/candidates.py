"""What is to be served: models of the store by their tags, or the runners of a user's service, as RunnerSpecs that lack
only what settings and devices decide.

Called by the inspector alone: here user code is imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.config.keys import in_section
from paceline.protocol.errors import StartError, StoreError, VersionNotFound
from paceline.protocol.service_app import RunnerPlan
from paceline.protocol.spec import RunnerSpec, ServiceSpec
from paceline.protocol.target import code_digest, has_module, import_service, parse_target
from paceline.store import ModelStore, Tag, parse_tag
from paceline.store.tags import is_name

_FILE_ENDS = (".py", ".pt", ".pth", ".pt2", ".onnx", ".safetensors")
_VERSIONS_SHOWN_MAX = 20
# Under these our own routes are.
_OUR_ROUTES = ("/v2", "/metrics")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A runner to be; `code` is what the service says of its settings, by key (None = not said)."""

    spec: RunnerSpec
    code: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Candidates:
    """All runners of a server, and the service that they belong to, if there is one."""

    runners: tuple[Candidate, ...]
    service: ServiceSpec | None = None

    @property
    def names(self) -> list[str]:
        return [runner.spec.name for runner in self.runners]


def candidates_of(targets: Sequence[str], store: ModelStore, folder: str, trust: bool) -> Candidates:
    """What `targets` name: models of `store`, or one service in `folder`.

    Raises StartError, StoreError, ModelNotFound, VersionNotFound: whatever of it is not there, or does not go together.
    """
    if not targets:
        raise StartError(
            "nothing to serve: give a service such as service:svc, or a model's tag, such as my_model:latest"
        )
    services = [target for target in targets if _is_service(target, store, folder)]
    if services and len(targets) > 1:
        raise StartError(
            f"{services[0]} is a service, and a server has one and nothing beside it; give models that it should serve "
            f"to it as runners"
        )
    found = _of_service(services[0], store, folder, trust) if services else _of_models(targets, store, folder, trust)
    for name in found.names:
        if found.names.count(name) > 1:
            raise StartError(_given_twice(name, found.service))
    return found


def _given_twice(name: str, service: ServiceSpec | None) -> str:
    if service is None:
        return f'model "{name}" is given twice; one server serves one version of a model'
    return f'service "{service.name}" has two runners of the name "{name}"; give one another: to_runner(name=...)'


def _is_service(target: str, store: ModelStore, folder: str) -> bool:
    """Whether `target` can only be a service: it is no tag, and no wrong one of a model that is there."""
    parsed = parse_target(target)
    if parsed is None or parsed.attribute == "latest":
        return False
    return has_module(parsed.module, folder) or not (is_name(parsed.module) and store.versions(parsed.module))


# Models


def _of_models(targets: Sequence[str], store: ModelStore, folder: str, trust: bool) -> Candidates:
    tags = [_tag_of(target, store, folder) for target in targets]
    return Candidates(tuple(Candidate(_stored(tag, store, trust), {}) for tag in tags))


def _stored(tag: Tag, store: ModelStore, trust: bool, name: str = "") -> RunnerSpec:
    """The runner `name` of a stored version; by default it is called as the model is."""
    version = store.get(tag, trust=trust)
    manifest = version.manifest
    if manifest.code_bearing:
        version.require_trusted()
    return RunnerSpec(
        name=name or manifest.name,
        model=manifest.name,
        version=manifest.version,
        digest=version.digest,
        framework=manifest.framework,
        store_home=str(store.home.absolute()),
        methods=tuple(manifest.methods.values()),
        trust=trust,
        aliases=_aliases(tag),
    )


def _aliases(tag: Tag) -> tuple[str, ...]:
    if tag.alias is not None:
        return (tag.alias,)
    return () if tag.version else ("latest",)


def _tag_of(target: str, store: ModelStore, folder: str) -> Tag:
    name, _, version = target.partition(":")
    if "/" in target or (target.endswith(_FILE_ENDS) and not store.versions(target)):
        raise StartError(
            f"{target!r} looks like a file; a service is named by module and variable (paceline serve service:svc), "
            f"and models are served from the store {store.home}, by tag. Save one first with "
            f"paceline.pytorch.save(model, NAME) or paceline.torchscript.save(script, NAME), then: "
            f"paceline serve NAME:latest"
        )
    try:
        tag = parse_tag(target)
    except StoreError as error:
        if is_name(name) and (versions := store.versions(name)):
            raise VersionNotFound(
                f'model "{name}" has no version {version!r}: versions are numbers, or latest; it has '
                f"{', '.join(versions[-_VERSIONS_SHOWN_MAX:])}"
            ) from error
        raise
    if target == tag.name and not store.versions(tag.name) and has_module(target, folder):
        raise StartError(
            f"there is no model {target!r} in the store {store.home}, but {target}.py is here; to serve a service in "
            f"it, name its variable too: paceline serve {target}:svc"
        )
    return tag


# A service


def _of_service(target: str, store: ModelStore, folder: str, trust: bool) -> Candidates:
    home = str(store.home.absolute())
    plan = import_service(target, folder, home).plan()
    for route in plan.routes:
        _check_route(plan.name, route)
    runners = tuple(Candidate(planned(each, store, trust), said(each)) for each in plan.runners)
    return Candidates(runners, ServiceSpec(target, folder, plan.name, plan.routes, home))


def _check_route(service: str, route: str) -> None:
    path = "/" + route.strip("/")
    for ours in _OUR_ROUTES:
        if path == ours or path.startswith(f"{ours}/"):
            raise StartError(
                f'service "{service}" has the route {route}, but {ours} is the server\'s own '
                f"(/v2/models/..., /v2/health/..., /metrics); give it another one: @svc.api(route=...)"
            )


def planned(plan: RunnerPlan, store: ModelStore, trust: bool) -> RunnerSpec:
    if plan.model:
        return _stored(parse_tag(plan.model), store, trust, plan.name)
    return RunnerSpec(
        name=plan.name,
        model=plan.name,
        version="1",
        digest=code_digest(plan.runnable, plan.init),
        framework="runnable",
        store_home=str(store.home.absolute()),
        methods=plan.methods,
        runnable=plan.runnable,
        init=plan.init,
    )


def said(plan: RunnerPlan) -> dict[str, object]:
    return {key.name: getattr(plan, key.name) for key in in_section("runner")}
