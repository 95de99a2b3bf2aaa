"""A folder and a store for each test: where its reader works, and servers that never outlive their test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import run_dir, serve
from tests.e2e.harness import ROOT

__all__ = ["run_dir", "serve"]

_STAND_INS = Path(__file__).with_name("stand_ins")


@dataclass(frozen=True, slots=True)
class Desk:
    """The folder where the reader saves the guide's files and runs them."""

    folder: Path
    home: Path

    def run(self, script: Path, ask: str) -> tuple[list[str], Any]:
        """Run `python script`, then evaluate `ask` where it ended; what the script printed, and the JSON answer.

        The script is run as it stands and ends as the reader's would: the question comes after its last line.
        """
        done = subprocess.run(
            [sys.executable, "-i", script.name],
            cwd=self.folder,
            env=os.environ | {"PACELINE_HOME": str(self.home), "PYTHONPATH": f"{ROOT}{os.pathsep}{_STAND_INS}"},
            input=f"import json; print(json.dumps({ask}))\n",
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert "Traceback" not in done.stderr, done.stderr
        *printed, answer = done.stdout.splitlines()
        return printed, json.loads(answer)


@pytest.fixture
def store_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store; it is this process's store too."""
    home = tmp_path / "home"
    monkeypatch.setenv("PACELINE_HOME", str(home))
    return home


@pytest.fixture
def desk(store_home: Path, tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder, store_home)
