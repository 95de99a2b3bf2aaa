"""docs/runners.md is one file that runs, and prints what it says."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "runners.md").read_text()


def test_the_runners_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runners_page.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)))
    importlib.import_module("runners_page")
    sys.modules.pop("runners_page")
    said = re.findall(r"print\(.*\)  # (.*)", TEXT)
    assert len(said) == 6
    assert capsys.readouterr().out.splitlines()[-6:] == said
