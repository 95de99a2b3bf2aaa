"""The documents say what the code does: every setting, every error, every local link."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import paceline
from paceline.config.keys import KEYS, Key
from paceline.protocol.errors import ERRORS_BY_CODE

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("protocol/*.md"), *ROOT.glob("examples/**/*.md")]
)


def settings_row(key: Key) -> str:
    default = key.plain(key.default)
    return f"| `{key.name}` | {str(default).lower() if isinstance(default, bool) else default} | {key.doc} |"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.title())
def test_the_configuration_page_has_every_setting_as_the_code_has_it(key: Key) -> None:
    assert settings_row(key) in (ROOT / "docs" / "configuration.md").read_text().splitlines()


def test_the_configuration_page_has_no_other_setting() -> None:
    rows = [line for line in (ROOT / "docs" / "configuration.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == len(KEYS)


def test_the_http_page_has_every_error_with_its_status() -> None:
    listed = {}
    errors, _, _ = (ROOT / "docs" / "http.md").read_text().partition("| HTTP status |")
    for line in errors.splitlines():
        match = re.match(r"\| (\d{3}) \| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", line)
        if match:
            listed.update(dict.fromkeys(re.findall(r"[a-z_]+", match[2]), int(match[1])))
    unlisted = {"unauthorized", "forbidden"}  # nothing authenticates yet
    assert listed == {code: cls.http_status for code, cls in ERRORS_BY_CODE.items() if code not in unlisted}


def test_the_http_page_has_every_refusal_of_http_itself() -> None:
    text = (ROOT / "docs" / "http.md").read_text().partition("| HTTP status |")[2]
    listed = set(re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", text, re.MULTILINE))
    raised = set()
    for file in (ROOT / "api_server").glob("*.py"):
        raised |= set(re.findall(r"HttpRefusal\(\s*(\d{3}),\s*\"([a-z_]+)\"", file.read_text()))
    assert listed == raised - {("500", "internal")}  # that one is in the first table


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_local_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text()):
        assert (document.parent / link).exists(), f"{document}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_python_block_is_python_and_uses_names_that_exist(document: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "paceline":
                assert hasattr(paceline, node.attr), f"{document}: paceline.{node.attr}"


def test_the_example_of_driving_a_dispatcher_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (block, printed) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)[0]
    exec(compile(block, "ARCHITECTURE.md", "exec"), {})
    assert capsys.readouterr().out == printed


def test_the_store_page_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    text = (ROOT / "docs" / "store.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/store.md", "exec"), names)
    said = [match[1] for match in re.finditer(r"print\(.*\)  # (.*)", text)]
    assert len(said) > 10
    printed = capsys.readouterr().out.splitlines()
    for line in said:  # a remark may follow the value, behind a colon
        assert any(each == line or line.startswith(f"{each}: ") for each in printed), line
