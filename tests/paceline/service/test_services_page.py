"""docs/services.md is one file that runs, and its requests are answered as it says."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import paceline
from paceline.service import Service
from tests.paceline.service.asking import ask
from tests.paceline.service.test_media import picture
from tests.paceline.service.test_runners import DoublingPort

TEXT = (Path(__file__).parents[3] / "docs" / "services.md").read_text()
REQUEST = re.compile(r"^curl localhost:8000(/\S+) --json ('.*?')\s+# (.*)$", re.MULTILINE)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's Python leaves behind."""
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path))
    paceline.pytorch.save(torch.nn.Identity(), "my_torch_model", signatures={"__call__": {"batchable": True}})
    names: dict[str, Any] = {"__name__": "service"}
    code = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
    exec(compile(code, "docs/services.md", "exec", dont_inherit=True), names)
    return names


def test_the_page_runs_and_its_requests_get_the_answers_that_it_shows(page: dict[str, Any]) -> None:
    service: Service = page["svc"]
    service.bind(DoublingPort())
    asyncio.run(service.startup())
    requests = REQUEST.findall(TEXT)
    assert len(requests) == len(re.findall("^curl .*--json", TEXT, re.MULTILINE))
    for path, body, expected in requests:
        response = ask(service, path, content=shlex.split(body)[0], headers={"content-type": "application/json"})
        shown = response.text if response.is_success else f"{response.status_code}: {response.json()['error']}"
        assert shown == expected, path


def test_its_forms_images_and_streams_work(page: dict[str, Any]) -> None:
    service: Service = page["svc"]
    files = {"image": ("cat.png", picture(), "image/png"), "labels": (None, '["cat", "dog"]')}
    assert ask(service, "/classify", files=files).json() == {"size": [4, 3], "best": "a photo of cat"}
    files = {"image": ("cat.png", picture(), "image/png"), "options": (None, '{"threshold": 0.25}')}
    assert ask(service, "/detect", files=files).json() == {"threshold": 0.25, "boxes": []}
    image = {"content-type": "image/png", "origin": "https://example.org"}
    response = ask(service, "/v1/size", content=picture(), headers=image)
    assert (response.json(), response.headers["access-control-allow-origin"]) == ([4, 3], "https://example.org")
    stream = ask(service, "/tokens", content=b"a b")
    assert (stream.text, stream.headers["content-type"]) == (
        "data: a\n\ndata: b\n\n",
        "text/event-stream; charset=utf-8",
    )


def test_its_service_has_a_plan_and_a_document(page: dict[str, Any]) -> None:
    service: Service = page["svc"]
    assert {"/predict", "/v1/size", "/web", "/docs"} <= set(service.plan().routes)
    assert [runner.name for runner in service.plan().runners] == ["my_torch_model"]
