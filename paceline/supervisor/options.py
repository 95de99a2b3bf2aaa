"""What one server is started with, and which programs its children run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from paceline.config import Config


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name)


@dataclass(frozen=True, slots=True)
class Programs:
    """The children's command lines; each gets one more argument, the descriptor of its spec. Tests put in their own."""

    worker: tuple[str, ...] = _module("paceline.runner.worker")
    broker: tuple[str, ...] = _module("paceline.runner.broker")
    api_server: tuple[str, ...] = _module("paceline.api_server.server")
    inspector: tuple[str, ...] = _module("paceline.supervisor.inspector")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`targets`: a service such as "service:svc", looked for in `folder`, or model tags such as "my_model:latest".
    `run_dir`: None = the config's, else one per port below the store's home. `trust`: whether stored versions may run
    code that this store did not save. `reload`: start anew whenever a Python file below `folder` changes."""

    targets: tuple[str, ...]
    config: Config
    run_dir: Path | None = None
    trust: bool = False
    folder: Path = Path()
    reload: bool = False
    programs: Programs = field(default_factory=Programs)

    def given_run_dir(self) -> Path | None:
        """The run directory that somebody asked for, by argument, flag, environment or file."""
        if self.run_dir is not None:
            return self.run_dir
        given = [
            e.value
            for e in self.config.entries
            if (e.section, e.name) == ("server", "run_dir") and e.origin != "default"
        ]
        return given[-1] if given and isinstance(given[-1], Path) else None
