"""The short-lived child that reads what is to be served: targets and settings in, one frozen ServeSpec out.

    python -m paceline.supervisor.inspector FD        FD: an InspectRequest; the reply goes to the descriptor it names

Only here is the store read, so that `latest` never moves under a running server and the supervisor stays small.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from paceline.config import Config, RunnerSettings
from paceline.config.agreement import agreed
from paceline.protocol.child import die_with_parent
from paceline.protocol.errors import PacelineError, StartError, StoreError, VersionNotFound
from paceline.protocol.spec import HttpSpec, NativeSpec, RunnerSpec, ServeSpec, encode_serve
from paceline.runner.recorder import open_to_append
from paceline.store import ModelStore, StoredVersion, Tag, parse_tag
from paceline.store.tags import is_name
from paceline.supervisor import devices
from paceline.supervisor.inspection import InspectReply, InspectRequest, decode_request, encode_reply

_FILE_ENDS = (".py", ".pt", ".pth", ".pt2", ".onnx", ".safetensors")
_VERSIONS_SHOWN_MAX = 20
_SERVICE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def main(argv: Sequence[str]) -> int:
    with os.fdopen(int(argv[1]), "rb") as file:
        request = decode_request(file.read())
    die_with_parent(request.parent_pid, request.lifeline_fd)
    try:
        reply = InspectReply(serve=encode_serve(inspect(request)))
    except PacelineError as error:
        reply = InspectReply(error=str(error))
    with os.fdopen(request.reply_fd, "wb") as pipe:
        pipe.write(encode_reply(reply))
    return 0


def inspect(request: InspectRequest) -> ServeSpec:
    """The ServeSpec of `request`. Raises PacelineError for the user to read."""
    config = Config.from_plain(request.config)
    store = ModelStore(config.store_home)
    tags = [_tag_of(target, store) for target in request.targets]
    versions = [store.get(tag, trust=request.trust) for tag in tags]
    names = [version.tag.name for version in versions]
    _refuse_twice(names)
    config.check_runners(names)
    settings = [agreed(config, name, {}) for name in names]
    places = _places(names, settings)
    cores, workers = devices.available_cores(), sum(map(len, places))
    threads = devices.threads_per_worker(cores, workers)
    record = "" if config.server.record is None else str(config.server.record.absolute())
    runners = tuple(
        _runner(version, tag, chosen, place, threads, str(config.store_home), request.trust, record)
        for version, tag, chosen, place in zip(versions, tags, settings, places)
    )
    spec = ServeSpec(runners, _http(config, request), request.run_dir, _native(config))
    _check_recording(spec)
    return spec


def _check_recording(spec: ServeSpec) -> None:
    """Before anything is loaded. Each worker opens its own file again."""
    for path in spec.record_paths():
        try:
            open_to_append(path).close()
        except OSError as error:
            raise StartError(f"cannot record decisions to {path}: {error.strerror or error}") from error


def _tag_of(target: str, store: ModelStore) -> Tag:
    name, _, version = target.partition(":")
    if "/" in target or (target.endswith(_FILE_ENDS) and not store.versions(target)):
        raise StartError(
            f"{target!r} looks like a file; models are served from the store {store.home}, by tag. Save it first with "
            f"paceline.pytorch.save(model, NAME) or paceline.torchscript.save(script, NAME), then: "
            f"paceline serve NAME:latest"
        )
    try:
        return parse_tag(target)
    except StoreError as error:
        if is_name(name) and (versions := store.versions(name)):
            raise VersionNotFound(
                f'model "{name}" has no version {version!r}: versions are numbers, or latest; it has '
                f"{', '.join(versions[-_VERSIONS_SHOWN_MAX:])}"
            ) from error
        if _SERVICE.fullmatch(target):
            raise StartError(
                f"{target!r} names a service (module:attribute); this version serves models from the store only, by "
                f"tag such as my_model:latest or my_model:1"
            ) from error
        raise


def _refuse_twice(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise StartError(f'model "{name}" is given twice; one server serves one version of a model')
    if not names:
        raise StartError("nothing to serve: give at least one model tag, such as my_model:latest")


def _places(names: list[str], settings: list[RunnerSettings]) -> list[tuple[str, ...]]:
    """The devices of each runner's workers."""
    installed = devices.installed_gpus()
    if installed and devices.torch_is_cpu_only():
        installed = 0
    gpus = devices.visible_gpus(os.environ, installed)
    return [devices.plan(name, chosen.workers, chosen.devices, gpus) for name, chosen in zip(names, settings)]


def _runner(
    version: StoredVersion,
    tag: Tag,
    settings: RunnerSettings,
    place: tuple[str, ...],
    threads: int,
    store_home: str,
    trust: bool,
    record: str,
) -> RunnerSpec:
    manifest = version.manifest
    if manifest.code_bearing:
        version.require_trusted()
    if tag.alias is not None:
        aliases: tuple[str, ...] = (tag.alias,)
    else:
        aliases = () if tag.version else ("latest",)
    return RunnerSpec(
        name=manifest.name,
        model=manifest.name,
        version=manifest.version,
        digest=version.digest,
        framework=manifest.framework,
        store_home=store_home,
        methods=tuple(manifest.methods.values()),
        workers=len(place),
        devices=place,
        threads=settings.threads or threads,
        max_batch_size=settings.max_batch_size,
        latency_budget_ms=settings.latency_budget_ms,
        queue_timeout_ms=settings.queue_timeout_ms,
        execution_timeout_ms=settings.execution_timeout_ms,
        dispatch=settings.dispatch or ("central" if len(place) > 1 else "worker"),
        buckets=settings.buckets or (),
        latency_table=settings.latency_table_ms or (),
        trust=trust,
        aliases=aliases,
        record=record,
    )


def _http(config: Config, request: InspectRequest) -> HttpSpec:
    server = config.server
    return HttpSpec(
        host=request.host,
        port=request.port,
        api_workers=server.api_workers,
        timeout_max_ms=server.timeout_max_ms,
        body_bytes_max=server.body_bytes_max,
        rows_max=server.rows_max,
        drain_grace_s=server.drain_grace_s,
        window_requests=server.window_requests,
        pending_requests=server.pending_requests,
    )


def _native(config: Config) -> NativeSpec:
    server = config.server
    if server.native_listen is None or server.native_keys is None:
        return NativeSpec()
    return NativeSpec(server.native_listen, str(server.native_keys.absolute()))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
