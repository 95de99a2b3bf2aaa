"""The short-lived child that reads what is to be served: targets and settings in, one frozen ServeSpec out.

    python -m paceline.supervisor.inspector FD        FD: an InspectRequest; the reply goes to the descriptor it names

Only here is the store read, and a service's code imported to see what it is: `latest` never moves under a running
server, and the supervisor stays small.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from paceline.config import Config, RunnerSettings
from paceline.config.agreement import agreed
from paceline.config.keys import BY_NAME
from paceline.protocol.child import die_with_parent
from paceline.protocol.errors import PacelineError, StartError
from paceline.protocol.spec import HttpSpec, NativeSpec, RunnerSpec, ServeSpec, encode_serve
from paceline.runner.recorder import open_to_append
from paceline.store import ModelStore
from paceline.supervisor import devices
from paceline.supervisor.candidates import candidates_of
from paceline.supervisor.inspection import InspectReply, InspectRequest, decode_request, encode_reply


def main(argv: Sequence[str]) -> int:
    with os.fdopen(int(argv[1]), "rb") as file:
        request = decode_request(file.read())
    die_with_parent(request.parent_pid, request.lifeline_fd)
    try:
        found = inspect(request)
        reply = InspectReply(serve=encode_serve(found.serve), code=found.code)
    except PacelineError as error:
        reply = InspectReply(error=str(error))
    with os.fdopen(request.reply_fd, "wb") as pipe:
        pipe.write(encode_reply(reply))
    return 0


class Inspection(NamedTuple):
    """What was found: the spec, and what code says of its runners' settings, as InspectReply has it."""

    serve: ServeSpec
    code: dict[str, dict[str, object]]


def inspect(request: InspectRequest) -> Inspection:
    """What `request` asks for. Raises PacelineError for the user to read."""
    config = Config.from_plain(request.config)
    # Before user code is imported: its folder becomes the working directory.
    store = ModelStore(config.store_home.absolute())
    record = "" if config.server.record is None else str(config.server.record.absolute())
    native = _native(config)
    found = candidates_of(request.targets, store, request.folder, request.trust)
    config.check_runners(found.names)
    settings = [agreed(config, runner.spec.name, runner.code) for runner in found.runners]
    places = places_of(found.names, settings)
    threads = devices.threads_per_worker(devices.available_cores(), max(1, sum(map(len, places))))
    runners = tuple(
        settled(runner.spec, chosen, place, threads, record)
        for runner, chosen, place in zip(found.runners, settings, places)
    )
    spec = ServeSpec(runners, _http(config, request), request.run_dir, native, found.service)
    _check_recording(spec)
    return Inspection(spec, {runner.spec.name: _plain(runner.code) for runner in found.runners if found.service})


def _check_recording(spec: ServeSpec) -> None:
    """Before anything is loaded. Each worker opens its own file again."""
    for path in spec.record_paths():
        try:
            open_to_append(path).close()
        except OSError as error:
            raise StartError(f"cannot record decisions to {path}: {error.strerror or error}") from error


def _plain(code: Mapping[str, object]) -> dict[str, object]:
    return {name: BY_NAME[name].plain(value) for name, value in code.items() if value is not None}


def places_of(names: list[str], settings: list[RunnerSettings]) -> list[tuple[str, ...]]:
    """The devices of each runner's workers."""
    installed = devices.installed_gpus()
    if installed and devices.torch_is_cpu_only():
        installed = 0
    gpus = devices.visible_gpus(os.environ, installed)
    return [devices.plan(name, chosen.workers, chosen.devices, gpus) for name, chosen in zip(names, settings)]


def settled(
    runner: RunnerSpec, settings: RunnerSettings, place: tuple[str, ...], threads: int, record: str
) -> RunnerSpec:
    """`runner` with all that settings and devices decide."""
    return replace(
        runner,
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
