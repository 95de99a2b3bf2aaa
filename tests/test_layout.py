"""The layout: four rooms at the root, links, and a wheel that holds everything once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("protocol", "store", "runner", "api_server")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built without a network from a copy: a build leaves traces where it runs."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=skipped)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "-w",
            folder,
            folder / "source",
        ],
        check=True,
        cwd=folder,
    )
    return next(folder.glob("paceline-*.whl"))


def sources() -> set[str]:
    """Every module and data file of the package, by its path inside the wheel."""
    found = set()
    for folder, prefix in [(ROOT / "paceline", "paceline"), *[(ROOT / room, f"paceline/{room}") for room in ROOMS]]:
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            linked = folder.name == "paceline" and inside.parts[0] in ROOMS
            if (
                path.suffix in (".py", ".typed", ".html", ".css", ".js")
                and not linked
                and "__pycache__" not in path.parts
            ):
                found.add(f"{prefix}/{inside.as_posix()}")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_each_link_points_to_its_room(room: str) -> None:
    link = ROOT / "paceline" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room
    assert link.resolve() == ROOT / room


def test_pyproject_lists_every_package() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        Path(source).parent.as_posix().replace("/", ".") for source in sources() if source.endswith("__init__.py")
    }
    assert listed == present


def test_the_wheel_holds_every_module_and_data_file_once(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    assert set(names) == sources()


def test_the_installed_wheel_imports_from_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies come from the environment that runs the tests, the package must not.
    own_site = next(path for path in sys.path if path.endswith("site-packages"))
    empty = tmp_path / "empty"
    empty.mkdir()
    modules = [
        name[:-3].replace("/", ".").removesuffix(".__init__") for name in sorted(sources()) if name.endswith(".py")
    ]
    modules = [name for name in modules if not name.endswith("__main__")]
    code = (
        "import sys, importlib\n"
        f"sys.path.append({own_site!r})\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"import paceline; assert paceline.__file__.startswith({site!r}), paceline.__file__\n"
    )
    subprocess.run([python, "-c", code], check=True, cwd=empty)
