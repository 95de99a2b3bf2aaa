"""Runners in this process: real gateway, dispatcher and executor, in threads."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import paceline
from paceline.handle import Runner, deadline
from paceline.local_engine import LocalEngine
from paceline.protocol.clock import SystemClock
from paceline.protocol.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    ModelNotFound,
    NoWorker,
    TooLarge,
)
from paceline.runner.calls import DeviceBroken
from paceline.runner.host import Host

WAIT_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


class Gate(paceline.Runnable):
    """Its first call waits until the test opens the gate."""

    opened: ClassVar[threading.Event]
    entered: ClassVar[threading.Event]
    sizes: ClassVar[list[int]]

    @paceline.Runnable.method(batchable=True)
    def double(self, x: torch.Tensor) -> torch.Tensor:
        type(self).sizes.append(len(x))
        self.entered.set()
        assert self.opened.wait(WAIT_S)
        return x * 2


class Tools(paceline.Runnable):
    def __init__(self, factor: float = 1.0, device: str = "") -> None:
        self.factor = factor
        self.device = device

    @paceline.Runnable.method(batchable=True)
    def scale(self, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: part * self.factor for name, part in parts.items()}

    @paceline.Runnable.method(batchable=True)
    def add(self, x: torch.Tensor, y: torch.Tensor, weight: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        return x + weight * y, x - weight * y

    @paceline.Runnable.method
    def where(self) -> str:
        return self.device

    @paceline.Runnable.method
    def kind(self, value: object) -> str:
        return type(value).__name__

    @paceline.Runnable.method
    def spoil(self, x: torch.Tensor) -> torch.Tensor:
        return x.zero_()

    @paceline.Runnable.method
    def fail(self) -> None:
        raise PermissionError("not here")


class Broken(paceline.Runnable):
    def __init__(self) -> None:
        raise OSError("no weights")

    @paceline.Runnable.method
    def run_it(self) -> None: ...


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1)


class Kind(torch.nn.Sequential):
    """Says what it gets."""

    def kind_of(self, x: torch.Tensor) -> str:
        return str(x.dtype)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def tools() -> Iterator[Runner]:
    runner = paceline.Runner(Tools, init={"factor": 3.0})
    runner.init_local()
    yield runner
    runner.close_local()


@pytest.fixture
def gate() -> Iterator[tuple[Runner, LocalEngine]]:
    Gate.opened, Gate.entered, Gate.sizes = threading.Event(), threading.Event(), []
    # With a table nothing is to be learned of sizes first.
    runner = paceline.Runner(Gate, latency_table_ms="1:1,64:1.1")
    engine = LocalEngine([runner.plan()])
    runner.bind(engine.start())
    yield runner, engine
    Gate.opened.set()
    engine.stop()


async def accepted(engine: LocalEngine, count: int) -> None:
    """Until `count` requests have left for their host."""

    async def flushed() -> bool:
        done = engine.hosts.counters.accepted == count
        await asyncio.sleep(0)
        return done

    async with asyncio.timeout(WAIT_S):
        while not await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(flushed(), engine.loop)):
            pass


def saved(**options: Any) -> Any:
    return paceline.pytorch.save(Net(), "net", signatures={"__call__": {"batchable": True}}, **options)


# Batching


def test_concurrent_calls_run_in_one_batch(gate: tuple[Runner, LocalEngine]) -> None:
    runner, engine = gate

    async def main() -> list[Any]:
        first = asyncio.create_task(runner.double.async_run(np.zeros((1, 2), np.float32)))
        assert await asyncio.to_thread(Gate.entered.wait, WAIT_S)
        later = [asyncio.create_task(runner.double.async_run(np.full((1, 2), n, np.float32))) for n in range(8)]
        await accepted(engine, 9)
        Gate.opened.set()
        await first
        return await asyncio.gather(*later)

    results = asyncio.run(main())
    assert Gate.sizes == [1, 8]
    assert [float(result[0, 0]) for result in results] == [2.0 * n for n in range(8)]


def test_threads_batch_together_too(gate: tuple[Runner, LocalEngine]) -> None:
    runner, engine = gate
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        results[number] = runner.run(np.full((1, 2), number, np.float32))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    threads[0].start()
    assert Gate.entered.wait(WAIT_S)
    for thread in threads[1:]:
        thread.start()
    asyncio.run(accepted(engine, 5))
    Gate.opened.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert Gate.sizes == [1, 4]
    assert {number: float(result[0, 1]) for number, result in results.items()} == {n: 2.0 * n for n in range(5)}


def test_cancelled_call_is_called_back(gate: tuple[Runner, LocalEngine]) -> None:
    runner, engine = gate

    async def main() -> None:
        first = asyncio.create_task(runner.double.async_run(np.zeros((1, 2), np.float32)))
        assert await asyncio.to_thread(Gate.entered.wait, WAIT_S)
        second = asyncio.create_task(runner.double.async_run(np.zeros((1, 2), np.float32)))
        await accepted(engine, 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        async with asyncio.timeout(WAIT_S):
            while not engine.hosts.counters.cancelled:
                await asyncio.sleep(0)
        Gate.opened.set()
        await first

    asyncio.run(main())
    assert Gate.sizes == [1]


def test_call_is_answered_at_the_deadline_of_the_request_it_belongs_to(gate: tuple[Runner, LocalEngine]) -> None:
    runner, _ = gate
    token = deadline.set(SystemClock.now() + 0.05)
    try:
        with pytest.raises(DeadlineExceeded):
            runner.run(np.zeros((1, 2), np.float32))
        with pytest.raises(DeadlineExceeded, match="was called after the request's deadline"):
            runner.run(np.zeros((1, 2), np.float32))
    finally:
        deadline.reset(token)


def test_call_has_no_more_time_than_the_runners_own_budget() -> None:
    Gate.opened, Gate.entered, Gate.sizes = threading.Event(), threading.Event(), []
    with paceline.local(paceline.Runner(Gate, name="gate", latency_budget_ms=30)) as client:
        with pytest.raises(DeadlineExceeded, match="budget of 30 ms"):
            client.predict("gate", np.zeros((1, 2), np.float32))
        Gate.opened.set()
        assert client.predict("gate", np.ones((1, 2), np.float32), timeout_s=WAIT_S).tolist() == [[2.0, 2.0]]  # type: ignore[union-attr]


def test_what_waits_when_the_engine_stops_is_failed(gate: tuple[Runner, LocalEngine]) -> None:
    runner, engine = gate

    async def main() -> None:
        calls = [asyncio.create_task(runner.double.async_run(np.zeros((1, 2), np.float32))) for _ in range(2)]
        await accepted(engine, 2)
        assert await asyncio.to_thread(Gate.entered.wait, WAIT_S)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        for call in calls:
            with pytest.raises(NoWorker, match="was stopped"):
                await call
        Gate.opened.set()
        await stopping

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="is not connected"):
        runner.run(np.zeros((1, 2), np.float32))


# Arguments and results


def test_dicts_go_leaf_by_leaf_and_come_back_as_dicts(tools: Runner) -> None:
    result = tools.scale.run({"a": np.ones((2, 1), np.float64), "b": [[1.0], [2.0]]})
    assert {name: (part.dtype, part.tolist()) for name, part in result.items()} == {
        "a": (np.dtype("float64"), [[3.0], [3.0]]),
        "b": (np.dtype("float32"), [[3.0], [6.0]]),
    }


def test_several_tensors_by_position_and_by_name_give_several_outputs(tools: Runner) -> None:
    total, difference = tools.add.run(np.ones((2, 2), np.float32), y=np.ones((2, 2), np.float32), weight=2.0)
    assert total.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert difference.tolist() == [[-1.0, -1.0], [-1.0, -1.0]]


def test_torch_tensors_come_back_where_one_was_given(tools: Runner) -> None:
    result = tools.scale.run({"a": torch.ones(1, 2, dtype=torch.bfloat16), "b": np.ones((1, 1), np.float32)})
    assert isinstance(result["b"], torch.Tensor)
    assert torch.equal(result["a"], torch.full((1, 2), 3.0, dtype=torch.bfloat16))


def test_plain_values_stay_what_they_are(tools: Runner) -> None:
    kinds = [tools.kind.run(value) for value in (1, 2.5, "x", None, True, b"y", [1, 2], np.ones(2), {"a": 1}, ["x"])]
    assert kinds == ["int", "float", "str", "NoneType", "bool", "bytes", "Tensor", "Tensor", "dict", "ndarray"]


def test_method_without_arguments_and_the_device(tools: Runner) -> None:
    assert tools.where.run() == "cpu"


def test_model_that_writes_into_its_input_does_not_reach_the_callers_array(tools: Runner) -> None:
    array = np.ones((2, 2048), np.float32)
    assert not tools.spoil.run(array).any()
    assert array.all()


def test_results_are_the_callers_own(tools: Runner) -> None:
    first = tools.scale.run({"a": np.ones((1, 2000), np.float32)})["a"]
    second = tools.scale.run({"a": np.zeros((1, 2000), np.float32)})["a"]
    first += 1
    assert (first == 4).all()
    assert not second.any()


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((), {}, "add needs x, y, weight; missing: x, y"),
        ((np.ones((1, 1)),), {"z": 1}, "input 'z' is unknown to add"),
        ((np.ones((1, 1)), np.ones((2, 1))), {}, "inputs have 1 and 2 rows"),
        ((np.ones((1, 1)), np.float32(1)), {}, "input 'y' has shape .., without the batch dim 0"),
        ((np.ones((1, 1)), {1: np.ones((1, 1))}), {}, "input 'y' has the key 1"),
        ((np.ones((1, 1)), [[1.0], [1.0, 2.0]]), {}, "input 'y' is not an array"),
        ((np.ones((5000, 1)), np.ones((5000, 1))), {}, "5000 rows"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sent(
    tools: Runner, args: tuple[object, ...], kwargs: dict[str, object], error: str
) -> None:
    with pytest.raises(paceline.RequestError, match=error):
        tools.add.run(*args, **kwargs)


def test_error_of_user_code_is_the_one_that_a_server_gives(tools: Runner) -> None:
    with pytest.raises(ModelError, match="PermissionError: not here"):
        tools.fail.run()


def test_run_in_a_loop_names_async_run(tools: Runner) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await runner\.where\.async_run"):
            tools.where.run()
        assert await tools.where.async_run() == "cpu"

    asyncio.run(main())


# Stored models


def test_json_as_the_guide_passes_it_takes_the_dtype_of_the_sample() -> None:
    runner = saved(sample_inputs=torch.ones(1, 3, dtype=torch.float64)).to_runner()
    runner.init_local()
    try:
        result = asyncio.run(runner.async_run([[1, 2, 3]]))
        assert (result.dtype, result.tolist()) == (np.dtype("float64"), [6.0])
        with pytest.raises(InvalidInput, match="input 'x' has shape"):
            runner.run([[1, 2]])
        with pytest.raises(InvalidInput, match="input 'x' is a list, expected one tensor of FP64; join"):
            runner.run([np.ones(3)])
        with pytest.raises(InvalidInput, match="input 'x' has datatype FP32, expected FP64"):
            runner.run(np.ones((1, 3), np.float32))
    finally:
        runner.close_local()


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (Kind(torch.nn.Linear(3, 3)), "torch.float32"),
        (Kind(torch.nn.Linear(3, 3).half()), "torch.float16"),
        (Kind(torch.nn.Embedding(4, 3), torch.nn.Linear(3, 3)), "torch.int64"),
        (Kind(), "torch.int64"),
    ],
)
def test_whole_numbers_of_json_become_what_the_model_computes_in(model: torch.nn.Module, kind: str) -> None:
    runner = paceline.pytorch.save(model, "net", signatures={"kind_of": {}}).to_runner()
    runner.init_local()
    assert runner.run([[1, 2, 3]]) == kind
    runner.close_local()


def test_init_local_twice_loads_once_and_close_local_ends_it() -> None:
    runner = saved().to_runner()
    runner.init_local()
    before = threading.active_count()
    runner.init_local()
    assert threading.active_count() == before
    runner.close_local()
    runner.close_local()
    with pytest.raises(RuntimeError, match="init_local"):
        runner.run(np.ones((1, 2), np.float32))
    runner.init_local()
    assert runner.run(np.ones((1, 2), np.float32)).tolist() == [2.0]
    runner.close_local()


def test_model_behind_a_client() -> None:
    model = saved()
    with paceline.local(model) as client:
        assert client.predict("net", np.ones((2, 3), np.float32)).tolist() == [3.0, 3.0]  # type: ignore[union-attr]
        assert [client.ready(), client.ready("net"), client.ready("other")] == [True, True, False]
        assert client.metadata("net")["versions"] == ["1"]
        with pytest.raises(ModelNotFound, match='Did you mean "net"'):
            client.predict("nett", np.ones((2, 3), np.float32))
        with pytest.raises(TooLarge):
            client.predict("net", np.ones((5000, 3), np.float32))
        with pytest.raises(ConfigError, match="has no routes"):
            _ = client.http


def test_settings_of_the_operator_hold_here_too(home: Path) -> None:
    (home / "paceline.toml").write_text("[runner.net]\nmax_batch_size = 3\n[runner.other]\nworkers = 2\n")
    engine = LocalEngine([saved().to_runner(max_batch_size=8).plan()])
    assert engine.serve.runner("net").max_batch_size == 3


def test_nothing_here_imports_torch_before_a_model_is_loaded() -> None:
    code = "import sys, paceline; paceline.local, paceline.Runner, paceline.Runnable; print('torch' in sys.modules)"
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_module_may_start_its_runner_while_it_is_imported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(home)
    (home / "starts_at_once.py").write_text(
        "import paceline\n"
        "class Ping(paceline.Runnable):\n"
        "    @paceline.Runnable.method\n"
        "    def ping(self):\n"
        "        return 'pong'\n"
        "with paceline.local(paceline.Runner(Ping)) as client:\n"
        "    ANSWER = client.predict('ping').tolist()\n"
    )
    assert importlib.import_module("starts_at_once").ANSWER == [b"pong"]
    sys.modules.pop("starts_at_once")


# What goes wrong


def test_model_that_does_not_load_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    runner = paceline.Runner(Broken)
    with pytest.raises(OSError, match="no weights"):
        runner.init_local()
    assert threading.active_count() == before


def test_runner_that_loses_its_device_is_given_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(host: Host) -> None:
        raise DeviceBroken("the device is lost")

    runner = paceline.Runner(Tools)
    runner.init_local()
    monkeypatch.setattr(Host, "turn", broken)
    for _ in range(2):
        with pytest.raises(NoWorker, match="the device is lost"):
            runner.where.run()
    runner.close_local()


def test_two_runners_of_one_name_are_refused() -> None:
    plan = paceline.Runner(Tools).plan()
    with pytest.raises(ConfigError, match="one name"):
        LocalEngine([plan, plan])


def test_what_cannot_run_locally_is_named() -> None:
    with pytest.raises(ConfigError, match="expected a model's handle, a Runner or a Service"), paceline.local(3):  # type: ignore[arg-type]
        pass


# Services


def service() -> tuple[paceline.Service, list[str]]:
    runner = paceline.Runner(Tools, init={"factor": 2.0})
    svc = paceline.Service("shop", runners=[runner])
    log: list[str] = []

    @svc.on_startup
    async def begin() -> None:
        log.append(f"startup {await runner.where.async_run()}")

    @svc.on_shutdown
    def end() -> None:
        log.append("shutdown")

    @svc.api
    async def scale(rows: list[Any]) -> Any:
        return (await runner.scale.async_run({"x": rows}))["x"].tolist()

    @svc.api
    def scale_in_a_thread(rows: list[Any]) -> Any:
        return runner.scale.run({"x": rows})["x"].tolist()

    @svc.api
    async def stuck(rows: list[Any]) -> Any:
        return runner.scale.run({"x": rows})

    @svc.api
    async def failing() -> Any:
        return await runner.fail.async_run()

    @svc.api
    async def refused(rows: list[Any]) -> Any:
        return await runner.add.async_run(rows)

    return svc, log


def test_service_answers_by_its_routes_and_its_runners_by_name() -> None:
    svc, log = service()
    with paceline.local(svc) as client:
        assert log == ["startup cpu"]
        for route in ("/scale", "/scale_in_a_thread"):
            reply = client.http.post(route, json=[[1.0], [2.0]])
            assert (reply.status_code, reply.json()) == (200, [[2.0], [4.0]])
        outputs = client.predict("tools", np.ones((1, 1)), np.ones((1, 1)), method="add")
        assert isinstance(outputs, dict)
        assert list(outputs) == ["output_0", "output_1"]
        assert client.http.get("/docs.json").json()["openapi"] == "3.1.0"
    assert log == ["startup cpu", "shutdown"]


def test_errors_of_runners_in_a_service_keep_their_code_and_blocking_the_loop_is_one() -> None:
    svc, _ = service()
    with paceline.local(svc) as client:
        reply = client.http.post("/refused", json=[[1.0]])
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid_input")
        reply = client.http.post("/stuck", json=[[1.0]])
        assert reply.status_code == 500
        assert "await runner.scale.async_run" in reply.json()["error"]


def test_worker_names_the_request_in_its_log(caplog: pytest.LogCaptureFixture) -> None:
    svc, _ = service()
    with paceline.local(svc) as client:
        client.http.post("/failing", headers={"x-request-id": "mine"})
    assert ["mine"] in [getattr(record, "request_ids", None) for record in caplog.records]


def test_several_runners_of_one_service_run_beside_each_other() -> None:
    double, triple = (
        paceline.Runner(Tools, name=name, init={"factor": factor}) for name, factor in (("b", 2), ("c", 3))
    )
    with paceline.local(paceline.Service("two", runners=[double, triple])):

        async def main() -> list[Any]:
            x = {"x": np.ones((1, 1))}
            return [*await asyncio.gather(double.scale.async_run(x), triple.scale.async_run(x))]

        assert [float(result["x"][0, 0]) for result in asyncio.run(main())] == [2.0, 3.0]
