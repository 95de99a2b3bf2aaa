"""What a worker loads for a service: a Runnable of its folder, or a stored model with its classes there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from paceline.protocol.errors import StartError
from paceline.protocol.signature import MethodSpec
from paceline.protocol.spec import RunnerSpec, ServiceSpec
from paceline.protocol.target import code_digest
from paceline.runner.worker import loaded

CODE = """
import os
import paceline

class Adder(paceline.Runnable):
    def __init__(self, by):
        self.by = by

    @paceline.Runnable.method()
    def add(self, x):
        return x + self.by, os.getcwd(), os.environ["PACELINE_HOME"]
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceSpec]:
    """A service's folder with a Runnable; what entering it changes here is changed back."""
    monkeypatch.chdir("/")
    monkeypatch.setenv("PACELINE_HOME", "/nowhere")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "loaded_service.py").write_text(CODE)
    yield ServiceSpec("loaded_service:svc", str(tmp_path), "svc", (), "/the/store")
    sys.modules.pop("loaded_service", None)


def runner_of(service: ServiceSpec) -> RunnerSpec:
    init = msgpack.packb({"by": 2})
    spec = RunnerSpec("adder", "adder", "1", "", "runnable", "/the/store", (MethodSpec("add"),))
    spec = replace(spec, runnable="loaded_service:Adder", init=init)
    sys.path.insert(0, service.folder)
    __import__("loaded_service")
    return replace(spec, digest=code_digest(spec.runnable, init))


def test_runnable_is_made_in_the_services_folder_with_its_parameters(service: ServiceSpec) -> None:
    model = loaded(runner_of(service), service, "cpu")
    assert model.bound("add")(40) == (42, service.folder, "/the/store")
    assert os.getcwd() == sys.path[0] == service.folder


def test_source_that_changed_since_the_start_is_refused(service: ServiceSpec) -> None:
    runner = runner_of(service)
    with Path(service.folder, "loaded_service.py").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(StartError, match="source of loaded_service:Adder is another than when the server was started"):
        loaded(runner, service, "cpu")
