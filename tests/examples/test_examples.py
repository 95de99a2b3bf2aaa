"""Each example, as its README says: its two commands, then each curl line, whose answer has to be the one shown.

Examples are copied first, so what their training writes does not land in the repository, and train two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from paceline.testing import TestServer, paceline_server

__all__ = ["paceline_server"]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/service.py"))
COMMANDS = "python train.py\npaceline serve service:svc\n"
NEEDS = {"image_upload": "PIL"}
NOT_WHERE_IT_IS_SERVED = {"external_modules": ["my_models.py", "layers.py"]}

# Stands in for torchvision and its download: as much of it as the CIFAR example uses.
TORCHVISION = {
    "__init__.py": "",
    "transforms.py": """
import torch
ToTensor = lambda: lambda image: torch.tensor(image).permute(2, 0, 1) / 255
Normalize = lambda mean, std: lambda image: (image - mean[0]) / std[0]
def Compose(steps):
    def transform(image):
        for step in steps:
            image = step(image)
        return image
    return transform
""",
    "datasets.py": """
import numpy as np
class CIFAR10:
    def __init__(self, root, train, download, transform):
        assert train and download
        self.transform = transform
    def __len__(self):
        return 40
    def __getitem__(self, number):
        if number >= len(self):
            raise IndexError(number)
        return self.transform(np.full((32, 32, 3), 6 * number, np.uint8)), number % 10
""",
}

Trained = subprocess.CompletedProcess[str]


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, text) of each code block in an example's README."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (EXAMPLES / name / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def shown(name: str) -> list[tuple[str, Any]]:
    """(curl line, its answer) of each that an example's README shows."""
    (_, *asked) = blocks(name)
    assert [language for language, _ in asked] == ["sh", "json"] * (len(asked) // 2)
    return [(line, json.loads(answer)) for (_, line), (_, answer) in zip(asked[::2], asked[1::2], strict=True)]


def ask(line: str, url: str, folder: Path) -> Any:
    """What curl would print for a line like the READMEs', read as JSON."""
    program, *words = shlex.split(line.replace("\\\n", " "))
    assert program == "curl"
    parser = argparse.ArgumentParser()
    parser.add_argument("at")
    for option in ("--json", "--data-binary", "-d", "-F", "-H"):
        parser.add_argument(option)
    told = parser.parse_args(words)
    at = told.at.replace("localhost:8000", url)
    if told.F:
        field, _, file = told.F.partition("=@")
        form = {field: (file, (folder / file).read_bytes(), "image/png")}
        return httpx.post(at, files=form, timeout=30).json()
    body = told.json or told.data_binary or told.d
    content = (folder / body[1:]).read_bytes() if body.startswith("@") else body.encode()
    header = told.H or "content-type: application/json"
    return httpx.post(at, content=content, headers=dict([header.split(": ")]), timeout=30).json()


def check_alike(answer: Any, expected: Any) -> None:
    """Training ends a little differently on each kind of machine, so numbers may; a request's id is its own."""
    if isinstance(expected, dict):
        assert list(answer) == list(expected), answer
        for key in expected.keys() - {"request_id"}:
            check_alike(answer[key], expected[key])
    else:
        assert answer == (expected if isinstance(expected, str) else pytest.approx(expected, rel=0.1, abs=0.1))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, with a store beside them."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("data", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def trained(workshop: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Trained]]]:
    """`python train.py` of each example that this run asks for, begun in their order."""
    selected = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(train, workshop, name) for name in NAMES if name in selected and is_runnable(name)}


def train(workshop: Path, name: str, *flags: str, extra_path: Path = ROOT) -> Trained:
    """`python train.py` in an example's folder, with the store `home`."""
    environ = os.environ | {
        "PACELINE_HOME": str(workshop / "home"),
        "PYTHONPATH": os.pathsep.join([str(extra_path), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "train.py", *flags]
    return subprocess.run(
        command, cwd=workshop / "examples" / name, env=environ, capture_output=True, text=True, timeout=100
    )


def is_runnable(name: str) -> bool:
    return name not in NEEDS or find_spec(NEEDS[name]) is not None


@pytest.mark.e2e
@pytest.mark.parametrize("name", NAMES)
def test_example_does_what_its_readme_shows(
    name: str,
    workshop: Path,
    trained: dict[str, Future[Trained]],
    paceline_server: Callable[..., TestServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not is_runnable(name):
        pytest.skip(f"needs {NEEDS[name]}")
    done = trained[name].result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saved " in done.stdout

    folder = workshop / "examples" / name
    for file in NOT_WHERE_IT_IS_SERVED.get(name, []):
        (folder / file).unlink()
    monkeypatch.setenv("PACELINE_HOME", str(workshop / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = paceline_server("service:svc", working_dir=folder)
    for line, expected in shown(name):
        check_alike(ask(line, server.url, folder), expected)


@pytest.mark.e2e
def test_cifar_learns_from_the_real_images_where_torchvision_is(tmp_path: Path) -> None:
    (tmp_path / "path" / "torchvision").mkdir(parents=True)
    for file, text in TORCHVISION.items():
        (tmp_path / "path" / "torchvision" / file).write_text(text)
    shutil.copytree(EXAMPLES / "cifar", tmp_path / "examples" / "cifar", ignore=shutil.ignore_patterns("data"))
    done = train(tmp_path, "cifar", "--cifar10", "--epochs", "1", extra_path=tmp_path / "path")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "saved cifar_net:1" in done.stdout
    image = json.loads((tmp_path / "examples" / "cifar" / "image.json").read_text())
    assert image == [[[-1.0] * 32] * 32] * 3  # the first of them, black


@pytest.mark.parametrize("name", NAMES)
def test_readme_begins_with_the_two_commands_and_asks_something(name: str) -> None:
    assert blocks(name)[0] == ("sh", COMMANDS)
    assert shown(name)


def test_every_example_is_in_the_list() -> None:
    listed = re.findall(r"^\| \[(\w+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
