"""Each snippet of the guide, as written, in processes of its own: what it saves is served and answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import paceline
from paceline.runner.dispatcher import Dispatch
from paceline.runner.recording import Step, read
from tests.e2e.harness import Server, post, wait_until
from tests.guide.conftest import Desk
from tests.guide.guide import SNIPPETS

pytestmark = pytest.mark.e2e

MY_MODELS = """
import torch

class MyModel(torch.nn.Module):
    def forward(self, x):
        return x * 3

model = MyModel()
"""

SCORES = "model(torch.linspace(-1, 1, 3072).view(1, 3, 32, 32))[0].tolist()"  # of `image`, in train.py's process


def image() -> torch.Tensor:
    return torch.linspace(-1, 1, 3072).view(3, 32, 32)


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_code_is_the_guides(name: str) -> None:
    assert SNIPPETS[name].is_unchanged()


def test_only_imports_are_added() -> None:
    for snippet in SNIPPETS.values():
        assert all(line.startswith(("import ", "from ")) for line in snippet.missing_imports)
        assert snippet.code.count("paceline") == snippet.block.count("bentoml")


def test_train_py_trains_and_saves(desk: Desk) -> None:
    printed, scores = desk.run(SNIPPETS["cifar"].write_to(desk.folder), SCORES)
    steps = [line for line in printed if line.startswith("Epoch: ")]
    assert len(steps) == 8
    assert steps[-1].startswith("Epoch: 1, Step: 3, Loss: ")
    assert not any("batching is OFF" in line for line in printed)
    saved = paceline.pytorch.get("my_torch_model")
    assert str(saved) == "my_torch_model:1"
    call = saved.manifest.methods["__call__"]
    assert (call.batchable, call.batch_dim) == (True, (0, 0))  # the guide writes "batchdim"
    loaded = paceline.pytorch.load_model("my_torch_model")
    with torch.inference_mode():
        assert loaded(image()[None])[0].tolist() == pytest.approx(scores, abs=1e-5)


def test_train_py_with_two_tensors_is_served(desk: Desk, serve: Callable[..., Server]) -> None:
    desk.run(SNIPPETS["two_tensors"].write_to(desk.folder), "True")
    server = serve(target="my_torch_model")
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    with paceline.Client(server.url) as client:
        np.testing.assert_array_equal(np.asarray(client.predict("my_torch_model", x, y)), x + 1)
        np.testing.assert_array_equal(np.asarray(client.predict("my_torch_model", x=x, y=y * 2)), x + 2)


def test_train_py_with_external_modules_is_served_where_they_are_not(desk: Desk, serve: Callable[..., Server]) -> None:
    (desk.folder / "my_models.py").write_text(MY_MODELS)
    desk.run(SNIPPETS["external_modules"].write_to(desk.folder), "True")
    (desk.folder / "my_models.py").unlink()
    server = serve(target="my_torch_model")
    with paceline.Client(server.url) as client:
        answer = client.predict("my_torch_model", np.ones((1, 2), np.float32))
    assert np.asarray(answer).tolist() == [[3.0, 3.0]]


def test_the_line_that_turns_adaptive_batching_on(desk: Desk) -> None:
    (desk.folder / "my_models.py").write_text(MY_MODELS)
    printed, _ = desk.run(SNIPPETS["adaptive_batching"].write_to(desk.folder), "True")
    assert not any("batching is OFF" in line for line in printed)
    call = paceline.pytorch.get("my_model").manifest.methods["__call__"]
    assert (call.batchable, call.batch_dim) == (True, (0, 0))


def test_without_signatures_save_model_says_that_batching_is_off(desk: Desk) -> None:
    (desk.folder / "my_models.py").write_text(MY_MODELS)
    script = desk.folder / "train.py"
    script.write_text("import paceline, my_models\npaceline.pytorch.save_model('my_model', my_models.model)\n")
    printed, _ = desk.run(script, "True")
    (off,) = [line for line in printed if "batching is OFF" in line]
    assert "my_model.__call__" in off
    assert '{"__call__": {"batchable": True, "batch_dim": 0}}' in off
    methods = paceline.pytorch.get("my_model").manifest.methods
    assert {name: method.batchable for name, method in methods.items()} == {"__call__": False}


def test_the_runner_has_the_methods_of_the_signatures(desk: Desk) -> None:
    script = desk.folder / "train.py"
    script.write_text(
        "import paceline, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def double(self, x): return x * 2\n"
        "    def secret(self, x): return x\n"
        "    def embed(self, x): return x + 1\n"
        "paceline.pytorch.save_model(\n"
        "    'my_model', Net(), signatures={'double': {'batchable': True}, 'embed': {'batchable': False}}\n"
        ")\n"
    )
    desk.run(script, "True")
    runner = paceline.pytorch.get("my_model").to_runner()
    runner.init_local()
    try:
        ones = np.ones((1, 2), np.float32)
        assert runner.double.run(ones).tolist() == [[2.0, 2.0]]
        assert runner.embed.run(ones).tolist() == [[2.0, 2.0]]
        with pytest.raises(AttributeError, match="secret"):
            _ = runner.secret
    finally:
        runner.close_local()


def test_a_torchscript_model_is_served(desk: Desk, serve: Callable[..., Server]) -> None:
    (desk.folder / "my_models.py").write_text(MY_MODELS)
    script = desk.folder / "train.py"
    script.write_text(
        "import paceline, torch, my_models\n"
        "paceline.torchscript.save(\n"
        "    torch.jit.script(my_models.model), 'my_script', signatures={'__call__': {'batchable': True}}\n"
        ")\n"
    )
    desk.run(script, "True")
    server = serve(target="my_script")
    with paceline.Client(server.url) as client:
        answer = client.predict("my_script", np.ones((1, 2), np.float32))
    assert np.asarray(answer).tolist() == [[3.0, 3.0]]


def test_service_py_answers_with_the_models_own_scores_in_batches(
    desk: Desk, serve: Callable[..., Server], tmp_path: Path
) -> None:
    _, scores = desk.run(SNIPPETS["cifar"].write_to(desk.folder), SCORES)
    SNIPPETS["service"].write_to(desk.folder)
    record = tmp_path / "decisions.jsonl"
    server = serve("--working-dir", str(desk.folder), "--record", str(record), target="service:svc")
    ready = server.event("ready")
    assert ready is not None
    assert (ready["service"], [each["name"] for each in ready["runners"]]) == ("test_service", ["my_torch_model"])
    body = json.dumps(image().tolist()).encode()
    status, answer = server.request("POST", "/predict", body, content_type="application/json")
    assert status == 200
    assert answer == pytest.approx(scores, abs=1e-5)
    wait_until(lambda: b"\n" in record.read_bytes(), 30, "a recording with its header")
    wait_until(lambda: _crowd(server, body, scores) and _largest_batch(record) > 1, 60, "requests that share a batch")
    assert server.stop() == 0


def _crowd(server: Server, body: bytes, scores: list[float]) -> bool:
    """32 callers at once; every one gets its scores."""

    async def ask() -> list[tuple[int, Any]]:
        return list(await asyncio.gather(*[post(server.port, body, "/predict") for _ in range(32)]))

    for status, answer in asyncio.run(ask()):
        assert status == 200, answer
        assert answer == pytest.approx(scores, abs=1e-5)
    return True


def _largest_batch(record: Path) -> int:
    """The most requests in one batch, of what has been written so far."""
    with record.open("rb") as lines:
        steps = [entry for _, entry in read(lines) if isinstance(entry, Step)]
    batches = [action for step in steps for action in step.actions if isinstance(action, Dispatch)]
    return max((len(batch.request_ids) for batch in batches), default=0)
