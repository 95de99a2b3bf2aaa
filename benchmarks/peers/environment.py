"""BentoML's own virtual environment: in the user's cache, pinned, made once and marked when it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PINS = Path(__file__).with_name("bentoml_requirements.txt")
INSTALL_S = 1800.0


class Unavailable(Exception):
    """BentoML cannot be installed here, and why."""


def environment_folder(pins: bytes, cache: Path) -> Path:
    """Where the environment of these pins is; other pins, another folder."""
    return cache / f"paceline-benchmarks/bentoml-{hashlib.sha256(pins).hexdigest()[:12]}"


def ensure_environment() -> Path:
    """The environment's Python, installing it first if need be (some gigabytes). Raises Unavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = environment_folder(PINS.read_bytes(), cache)
    python, whole = folder / "bin/python", folder / "whole"
    if whole.exists():
        return python
    if folder.exists():
        shutil.rmtree(folder)  # an installation that was cut short
    print(f"installing BentoML into {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    _install(python)
    whole.touch()
    return python


def _install(python: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    try:
        done = subprocess.run([*command, "-r", str(PINS)], capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired as expired:
        raise Unavailable(f"pip did not end within {INSTALL_S:g} s") from expired
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable((errors or done.stderr.splitlines() or ["pip failed without a word"])[-1])
