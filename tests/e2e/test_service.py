"""Services through real processes: the guide's, one with a Runnable of its own, and development with --reload."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Server, wait_until

pytestmark = pytest.mark.e2e

# The guide's Net and how it is saved, without the training.
TRAIN = """
import json
import paceline
import torch
import torch.nn as nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return x

torch.manual_seed(7)
model = Net()
paceline.pytorch.save(model, "my_torch_model", signatures={"__call__": {"batchable": True, "batchdim": 0}})
print(json.dumps(model(torch.full((1, 3, 32, 32), 0.5))[0].tolist()))
"""

GUIDE = """
import paceline
from paceline.io import JSON, JSONSerializable

runner = paceline.pytorch.get("my_torch_model").to_runner()

svc = paceline.Service(name="test_service", runners=[runner])

@svc.api(input=JSON(), output=JSON())
async def predict(json_obj: JSONSerializable) -> JSONSerializable:
    batch_ret = await runner.async_run([json_obj])
    return batch_ret[0]
"""

OWN = """
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
import paceline

class Scale(paceline.Runnable):
    def __init__(self, factor: float) -> None:
        self.factor = factor

    @paceline.Runnable.method(batchable=True, batch_dim=0)
    def scale(self, x):
        return x * self.factor

scaler = paceline.Runner(Scale, name="scaler", init={"factor": 3.0}, max_batch_size=8)
svc = paceline.Service(name="own", runners=[scaler])

@svc.on_startup
def open_file(ctx: paceline.Context) -> None:
    ctx.state["words"] = Path("words.txt").read_text().split()

@svc.on_shutdown
def close_file() -> None:
    Path("closed").touch()

@svc.api
async def tripled(numbers: list) -> list:
    return (await scaler.scale.async_run(numbers)).tolist()

@svc.api
async def late(numbers: list) -> list:
    Path("begun").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return (await scaler.scale.async_run(numbers)).tolist()

@svc.api
async def words(n: int, ctx: paceline.Context) -> AsyncIterator[str]:
    for word in ctx.state["words"][:n]:
        yield word
"""


@pytest.fixture(scope="module")
def expected(store_home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The guide's model, saved by a script of its own; what it says of an image of 0.5."""
    script = tmp_path_factory.mktemp("train") / "train.py"
    script.write_text(TRAIN)
    environ = os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environ, check=True, capture_output=True, text=True)
    said: list[float] = json.loads(done.stdout.splitlines()[-1])
    return said


def image() -> bytes:
    return json.dumps([[[0.5] * 32] * 32] * 3).encode()


def test_the_guides_service_answers(serve: Callable[..., Server], expected: list[float], tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(GUIDE)
    server = serve("--working-dir", str(tmp_path), "--api-workers", "2", target="service:svc")
    ready = server.event("ready")
    assert ready is not None
    assert (ready["service"], ready["runners"][0]["name"]) == ("test_service", "my_torch_model")
    assert {"/predict", "/docs", "/docs.json"} <= set(ready["routes"])
    assert server.status()["service"] == "test_service"
    for _ in range(4):
        status, answer = server.request("POST", "/predict", image(), content_type="application/json")
        assert status == 200
        assert answer == pytest.approx(expected, abs=1e-5)
    wrong, body = server.request("POST", "/predict", b'[["a"]]', content_type="application/json")
    assert (wrong, body["code"]) == (422, "model_rejected_input")  # it was saved without saying what it takes
    assert server.request("POST", "/predict", b"{", content_type="application/json")[0] == 400
    assert server.request("GET", "/docs.json")[1]["openapi"].startswith("3.1")
    assert server.request("GET", "/nowhere")[1]["code"] == "path_not_found"
    # The runner's own routes stay beside the service's.
    tensor = {"name": "x", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": [0.5] * 3072}
    status, oip = server.request("POST", "/v2/models/my_torch_model/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 200
    assert oip["outputs"][0]["data"] == pytest.approx(expected, abs=1e-5)
    assert server.stop() == 0


def test_settings_in_code_are_shown_as_such(store_home: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = subprocess.run(
        [sys.executable, "-m", "paceline", "config", "show", "own:svc", "--json"],
        cwd=tmp_path,
        env=os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert (rows["runner.scaler.max_batch_size"]["value"], rows["runner.scaler.max_batch_size"]["origin"]) == (
        8,
        "code",
    )
    assert rows["runner.scaler.workers"]["origin"] == "default"


def test_runnable_hooks_streams_and_the_operators_word(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "words.txt").write_text("one two three")
    monkeypatch.setenv("PACELINE_RUNNER__SCALER__MAX_BATCH_SIZE", "4")
    server = serve("--working-dir", str(tmp_path), target="own:svc")
    answer: Any = server.request("POST", "/tripled", b"[[1, 2], [3, 4]]")
    assert answer == (200, [[3.0, 6.0], [9.0, 12.0]])
    assert server.request("GET", "/v2/models/scaler")[1]["parameters"]["max_batch_size"] == 4
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/words", b"2")
    assert connection.getresponse().read() == b"onetwo"
    connection.close()

    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.request("POST", "/late", b"[[1, 2]]")))
    asking.start()
    wait_until((tmp_path / "begun").exists, 30, "a request in hand")
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.event("draining"), 30, "the drain")
    (tmp_path / "go").touch()
    asking.join(30)
    assert answers == [(200, [[3.0, 6.0]])]
    assert server.process.wait(40) == 0
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import json\njson.loads('{')\n", ['service.py", line 2', "JSONDecodeError: Expecting property name"]),
        (
            "import paceline\nsvc = paceline.Service(name='s')\n\n"
            "@svc.on_startup\ndef up():\n    raise OSError('full')\n",
            ["OSError: full"],
        ),
        ("import paceline\nrunner = paceline.pytorch.get('prob').to_runner()\n", ["service.py:2: ", '"probe"']),
    ],
    ids=["import", "startup", "model"],
)
def test_service_that_cannot_start_ends_with_the_reason(
    store_home: Path, run_dir: Path, tmp_path: Path, code: str, told: list[str]
) -> None:
    (tmp_path / "service.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "paceline", "serve", "service:svc", "--port", "0", "--run-dir", str(run_dir)],
        cwd=tmp_path,
        env=os.environ | {"PACELINE_HOME": str(store_home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    for part in told:
        assert part in text


def test_reload_serves_each_change_on_the_same_port_and_outlives_mistakes(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    code = "import paceline\nsvc = paceline.Service(name='s')\n@svc.api\ndef word() -> str:\n    return {}\n"
    (tmp_path / "service.py").write_text(code.format("'first'"))
    server = serve("--working-dir", str(tmp_path), "--reload", target="service:svc")
    url = server.url

    def word() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/word")
        answer = connection.getresponse().read().decode()
        connection.close()
        return answer

    assert word() == "first"
    (tmp_path / "service.py").write_text(code.format("'the second'"))
    wait_until(lambda: server.event("reloading"), 30, "a change that is seen")
    # Whoever connects meanwhile waits for the server that comes.
    wait_until(lambda: word() == "the second", 30, "the second version")
    (tmp_path / "service.py").write_text(code.format("("))
    wait_until(lambda: server.event("broken"), 30, "a mistake that is told")
    broken = server.event("broken")
    assert broken is not None
    assert "SyntaxError" in broken["reason"]
    (tmp_path / "service.py").write_text(code.format("'the third one'"))
    assert word() == "the third one"
    assert server.url == url
    assert server.stop() == 0
