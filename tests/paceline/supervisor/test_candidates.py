"""A user's service as the inspector reads it: its runners, what code says of them, and all that may be wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.config import load_config
from paceline.protocol.errors import ConfigError, PacelineError, StartError
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import ServeSpec, ServiceSpec
from paceline.store import ModelStore
from paceline.supervisor import devices
from paceline.supervisor.inspection import InspectRequest
from paceline.supervisor.inspector import Inspection, inspect

# What a ServiceApp must have, around a plan that each test writes.
SERVICE = """
import os
from paceline.protocol.service_app import RunnerPlan, ServicePlan
from paceline.protocol.signature import MethodSpec

class Own: ...

class Service:
    name = "shop"
    def plan(self): return PLAN
    def bind(self, port): ...
    def asgi(self): ...
    async def startup(self): ...
    async def shutdown(self): ...

svc = Service()
number = 5
HOME = os.environ["PACELINE_HOME"]
PLAN = {plan}
"""
OWN = 'RunnerPlan("own", runnable="inspected:Own", init=b"\\x80", methods=(MethodSpec("run"),)'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a service may be written, beside a store with net:2. What an import changes here is changed back."""
    monkeypatch.setattr(devices, "installed_gpus", lambda: 0)
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    monkeypatch.setenv("PACELINE_HOME", "/nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    store = ModelStore(tmp_path / "home")
    for _ in range(2):
        with store.create("net", framework="pytorch", methods={"__call__": MethodSpec("__call__")}) as pending:
            pending.write("weights", [b"123"])
    yield tmp_path
    sys.modules.pop("inspected", None)


def write(folder: Path, runners: str = "()", routes: str = '("/predict",)') -> None:
    (folder / "inspected.py").write_text(SERVICE.format(plan=f'ServicePlan("shop", {runners}, {routes})'))


def inspected(
    folder: Path, target: str = "inspected:svc", environ: dict[str, str] | None = None, **flags: object
) -> ServeSpec:
    return inspection(folder, target, environ, **flags).serve


def inspection(
    folder: Path, target: str = "inspected:svc", environ: dict[str, str] | None = None, **flags: object
) -> Inspection:
    config = load_config({"home": str(folder / "home"), **flags}, None, environ or {})
    return inspect(
        InspectRequest(
            (target,), str(folder), config.to_plain(), False, "127.0.0.1", 4711, "/run/p", -1, os.getpid(), -1
        )
    )


def test_service_with_its_runners_becomes_a_spec(folder: Path) -> None:
    write(folder, f'(RunnerPlan("first", model="net:1"), {OWN}))', '("/predict", "/docs")')
    spec = inspected(folder)
    home = str(folder / "home")
    assert spec.service == ServiceSpec("inspected:svc", str(folder), "shop", ("/predict", "/docs"), home)
    first, own = spec.runners
    assert (first.name, first.model, first.version, first.framework) == ("first", "net", "1", "pytorch")
    assert first.digest == ModelStore(folder / "home").get("net:1").digest
    assert (own.name, own.framework, own.runnable, own.init) == ("own", "runnable", "inspected:Own", b"\x80")
    assert own.methods == (MethodSpec("run"),)


def test_service_may_have_no_runner(folder: Path) -> None:
    write(folder)
    assert inspected(folder).runners == ()


def test_code_of_a_service_finds_the_store_of_the_settings(folder: Path) -> None:
    write(folder)
    inspected(folder)
    assert str(folder / "home") == sys.modules["inspected"].HOME


def test_digest_of_a_runnable_follows_its_source_and_its_parameters(folder: Path) -> None:
    digests = set()
    for runners, more in ((f"({OWN}),)", ""), (f"({OWN}),)", "\n# changed"), (f"({OWN}),)".replace("x80", "x81"), "")):
        write(folder, runners)
        with (folder / "inspected.py").open("a") as file:
            file.write(more)
        sys.modules.pop("inspected", None)
        sys.dont_write_bytecode = True
        digests.add(inspected(folder).runners[0].digest)
    assert len(digests) == 3


def test_operator_overrides_code_which_overrides_defaults(folder: Path) -> None:
    write(folder, '(RunnerPlan("net", model="net:2", max_batch_size=8, latency_budget_ms=50.0, workers=2),)')
    (net,) = inspected(folder).runners
    assert (net.max_batch_size, net.latency_budget_ms, net.workers, net.dispatch) == (8, 50.0, 2, "central")
    (net,) = inspected(folder, environ={"PACELINE_RUNNER__NET__WORKERS": "3"}, max_batch_size=16).runners
    assert (net.max_batch_size, net.latency_budget_ms, net.workers) == (16, 50.0, 3)


def test_what_code_says_is_told_beside_the_spec(folder: Path) -> None:
    write(folder, '(RunnerPlan("net", model="net:2", buckets=(1, 8), latency_table_ms=((1, 5.5),), workers=2),)')
    said = inspection(folder).code
    assert said["net"].keys() == {"buckets", "latency_table_ms", "workers"}
    rows = {row.key: (row.value, row.origin) for row in load_config({"home": str(folder)}, None, {}).origins(said)}
    assert rows["runner.net.workers"] == (2, "code")
    assert rows["runner.net.buckets"] == ([1, 8], "code")
    assert rows["runner.net.max_batch_size"] == (64, "default")
    assert inspection(folder, "net:1").code == {}


def test_wrong_setting_in_code_is_named_with_its_origin(folder: Path) -> None:
    write(folder, '(RunnerPlan("net", model="net:2", buckets=(1, 99), max_batch_size=8),)')
    with pytest.raises(ConfigError, match=r"runner\.net\.buckets is \(1, 99\) \(code\)"):
        inspected(folder)


def test_settings_of_a_runner_that_the_service_lacks_are_refused(folder: Path) -> None:
    write(folder, '(RunnerPlan("net", model="net:2"),)')
    with pytest.raises(ConfigError, match="unknown runner"):
        inspected(folder, environ={"PACELINE_RUNNER__OTHER__WORKERS": "3"})


@pytest.mark.parametrize(
    ("runners", "routes", "text"),
    [
        ('(RunnerPlan("a", model="net:1"), RunnerPlan("a", model="net:2"))', "()", 'two runners of the name "a"'),
        ("()", '("/v2/models",)', "has the route /v2/models, but /v2 is the server's own"),
        ("()", '("v2",)', "the server's own"),
        ("()", '("/metrics",)', "/metrics is the server's own"),
        ('(RunnerPlan("a", model="nett:1"),)', "()", 'Did you mean "net"'),
        ('(RunnerPlan("a", model="net:7"),)', "()", "net"),
    ],
)
def test_plan_that_cannot_be_served_is_explained(folder: Path, runners: str, routes: str, text: str) -> None:
    write(folder, runners, routes)
    with pytest.raises(PacelineError, match=text):
        inspected(folder)


def test_routes_that_only_look_like_ours_are_free(folder: Path) -> None:
    write(folder, "()", '("/v2x", "/metrics-of-mine", "/")')
    assert inspected(folder).service is not None


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("inspected:number", r"inspected:number is a int, not a service; expected number = paceline\.Service"),
        ("inspected:Service", "is the class Service, not a service"),
        ("inspected:svcc", "has no 'svcc'. Did you mean \"svc\""),
        ("inspectd:svc", 'Did you mean "inspected"'),
        ("inspected", "name its variable too: paceline serve inspected:svc"),
    ],
)
def test_target_that_is_no_service_is_explained(folder: Path, target: str, text: str) -> None:
    write(folder)
    with pytest.raises(StartError, match=text):
        inspected(folder, target)


def test_model_of_the_same_name_is_served_by_its_tag(folder: Path) -> None:
    (folder / "net.py").write_text("")
    assert inspected(folder, "net:latest").service is None
    assert inspected(folder, "net:1").service is None
    with pytest.raises(StartError, match="has no 'svc'"):
        inspected(folder, "net:svc")
