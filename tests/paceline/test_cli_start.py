"""The command starts fast, loads nothing heavy, and ends with the right code and one clear line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import paceline
from paceline.cli.edge import exit_code
from paceline.client import ServerUnreachable
from paceline.config import KEYS
from paceline.protocol import errors

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "numpy",
    "zmq",
    "uvicorn",
    "starlette",
    "msgpack",
    "asyncio",
    "paceline.client",
    "paceline.supervisor",
)


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]  # options are passed on
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, **options
    )


def loaded_after(code: str) -> set[str]:
    done = run("-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)")
    return set(done.stderr.split())


def test_import_paceline_loads_neither_torch_nor_numpy() -> None:
    assert not loaded_after("import paceline").intersection(HEAVY)


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    loaded = loaded_after(
        f"sys.argv[1:] = {words}\nfrom paceline.cli import main\ntry:\n    main()\nexcept SystemExit: pass"
    )
    assert "typer" in loaded
    assert not loaded.intersection(HEAVY)


def test_help_takes_few_times_as_long_as_python_itself() -> None:
    def best_s(*words: str) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            run(*words)
            times.append(time.perf_counter() - started)
        return min(times)

    # 0.1 s against 0.02 s on an idle machine; a load of any size slows both.
    assert best_s("-m", "paceline", "--help") < 0.1 + 15 * best_s("-c", "pass")


def test_help_shows_the_defaults_of_the_settings() -> None:
    text = " ".join(
        run("-m", "paceline", "serve", "--help", env={"COLUMNS": "200", "PYTHONPATH": str(ROOT)}).stdout.split()
    )
    defaults = {key.flag: key.default for key in KEYS}
    for flag in ("--host", "--port", "--api-workers", "--max-batch-size", "--latency-budget-ms"):
        default = defaults[flag]
        shown = f"{default:g}" if isinstance(default, float) else default
        assert f"[default: ({shown})]" in text


def test_every_public_name_is_there_and_no_other() -> None:
    for name in paceline.__all__:
        assert getattr(paceline, name) is not None
    assert set(paceline.__all__) <= set(dir(paceline))
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        paceline.Cleint  # noqa: B018  # it is the attribute access that is tested


def test_every_error_class_is_public() -> None:
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PacelineError)
    }
    assert tree <= set(paceline.__all__)


def test_module_and_function_are_one_command() -> None:
    done = run("-m", "paceline", "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("paceline ")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 2),
        (["serve"], 2),
        (["serve", "my_model", "--port", "70000"], 2),
        (["serve", "my_model", "--host", "0.0.0.0"], 2),
        (["models", "show", "no such"], 2),
        (["models", "show", "nope:1"], 2),
        (["config", "show", "--config", "/no/such/file"], 2),
        (["predict", "m", "[1,"], 2),
        (["predict", "m", "1", "--url", "http://127.0.0.1:9"], 1),
        (["predict", "m", "1", "--url", "ipc:///no/such"], 1),
        (["status", "--run-dir", "/no/such"], 1),
    ],
)
def test_errors_are_one_line_on_stderr_and_a_code(words: list[str], code: int, tmp_path: Path) -> None:
    environ = {"PACELINE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = run("-m", "paceline", *words, env=environ)
    assert done.returncode == code, done.stderr
    assert not done.stdout
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith(("error: ", "Usage: "))
    assert done.stderr.startswith("Usage: ") or done.stderr.count("\n") == 1


def test_exit_codes_tell_who_can_mend_it() -> None:
    usage = [errors.ConfigError("x"), errors.InvalidInput("x"), errors.ModelNotFound("x"), errors.TooLarge("x")]
    failed = [errors.QueueFull("x"), errors.Internal("x"), errors.DeadlineExceeded("x"), errors.StartError("x")]
    assert {exit_code(error) for error in usage} == {2}
    assert {exit_code(error) for error in [*failed, ServerUnreachable("x"), errors.StoreError("x")]} == {1}


def test_a_reader_that_goes_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m paceline config show --json | head -c 1", shell=True, cwd=ROOT, capture_output=True
    )
    assert done.stdout == b"["
    assert not done.stderr
