"""A module and a variable by text: found, imported in its folder, and told about where it is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.protocol.errors import StartError
from paceline.protocol.target import Target, has_module, import_target, parse_target


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of user code; what an import changes in this process is changed back."""
    cwd, path, modules = os.getcwd(), list(sys.path), set(sys.modules)
    yield tmp_path
    os.chdir(cwd)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refusal(target: str, folder: Path) -> str:
    with pytest.raises(StartError) as caught:
        import_it(target, folder)
    return str(caught.value)


def import_it(target: str, folder: Path) -> object:
    parsed = parse_target(target)
    assert parsed is not None
    return import_target(parsed, str(folder))


@pytest.mark.parametrize("text", ["net", "net:1", "net:", "a b:c", "./service.py:svc", "net@prod", "a..b:c", "a:b.c"])
def test_other_forms_are_no_targets(text: str) -> None:
    assert parse_target(text) is None


def test_object_is_found_in_a_module_of_the_folder_or_deep_in_a_package(folder: Path) -> None:
    (folder / "target_one.py").write_text("import os\nthing = os.getcwd()")
    (folder / "target_pkg").mkdir()
    (folder / "target_pkg" / "__init__.py").touch()
    (folder / "target_pkg" / "deep.py").write_text("import target_one\nthing = target_one.thing")
    assert import_it("target_one:thing", folder) == str(folder)
    assert import_it("target_pkg.deep:thing", folder) == str(folder)
    assert sys.path[0] == str(folder)
    assert has_module("target_pkg.deep", str(folder))
    assert not has_module("target_two", str(folder))
    (folder / "target_data").mkdir()
    assert not has_module("target_data", str(folder))
    assert has_module("target_data.deep", str(folder))
    assert str(Target("a.b", "c")) == "a.b:c"


def test_missing_folder_module_and_attribute_are_named_with_the_nearest(folder: Path) -> None:
    (folder / "target_service.py").write_text("svc = 1")
    assert "cannot enter the service's folder" in refusal("target_service:svc", folder / "none")
    text = refusal("target_servce:svc", folder)
    assert f"there is no target_servce.py in {folder}. Did you mean" in text
    assert '"target_service"?' in text
    assert "has no 'svcc'. Did you mean \"svc\"?" in refusal("target_service:svcc", folder)


def test_error_in_user_code_keeps_their_lines_and_no_other(folder: Path) -> None:
    (folder / "target_deep.py").write_text("import json\n\ndef read(text):\n    return json.loads(text)\n")
    (folder / "target_bad.py").write_text("import target_deep\n\ntarget_deep.read('{')\n")
    text = refusal("target_bad:svc", folder)
    assert text.startswith("target_bad cannot be imported: \n\n  Traceback (most recent call last):\n")
    assert 'target_bad.py", line 3' in text
    assert 'target_deep.py", line 4' in text
    assert text.count('File "') == 2
    assert "json.decoder.JSONDecodeError: Expecting property name" in text
    assert '-c "import target_bad" fails in the same way' in text


def test_chained_errors_are_trimmed_too(folder: Path) -> None:
    (folder / "target_chain.py").write_text(
        "import json\ntry:\n    json.loads('{')\n"
        "except ValueError as error:\n    raise RuntimeError('why') from error\n"
    )
    text = refusal("target_chain:svc", folder)
    assert text.count('File "') == 2
    assert "direct cause" in text
    assert "RuntimeError: why" in text


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import no_such_library_here", "Install 'no_such_library_here' where paceline runs"),
        ("import sys\nsys.exit('enough')", "SystemExit: enough"),
        (
            "from paceline.protocol.errors import ModelNotFound\nraise ModelNotFound('no model \"nett\"')",
            'cannot be imported: target_broken.py:2: no model "nett"',
        ),
    ],
)
def test_whatever_user_code_raises_is_told(folder: Path, code: str, told: str) -> None:
    (folder / "target_broken.py").write_text(code)
    text = refusal("target_broken:svc", folder)
    assert told in text
    assert "importlib" not in text
