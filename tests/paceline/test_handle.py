"""Handles: what they say of a runner, and what they send where."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from math import inf
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import paceline
from paceline.config.keys import in_section
from paceline.handle import Runner, RunnerSettings, deadline, request_id
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import ConfigError, InvalidParameter, ModelNotFound, StartError
from paceline.protocol.messages import Result, pack_result
from paceline.protocol.runner_port import RunnerCall
from paceline.protocol.service_app import RunnerPlan
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.tensor import from_numpy

X = (InputSpec("x"),)
ROWS = np.ones((2, 3), np.float32)


class FakePort:
    """Answers every call with its rows, in whatever loop it is asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, methods: Mapping[str, MethodSpec]) -> None:
        self.loop = loop
        self.calls: list[RunnerCall] = []
        self.ran_in: list[asyncio.AbstractEventLoop] = []
        self._methods = methods

    async def infer(self, call: RunnerCall) -> Result:
        self.calls.append(call)
        self.ran_in.append(asyncio.get_running_loop())
        packed, frames = pack_result(from_numpy(np.full(call.rows, 7, np.int32)))
        return Result(1, 0, call.rows, 0, 0, packed, frames)

    def methods(self, runner: str) -> Mapping[str, MethodSpec]:
        if runner != "net":
            raise ModelNotFound(runner)
        return self._methods


def method(name: str = "__call__", *, batchable: bool = True) -> MethodSpec:
    return MethodSpec(name, batchable=batchable, inputs=X, open_inputs=False)


def runner(*methods: MethodSpec, name: str = "net", **settings: Any) -> Runner:
    return Runner.of_model("net:1", {each.name: each for each in methods or (method(),)}, name, settings)


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# What it says


def test_plan_of_a_stored_model_names_the_version_and_what_code_says() -> None:
    plan = runner(max_batch_size=8, latency_budget_ms=50, workers=2, devices="cuda:0, cuda:1", buckets=[1, 8]).plan()
    assert plan == RunnerPlan(
        "net",
        model="net:1",
        max_batch_size=8,
        latency_budget_ms=50.0,
        workers=2,
        devices=("cuda:0", "cuda:1"),
        buckets=(1, 8),
    )


def test_plans_and_signatures_have_every_key_of_a_runner_in_the_config() -> None:
    keys = {key.name for key in in_section("runner")}
    assert get_type_hints(RunnerSettings).keys() == keys
    assert {field.name for field in fields(RunnerPlan)} - keys == {"name", "model", "runnable", "init", "methods"}


def test_every_setting_that_code_may_say_is_read_again_by_the_config() -> None:
    config = paceline_config()
    said: dict[str, Any] = {
        "latency_table_ms": {1: 5, 64: 37.5},
        "buckets": (1, 64),
        "devices": ["cpu"],
        "dispatch": "central",
    }
    plan = runner(**said).plan()
    settings = config.runner("net", {key: getattr(plan, key) for key in said})
    assert settings.latency_table_ms == ((1, 5.0), (64, 37.5))
    assert (settings.buckets, settings.devices, settings.dispatch) == ((1, 64), ("cpu",), "central")


def paceline_config() -> Any:
    from paceline.config import load_config

    return load_config({}, Path("/dev/null"), {})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_batch_sizes": 8}, "unknown setting 'max_batch_sizes' of a runner. Did you mean \"max_batch_size\""),
        ({"max_batch_size": 0}, r"runner.max_batch_size is 0 \(code\); expected"),
        ({"devices": ["cuda 1"]}, r"runner.devices is \['cuda 1'\] \(code\); expected"),
    ],
)
def test_wrong_settings_are_errors_where_they_are_written(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        runner(**settings)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-x", "x" * 129, 3])
def test_names_that_no_url_or_file_could_have_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="runner name"):
        runner(name=name)


@pytest.mark.parametrize("name", ["run", "async_run", "name", "init_local", "plan", "bind", "_plan", "__init__"])
def test_method_named_like_an_attribute_of_every_runner_is_an_error_at_load(name: str) -> None:
    with pytest.raises(StartError, match=f"has a method '{name}', which is an attribute of every Runner"):
        runner(method(name))


def test_stored_model_becomes_a_runner_by_its_own_name_or_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paceline.store import ModelStore

    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    with ModelStore().create("net", framework="pytorch", methods={"__call__": method()}) as pending:
        pending.write("weights", [b"123"])
    model = paceline.pytorch.get("net")
    assert model.to_runner().plan() == RunnerPlan("net", model="net:1")
    assert model.to_runner("other", max_batch_size=2).plan() == RunnerPlan("other", model="net:1", max_batch_size=2)


# Methods


def test_unknown_method_names_the_nearest_and_all() -> None:
    with pytest.raises(AttributeError, match=r"has no method 'encod'\. Did you mean .encode.\? It has encode, decode"):
        runner(method("encode"), method("decode")).encod  # noqa: B018


def test_run_means_call_or_the_only_method_and_else_is_ambiguous() -> None:
    several = runner(method("encode"), method("decode"))
    with pytest.raises(AttributeError, match=r"no __call__; name one of them: runner.encode.async_run, runner.decode"):
        several.run(ROWS)
    for methods in ([method("encode")], [method("encode"), method()]):
        with loop_in_a_thread() as loop:
            chosen = runner(*methods)
            port = FakePort(loop, {each.name: each for each in methods})
            chosen.bind(port)
            chosen.run(ROWS)
            assert port.calls[0].method.name == methods[-1].name


def test_method_itself_is_not_called() -> None:
    with pytest.raises(TypeError, match=r"await runner\.encode\.async_run"):
        runner(method("encode")).encode(ROWS)


def test_methods_are_seen_by_dir_and_repr() -> None:
    handle = runner(method("encode"))
    assert {"encode", "async_run"} <= {*dir(handle)}
    assert repr(handle) == "Runner('net', methods=['encode'])"
    assert repr(handle.encode) == "RunnerMethod('net', 'encode')"


# Calls


def test_unbound_runner_says_both_ways_out() -> None:
    with pytest.raises(RuntimeError, match=r"Service\(runners=\[\.\.\.\]\).* runner\.init_local\(\)"):
        runner().run(ROWS)
    with pytest.raises(RuntimeError, match="'net' is not connected"):
        asyncio.run(runner().async_run(ROWS))


def test_bound_runner_follows_what_is_served_and_not_what_was_saved_since() -> None:
    with loop_in_a_thread() as loop:
        handle = runner(method("new"))
        handle.bind(FakePort(loop, {"old": method("old")}))
        assert dir(handle).count("old") == 1
        with pytest.raises(AttributeError):
            handle.new  # noqa: B018
    with pytest.raises(ModelNotFound):
        runner(name="unserved").bind(FakePort(loop, {}))


def test_call_in_the_ports_own_loop_stays_there() -> None:
    async def main() -> None:
        handle = runner()
        port = FakePort(asyncio.get_running_loop(), {"__call__": method()})
        handle.bind(port)
        assert (await handle.async_run(ROWS)).tolist() == [7, 7]
        assert port.ran_in == [port.loop]

    asyncio.run(main())


def test_call_from_another_loop_or_thread_crosses_over() -> None:
    with loop_in_a_thread() as loop:
        handle = runner()
        port = FakePort(loop, {"__call__": method()})
        handle.bind(port)
        assert asyncio.run(handle.async_run(ROWS)).tolist() == [7, 7]
        assert handle.run(x=ROWS).tolist() == [7, 7]
        assert port.ran_in == [loop, loop]


def test_call_is_measured_and_has_the_id_and_what_is_left_of_its_request() -> None:
    with loop_in_a_thread() as loop:
        handle = runner()
        port = FakePort(loop, {"__call__": method()})
        handle.bind(port)
        handle.run(ROWS)
        tokens = deadline.set(SystemClock.now() + 5), request_id.set("mine")
        handle.run(ROWS)
        deadline.reset(tokens[0])
        request_id.reset(tokens[1])
        free, bound = port.calls
        assert (free.runner, free.rows, free.nbytes, free.budget_s) == ("net", 2, 24, inf)
        assert free.key == bound.key
        assert (free.request_id, bound.request_id) == ("", "mine")
        assert 4 < bound.budget_s <= 5


def test_wrong_arguments_send_nothing() -> None:
    with loop_in_a_thread() as loop:
        handle = runner()
        port = FakePort(loop, {"__call__": method()})
        handle.bind(port)
        with pytest.raises(InvalidParameter, match="input 'y' is unknown"):
            handle.run(ROWS, y=1)
        assert port.calls == []
