"""The blocks of docs/models.md about the other forms run, from top to bottom, and print what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text()


@pytest.mark.parametrize(
    ("section", "needs"), [("Programs of torch.export", ()), ("ONNX", ("onnxruntime", "onnxscript"))]
)
def test_the_section_runs(
    section: str,
    needs: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in needs:
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    text = PAGE.partition(f"### {section}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/models.md", "exec"), names)
    said = re.findall(r"print\(.*\)  # (.*)", text)
    assert len(said) >= 2
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in said if line not in printed] == []
