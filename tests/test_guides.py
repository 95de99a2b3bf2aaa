"""The guides on batching, performance and GPUs run from top to bottom, and print what they say."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paceline.config.keys import KEYS

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = ("batching", "performance", "gpu")


@pytest.fixture
def eager() -> Iterator[None]:
    """torch.compile takes a minute and a C++ compiler; what is compiled here runs as it is."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_runs_from_top_to_bottom(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if guide == "performance":
        for needed in ("onnxruntime", "onnxscript"):
            pytest.importorskip(needed, reason=f"{needed} is not installed")
    text = (DOCS / f"{guide}.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{guide}_guide.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)))
    importlib.import_module(f"{guide}_guide")
    sys.modules.pop(f"{guide}_guide")
    said = re.findall(r"print\(.*\)  # (.*)", text)
    printed = capsys.readouterr().out.splitlines()
    assert len(said) >= 2
    for line in said:  # a remark may follow the value, behind a colon
        assert any(each == line or line.startswith(f"{each}: ") for each in printed), line


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_sets_only_what_there_is_to_set(guide: str) -> None:
    for block in re.findall(r"```toml\n(.*?)```", (DOCS / f"{guide}.md").read_text(), re.DOTALL):
        for section, tables in tomllib.loads(block).items():
            keys = {key.name: key for key in KEYS if key.section == section}
            for settings in tables.values() if section == "runner" else (tables,):
                for name, value in settings.items():
                    keys[name].read(value, "the guide")
