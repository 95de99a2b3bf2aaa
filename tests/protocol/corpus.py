"""Real messages of every kind, and their meaning as JSON: for the vectors, the round trips and the fuzzer.

Every tensor, id and time is fixed, so that the encoded bytes are the same on every run and machine.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from paceline.protocol import control, dtypes, messages, pool
from paceline.protocol.control import ControlMessage
from paceline.protocol.forecast import BacklogPoint, Forecast, KeyTable
from paceline.protocol.messages import Answers, Cancel, Failure, Infer, InferItem, Message, Result
from paceline.protocol.remote import as_sent
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.protocol.spec import ChildSpec, HttpSpec, NativeSpec, RunnerSpec, ServeSpec, ServiceSpec
from paceline.protocol.tensor import Strings, Tensor, from_numpy
from paceline.protocol.tree import Tree

ORIGIN = bytes(range(1, 17))
WORKER = bytes(range(17, 33))
REMOTE_ORIGIN = bytes(range(2, 18))


def ramp(dtype: dtypes.DType, *shape: int) -> Tensor:
    """A tensor whose bytes are 0, 1, 0, 1 for bool, and 0, 1, 2, ... for the others."""
    size = math.prod(shape) * dtype.itemsize
    step = 2 if dtype is dtypes.BOOL else 251
    return Tensor(dtype, shape, bytes(index % step for index in range(size)))


def item(counter: int, args: tuple[Tree, ...], kwargs: dict[str, Tree] | None = None, **changes: Any) -> InferItem:
    """A request with these arguments; `changes` replace its other fields."""
    packed, frames = messages.pack_call(args, kwargs or {})
    values: dict[str, Any] = {
        "counter": counter,
        "attempt": 0,
        "starts": 0,
        "suspect": False,
        "arrival_ns": 1_000_000_000,
        "deadline_ns": 31_000_000_000,
        "priority": 0,
        "rows": 1,
        "length": 0,
        "method": "__call__",
        "key": b"__call__|f32(16,)",
        "request_id": f"req-{counter}",
        "traceparent": "",
        "packed": packed,
        "frames": frames,
    }
    return InferItem(**{**values, **changes})


def result(counter: int, tree: Tree, attempt: int = 0) -> Result:
    packed, frames = messages.pack_result(tree)
    return Result(counter, attempt, batch_rows=4, queue_us=120, run_us=950, packed=packed, frames=frames)


def every_dtype() -> dict[str, Tree]:
    return {dtype.name: ramp(dtype, 2, 3) for dtype in dtypes.ALL}


def nested() -> Tree:
    """Every kind of value, in every kind of container."""
    return {
        "none": None,
        "flags": [True, False],
        "ints": (0, -1, 127, -(2**63), 2**64 - 1),
        "floats": [0.0, -1.5, 1e300],
        "text": "pâce",
        "bytes": b"\x00\xff",
        "strings": Strings((2, 1), (b"one", b"")),
        "deep": [([{"leaf": ramp(dtypes.I16, 1)}],)],
        "empty": ((), [], {}),
    }


DATA: dict[str, Message] = {
    "infer_small": Infer(ORIGIN, (item(1, (from_numpy(np.arange(16, dtype=np.float32).reshape(1, 16)),)),)),
    "infer_frames": Infer(
        ORIGIN,
        (
            item(7, (ramp(dtypes.U8, 1, 4097), ramp(dtypes.F32, 1, 2)), {"mask": ramp(dtypes.BOOL, 1, 4100)}),
            item(8, (), {"scale": 0.5}, rows=3, attempt=2, starts=1, priority=-1, key=b"", request_id=""),
            item(9, (ramp(dtypes.BF16, 1, 2050),), traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"),
        ),
    ),
    "infer_dtypes": Infer(ORIGIN, (item(2, (), every_dtype()),)),
    "infer_remote": Infer(REMOTE_ORIGIN, as_sent([item(1, (ramp(dtypes.F32, 1, 4),)), item(2, (7,))], 1_250_000_000)),
    "infer_long_values": Infer(
        ORIGIN, (item(3, (b"b" * 4097, "té" * 2049, Strings((2,), (b"s" * 4096, b"t")), Strings((0,), ()))),)
    ),
    "cancel": Cancel(ORIGIN, (1, 2, 2**64 - 1)),
    "answers": Answers(
        ORIGIN,
        (result(1, (ramp(dtypes.F32, 1, 10), {"label": ramp(dtypes.I64, 1)})), result(8, nested(), attempt=2)),
        (
            Failure(9, 0, "infeasible_now", "cannot meet its deadline", 0.25),
            Failure(10, 1, messages.CANCELLED, ""),
        ),
    ),
    "answers_frames": Answers(
        ORIGIN, (result(4, ramp(dtypes.F64, 513)), result(5, None), result(6, ramp(dtypes.U8, 0)))
    ),
    "answers_empty": Answers(ORIGIN),
    "forecast": Forecast(
        1_000_000_000,
        12,
        4_000.5,
        (5_000_000_000, 0),
        (
            KeyTable("__call__", b"__call__|f32(16,)", 0, False, 64, (1, 8, 64), (0.001, 0.002, 0.0105)),
            KeyTable("embed", b"", 128, True, 16, (1,), (0.25,)),
        ),
        (BacklogPoint(-1, 2_000_000_000, 4), BacklogPoint(0, 2**63 - 1, 12)),
    ),
    "forecast_idle": Forecast(1_000_000_000),
}

POOL: dict[str, pool.PoolMessage] = {
    "join": pool.Join(
        "cuda:0", "ab" * 32, (pool.Observation("__call__", b"f32", 1, 0.002), pool.Observation("embed", b"", 64, 0.01))
    ),
    "work": pool.Work(
        3,
        True,
        4,
        (
            Infer(ORIGIN, (item(7, (ramp(dtypes.U8, 1, 4097),)), item(8, (2,), rows=2, attempt=1))),
            Infer(REMOTE_ORIGIN, (item(7, (ramp(dtypes.F32, 1, 2),)),)),
        ),
    ),
    "work_begun": pool.Work(4, False, 128, (Infer(ORIGIN, (item(9, (1,), starts=1, suspect=True),)),)),
    "done": pool.Done(
        3,
        True,
        0.0125,
        True,
        None,
        (
            pool.Addressed(ORIGIN, tuple(messages.encode(DATA["answers_frames"]))),
            pool.Addressed(REMOTE_ORIGIN, tuple(messages.encode(DATA["answers_empty"]))),
        ),
    ),
    "done_capped": pool.Done(4, True, 1.5, False, 32, ()),
    "leave": pool.Leave(),
    "refused_worker": pool.Refused("it loaded the digest cd, this runner serves ab"),
    "released": pool.Released(),
}

METHOD = MethodSpec(
    "__call__",
    batchable=True,
    batch_dim=(0, 1),
    idempotent=False,
    max_batch_size=16,
    latency_budget_ms=50.0,
    inputs=(InputSpec("x", dtypes.F32, (-1, 16)), InputSpec("scale", required=False)),
    open_inputs=False,
    outputs=(InputSpec("output_0", dtypes.F32, (-1, 16)),),
)
SERVE = ServeSpec(
    (
        RunnerSpec("net", "net", "3", "ab" * 32, "pytorch", "/store", (METHOD, MethodSpec("embed")), workers=2),
        RunnerSpec("add", "add", "1", "cd" * 32, "torchscript", "/store", (), queue_timeout_ms=5.0, aliases=("prod",)),
        RunnerSpec("own", "own", "1", "ef" * 32, "runnable", "/store", (), runnable="service:Own", init=b"\x80"),
    ),
    HttpSpec(port=0, api_workers=2),
    "/run/paceline",
    NativeSpec("tcp://0.0.0.0:7400", "/etc/paceline/keys"),
    ServiceSpec("service:svc", "/home/user", "svc", ("/predict", "/docs"), "/store"),
)
CHILD = ChildSpec(SERVE, "worker", "net", 1, WORKER, "ipc:///run/paceline/c", "/run/paceline/slot-1", 4321, 9, (5, 6))

CONTROL: dict[str, ControlMessage] = {
    "hello": control.Hello("worker", "net", 1, WORKER, 1234),
    "child_state": control.ChildState(
        WORKER,
        control.State.READY,
        address="ipc:///run/paceline/h-1",
        device="cpu",
        remote_address="tcp://0.0.0.0:7401",
    ),
    "topology": control.Topology(
        7,
        False,
        (control.Host("net", WORKER, "ipc:///run/paceline/h-1", "ready"),),
        (control.LostHost("net", ORIGIN, "killed by SIGKILL", True, True, ((ORIGIN, 5), (WORKER, 6))),),
        (control.FailedRunner("add", "died 5 times in 60 s"),),
    ),
    "welcome": control.Welcome(b"\x80"),
    "drain": control.Drain(30.0),
    "status_request": control.StatusRequest(),
    "profile_request": control.ProfileRequest("net", 1, 5.0),
    "profile_request_any": control.ProfileRequest("net", None, 0.5),
    "seen": control.Seen(7),
    "trace": control.Trace(5.0, "/run/paceline/t-1.json"),
    "profile_done": control.ProfileDone("/run/paceline/t-1.json", 5.25, 120, False, "net/1"),
    "profile_failed": control.ProfileDone(error="runner 'nte' is not served here.", code="model_not_found"),
    "status": control.Status(
        "0.1.0",
        "http://127.0.0.1:8000",
        False,
        "test_service",
        (
            control.ProcessStatus(
                "worker", "net", 1, 1234, "ready", "cpu", 12.5, 1, 1000, 100, 4000, 2**28, "killed by SIGKILL"
            ),
        ),
    ),
}


def meaning(value: Any) -> Any:
    """What a message says, as JSON: equal for equal messages, whether built here or read from a wire."""
    if isinstance(value, InferItem):
        return {**_fields(value, without=("packed", "frames")), "call": meaning(value.call())}
    if isinstance(value, Result):
        return {**_fields(value, without=("packed", "frames")), "tree": meaning(value.tree())}
    if isinstance(value, Tensor):
        return {"tensor": value.dtype.name, "shape": list(value.shape), "data": bytes(value.data).hex()}
    if isinstance(value, Strings):
        return {"strings": [text.hex() for text in value.items], "shape": list(value.shape)}
    if is_dataclass(value):
        return _fields(value)
    if isinstance(value, (bytes, memoryview)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, tuple):
        return {"tuple": [meaning(part) for part in value]}
    if isinstance(value, list):
        return [meaning(part) for part in value]
    if isinstance(value, dict):
        return {key: meaning(part) for key, part in value.items()}
    return str(value) if isinstance(value, str) else value


def _fields(value: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [spec.name for spec in fields(value) if spec.name not in without]
    return {"kind": type(value).__name__, **{name: meaning(getattr(value, name)) for name in names}}
