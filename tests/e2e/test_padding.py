"""The example of docs/models.md, run as it stands: requests of different length in one batch are answered as alone."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import paceline
from paceline.protocol.errors import InvalidInput, InvalidParameter
from tests.e2e.harness import ROOT, Server

pytestmark = pytest.mark.e2e

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), re.DOTALL)
LENGTHS = (5, 80, 300)


def block(containing: str) -> str:
    (found,) = [text for text in BLOCKS if containing in text]
    return str(found)


def run(folder: Path, program: str, **environ: str) -> str:
    (folder / "program.py").write_text(program)
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    done = subprocess.run([sys.executable, "program.py"], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ids(length: int, seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 30_000, (1, length))


async def ask(url: str, in_parallel: bool) -> list[npt.NDArray[np.float32]]:
    """The vectors of eight requests of each length."""
    requests = [ids(length, seed) for seed in range(8) for length in LENGTHS]
    async with paceline.AsyncClient(url) as client:
        calls = [client.predict("encoder", request) for request in requests]
        answers = await asyncio.gather(*calls) if in_parallel else [await call for call in calls]
    return [np.asarray(answer) for answer in answers]


def test_requests_of_different_length_are_answered_as_alone(tmp_path: Path, run_dir: Path) -> None:
    home = tmp_path / "home"
    assert run(tmp_path, block("class Encoder"), PACELINE_HOME=str(home)) == "encoder:1\n"
    (tmp_path / "paceline.toml").write_text("[runner.encoder]\nbuckets = [1, 4, 16]\n")
    server = Server(home, run_dir, "encoder:latest", "--config", str(tmp_path / "paceline.toml")).start()
    try:
        asking = block("for length in (5, 80, 300)").replace("http://127.0.0.1:8000", server.url)
        assert run(tmp_path, asking) == "(1, 64)\n" * 3
        alone = asyncio.run(ask(server.url, in_parallel=False))
        together = asyncio.run(ask(server.url, in_parallel=True))
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        with paceline.Client(server.url) as client:
            with pytest.raises(InvalidInput, match="length 513 along dim 1, over the limit of 512"):
                client.predict("encoder", ids(513, 0))
            with pytest.raises(InvalidParameter, match="'attention_mask' is the mask, which the server makes"):
                client.predict("encoder", input_ids=ids(5, 0), attention_mask=np.ones((1, 5), bool))
    finally:
        assert server.stop() == 0
    server.check_unharmed()
