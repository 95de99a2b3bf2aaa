"""The README's own blocks, run as they stand: save, serve, curl, Python client, shell commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT, Server

pytestmark = pytest.mark.e2e

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The README's code block in `language` that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


def test_the_readme_works_as_written(tmp_path: Path, run_dir: Path) -> None:
    environ = os.environ | {"PACELINE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    (tmp_path / "train.py").write_text(block("python", "paceline.pytorch.save"))
    assert run(sys.executable, "train.py") == "saved my_model:1\n"
    assert block("sh", "paceline serve") == "paceline serve my_model:latest\n"
    server = Server(tmp_path / "home", run_dir, "my_model:latest").start()
    try:
        (tmp_path / "ask.py").write_text(
            block("python", "paceline.Client").replace("http://127.0.0.1:8000", server.url)
        )
        assert "[[" in run(sys.executable, "ask.py")

        curl = shlex.split(block("sh", "curl").replace("\\\n", " "))
        path, body = curl[2].removeprefix("http://127.0.0.1:8000"), curl[4]
        status, answer = server.request("POST", path, body.encode())
        shown = json.loads(block("json", "model_name"))
        assert status == 200
        assert list(answer) == list(shown)
        assert answer["parameters"] == shown["parameters"]
        (output,), (shown_output,) = answer["outputs"], shown["outputs"]
        assert output.pop("data") == pytest.approx(shown_output.pop("data"), rel=1e-4)
        assert output == shown_output

        make_input, *lines = block("sh", "paceline status").splitlines()
        run(sys.executable, *shlex.split(make_input)[1:])
        for line in lines:
            command = shlex.split(line)[1:]
            url = ["--url", server.url] if command[0] == "predict" else []
            place = ["--run-dir", str(run_dir)] if command[0] == "status" else []
            run(sys.executable, "-m", "paceline", *command, *url, *place)
            json.loads(run(sys.executable, "-m", "paceline", *command, *url, *place, "--json"))
    finally:
        assert server.stop() == 0
