"""From targets and settings to the frozen ServeSpec, with a real store and no model in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from paceline.config import load_config
from paceline.protocol.errors import ConfigError, ModelNotFound, PacelineError, StartError, StoreError, VersionNotFound
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import NativeSpec, ServeSpec, decode_serve
from paceline.store import ModelStore
from paceline.supervisor import devices, inspector
from paceline.supervisor.inspection import InspectRequest, decode_reply, decode_request, encode_request

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(devices, "installed_gpus", lambda: 0)
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    # A target that may be a service is looked for in its folder; what entering it changes here is changed back.
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PACELINE_HOME", "/nowhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    store = ModelStore(tmp_path / "home")
    methods = {"__call__": MethodSpec("__call__", batchable=True)}
    for name in ("net", "net", "other"):
        with store.create(name, framework="pytorch", methods=methods) as pending:
            pending.write("weights", [b"123"])
    return store.home


def request(home: Path, *targets: str, environ: dict[str, str] | None = None, **flags: object) -> InspectRequest:
    config = load_config({"home": str(home), **flags}, None, environ or {})
    return InspectRequest(
        targets, str(home.parent), config.to_plain(), False, "127.0.0.1", 4711, "/run/p", -1, os.getpid(), -1
    )


def inspect(asked: InspectRequest) -> ServeSpec:
    return inspector.inspect(asked).serve


def test_latest_is_resolved_once_and_for_all(home: Path) -> None:
    spec = inspect(request(home, "net:latest", "other:1"))
    net, other = spec.runners
    assert (net.name, net.version, net.aliases) == ("net", "2", ("latest",))
    assert (other.name, other.version, other.aliases) == ("other", "1", ())
    assert net.digest == ModelStore(home).get("net:2").digest
    assert net.methods == (MethodSpec("__call__", batchable=True),)
    assert (spec.http.port, spec.run_dir) == (4711, "/run/p")


def test_an_alias_is_served_under_its_name_and_its_number(home: Path) -> None:
    store = ModelStore(home)
    store.set_alias("net:1", "prod")
    (net,) = inspect(request(home, "net@prod")).runners
    store.set_alias("net:2", "prod")  # moves for the next start
    assert (net.name, net.version, net.aliases) == ("net", "1", ("prod",))
    with pytest.raises(VersionNotFound, match='Did you mean "prod"'):
        inspect(request(home, "net@prd"))


def test_where_other_machines_connect_is_in_the_spec_and_their_keys_only_as_a_path(home: Path) -> None:
    assert inspect(request(home, "net")).native == NativeSpec()
    assert inspect(request(home, "net", native_keys="/etc/keys")).native == NativeSpec()
    spec = inspect(request(home, "net", native_listen="tcp://0.0.0.0:7400", native_keys="keys"))
    assert spec.native == NativeSpec("tcp://0.0.0.0:7400", str(Path("keys").absolute()))


def test_where_decisions_are_recorded_is_in_the_spec_and_tried_before_anything_starts(home: Path) -> None:
    assert inspect(request(home, "net")).record_paths() == ()
    file = home / "decisions.jsonl"
    assert inspect(request(home, "net", record=str(file))).record_paths() == (str(file),)
    assert file.exists()
    with pytest.raises(StartError, match=r"cannot record decisions to .*nowhere/d\.jsonl: No such file or directory"):
        inspect(request(home, "net", record=str(home / "nowhere" / "d.jsonl")))


def test_settings_reach_their_runner(home: Path) -> None:
    environ = {"PACELINE_RUNNER__NET__WORKERS": "3", "PACELINE_RUNNER__OTHER__THREADS": "5"}
    net, other = inspect(request(home, "net", "other", environ=environ, max_batch_size=16, api_workers=2)).runners
    assert (net.workers, net.devices, net.threads) == (3, ("cpu",) * 3, 1)
    assert (other.workers, other.devices, other.threads) == (1, ("cpu",), 5)
    assert net.max_batch_size == other.max_batch_size == 16


@pytest.mark.parametrize(
    ("flags", "dispatch"),
    [
        ({}, "worker"),
        ({"workers": 2}, "central"),
        ({"workers": 2, "dispatch": "worker"}, "worker"),
        ({"dispatch": "central"}, "central"),
        ({"devices": "cpu,cpu"}, "central"),
    ],
)
def test_several_workers_have_one_queue_unless_told_otherwise(home: Path, flags: dict[str, Any], dispatch: str) -> None:
    assert inspect(request(home, "net", **flags)).runners[0].dispatch == dispatch


def test_what_is_known_of_batches_reaches_the_runner(home: Path) -> None:
    (net,) = inspect(request(home, "net")).runners
    assert (net.buckets, net.latency_table) == ((), ())
    (net,) = inspect(request(home, "net", buckets="1,8,64", latency_table_ms="1:5.5,64:37")).runners
    assert (net.buckets, net.latency_table) == ((1, 8, 64), ((1, 5.5), (64, 37.0)))


@pytest.mark.parametrize(
    ("visible", "devices_given", "places", "narrowed"),
    [
        (None, None, ("cuda:0", "cuda:1"), ["0", "1"]),
        ("GPU-8932f937,GPU-11", None, ("cuda:0", "cuda:1"), ["GPU-8932f937", "GPU-11"]),
        ("1", None, ("cuda:0",), ["1"]),
        ("1,0", "cuda:0,cuda:1", ("cuda:0", "cuda:1"), ["1", "0"]),
        ("GPU-8932f937,GPU-11", "cuda:1", ("cuda:1",), ["GPU-11"]),
    ],
)
def test_each_worker_gets_one_entry_of_the_users_own_gpus(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    devices_given: str | None,
    places: tuple[str, ...],
    narrowed: list[str],
) -> None:
    monkeypatch.setattr(devices, "installed_gpus", lambda: 2)
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: False)
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(devices.VISIBLE, visible)
    (net,) = inspect(request(home, "net", devices=devices_given)).runners
    assert (net.workers, net.devices) == (len(places), places)
    assert [devices.narrow(place, os.environ)[devices.VISIBLE] for place in net.devices] == narrowed


def test_more_gpus_than_are_visible_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "installed_gpus", lambda: 2)
    monkeypatch.setattr(devices, "torch_is_cpu_only", lambda: False)
    monkeypatch.setenv(devices.VISIBLE, "GPU-11")
    with pytest.raises(ConfigError, match=r"expected cuda:0 to cuda:0 \(see CUDA_VISIBLE_DEVICES"):
        inspect(request(home, "net", devices="cuda:0,cuda:1"))


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        (("nett",), ModelNotFound, 'Did you mean "net"'),
        (("net", "net:1"), StartError, "given twice"),
        (("service:svc",), StartError, r"there is no service\.py in .*--working-dir"),
        (("my.pkg.service:svc",), StartError, r"there is no my\.py in"),
        (("service:svc", "net"), StartError, "service:svc is a service, and a server has one and nothing beside it"),
        (("no such tag",), StoreError, "model name"),
        (("./save.py",), StartError, r"looks like a file.*serve service:svc.*paceline\.pytorch\.save\(model, NAME\)"),
        (("net.pt",), StartError, "looks like a file"),
        (("net:abc",), VersionNotFound, "has no version 'abc': versions are numbers, or latest; it has 1"),
        ((), StartError, "nothing to serve"),
    ],
)
def test_wrong_target_is_explained(home: Path, targets: tuple[str, ...], error: type[PacelineError], text: str) -> None:
    with pytest.raises(error, match=text):
        inspect(request(home, *targets))


def test_setting_of_a_runner_that_is_not_served_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="unknown runner"):
        inspect(request(home, "net", environ={"PACELINE_RUNNER__NTE__WORKERS": "3"}))


def test_code_that_this_store_did_not_save_needs_trust(home: Path) -> None:
    with ModelStore(home).create(
        "code", framework="pytorch", methods={"__call__": MethodSpec("__call__")}, code_bearing=True
    ) as pending:
        pending.write("weights", [b"123"])
    (home / "store.key").unlink()
    with pytest.raises(StoreError, match="--trust"):
        inspect(request(home, "code"))


def test_request_survives_its_pipe(home: Path) -> None:
    sent = request(home, "net", "other")
    assert decode_request(encode_request(sent)) == sent


def test_inspector_process_replies_over_its_pipe_and_imports_no_torch(home: Path) -> None:
    read, write = os.pipe()
    lifeline, ours = os.pipe()
    config = load_config({"home": str(home)}, None, {})
    with tempfile.TemporaryFile() as file:
        sent = InspectRequest(
            ("net",), "/", config.to_plain(), False, "127.0.0.1", 1, "/run/p", write, os.getpid(), lifeline
        )
        file.write(encode_request(sent))
        file.seek(0)
        code = "import sys, paceline.supervisor.inspector as i; i.main(sys.argv); assert 'torch' not in sys.modules"
        subprocess.run(
            [sys.executable, "-c", code, str(file.fileno())],
            cwd=ROOT,
            pass_fds=(file.fileno(), write, lifeline),
            check=True,
            timeout=30,
        )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        reply = decode_reply(pipe.read())
    os.close(lifeline)
    os.close(ours)
    assert reply.error == ""
    assert decode_serve(reply.serve).runner("net").version == "2"
