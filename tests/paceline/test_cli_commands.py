"""The commands against a store, a fake server and a fake supervisor."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from paceline.cli import status as status_command
from paceline.cli.app import app
from paceline.cli.example_request import curl_line
from paceline.cli.input_values import read_inputs
from paceline.cli.predict import Found, find_server
from paceline.cli.serve import event_name
from paceline.cli.terminal import duration, size
from paceline.config import KEYS
from paceline.protocol import dtypes
from paceline.protocol.control import ProcessStatus, Status
from paceline.protocol.errors import ConfigError, StartError
from paceline.protocol.signature import InputSpec, MethodSpec
from paceline.store import ModelStore
from paceline.supervisor import ServeOptions, events
from tests.paceline.fake_http import FakeServer, Request, binary_output, binary_reply, echo, error


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> ModelStore:
    store = ModelStore(home)
    method = MethodSpec(
        "__call__",
        batchable=True,
        inputs=(InputSpec("x", dtypes.F32, (-1, 4)), InputSpec("mask", required=False)),
        open_inputs=False,
    )
    for _ in range(2):
        with store.create("net", framework="custom", methods={"__call__": method}, labels={"stage": "dev"}) as pending:
            pending.write("weights.bin", [b"w" * 2048])
    return store


def run(*words: str, code: int = 0, **options: Any) -> Result:
    result = CliRunner().invoke(app, list(words), **options)
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def test_config_show_names_each_value_and_its_origin(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("paceline.toml").write_text("[server]\nport = 9000\n[runner.net]\nworkers = 2\n")
    monkeypatch.setenv("PACELINE_SERVER__API_WORKERS", "3")
    rows = {row["key"]: row for row in json.loads(run("config", "show", "--json").stdout)}
    assert rows["server.port"] == {"key": "server.port", "value": 9000, "origin": "paceline.toml:2"}
    assert rows["server.api_workers"]["origin"] == "environment PACELINE_SERVER__API_WORKERS"
    assert rows["runner.net.queue_timeout_ms"]["value"] == "off"
    assert len(rows) == len(KEYS)
    line = next(line for line in run("config", "show").stdout.splitlines() if line.startswith("runner.net.workers"))
    assert line.split() == ["runner.net.workers", "2", "paceline.toml:4"]


def test_config_show_of_a_service_has_what_its_code_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ServeOptions] = []

    def code_settings(options: ServeOptions) -> dict[str, dict[str, object]]:
        asked.append(options)
        return {"net": {"workers": 2, "max_batch_size": 8}, "own": {}}

    monkeypatch.setattr("paceline.supervisor.code_settings", code_settings)
    monkeypatch.setenv("PACELINE_RUNNER__NET__WORKERS", "3")
    lines = run("config", "show", "service:svc", "--working-dir", "/some/where").stdout.splitlines()
    shown = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines}
    assert (asked[0].targets, asked[0].folder) == (("service:svc",), Path("/some/where"))
    assert shown["runner.net.max_batch_size"] == ["8", "code"]
    assert shown["runner.net.workers"] == ["3", "environment PACELINE_RUNNER__NET__WORKERS"]
    assert shown["runner.own.workers"] == ["auto", "default"]


def test_predict_prints_arrays_readably_or_as_json(home: Path) -> None:
    with FakeServer(echo) as server:
        text = run("predict", "echo", "[[1.5, 2]]", "y=[3]", "--url", server.url).stdout
        assert text.splitlines() == ["output_0  float32[1, 2]", "[[1.5 2. ]]", "output_1  int64[1]", "[3]"]
        shown = json.loads(run("predict", "echo:3", "[[1.5, 2]]", "--url", server.url, "--json").stdout)
    assert shown == {
        "model": "echo",
        "outputs": [{"name": "output_0", "dtype": "float32", "shape": [1, 2], "data": [[1.5, 2.0]]}],
    }
    assert server.requests[-1].target == "/v2/models/echo/versions/3/infer"


def test_predict_reads_files_and_writes_the_result(home: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save("in.npy", array)
    np.savez("in.npz", array, y=np.array([1, 2]))
    Path("in.json").write_text("[[0, 1, 2], [3, 4, 5]]")
    with FakeServer(echo) as server:
        for source in ("@in.npy", "x=@in.npy", "@in.json"):
            run("predict", "echo", source, "--url", server.url, "--out", "out.npy")
            np.testing.assert_array_equal(np.load("out.npy"), array)
        run("predict", "echo", "@in.npz", "--url", server.url, "--out", "out.npz")
        assert list(np.load("out.npz")) == ["output_0", "output_1"]
        message = run("predict", "echo", "@in.npz", "--url", server.url, "--out", "out.npy", code=2).stderr
        assert "give --out a .npz file" in message
        buffer = io.BytesIO()
        np.save(buffer, array)
        text = run("predict", "echo", "-", "--url", server.url, input=buffer.getvalue()).stdout
        assert text.startswith("output_0  float32[2, 3]")


def test_predict_writes_json_that_every_reader_takes(home: Path) -> None:
    outputs = [binary_output("a", np.zeros(2, np.float32)), binary_output("b", np.zeros(1, np.complex64))]
    data = np.array([np.nan, 1], np.float32).tobytes() + np.array([1 + 2j], np.complex64).tobytes()

    def script(request: Request) -> bytes:
        return binary_reply(outputs, data) if request.method == "POST" else echo(request)

    with FakeServer(script) as server:
        shown = json.loads(run("predict", "m", "1", "--url", server.url, "--json").stdout)
    assert [output["data"] for output in shown["outputs"]] == [[None, 1.0], [[1.0, 2.0]]]


def test_predict_failures_are_one_line_with_the_servers_words(home: Path) -> None:
    with FakeServer(lambda request: error(404, "model_not_found", 'no model. Did you mean "echo"?')) as server:
        result = run("predict", "ecko", "1", "--url", server.url, code=2)
    assert result.stderr == 'error: no model. Did you mean "echo"?\n'
    with FakeServer(lambda request: error(503, "no_worker", "none")) as server:
        run("predict", "echo", "x=1", "--url", server.url, code=1)
    assert "--timeout-ms is 0; expected" in run("predict", "echo", "1", "--timeout-ms", "0", code=2).stderr
    assert "expected a name" in run("predict", ":3", "1", "--url", "http://127.0.0.1:1", code=2).stderr


def test_predict_asks_the_configured_server_else_the_one_that_lives(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Path] = []
    monkeypatch.setattr("paceline.supervisor.live_run_dirs", lambda _: alive)
    with FakeServer(echo) as server:
        monkeypatch.setattr("paceline.supervisor.fetch_status", lambda _: Status("0", server.url, False, "", ()))
        alive.append(home / "run" / "p1")
        assert run("predict", "echo", "[1.5]").stdout.startswith("output_0")
        alive.append(home / "run" / "p2")
        assert "2 servers run; name one with --url" in run("predict", "echo", "1", code=2).stderr
        monkeypatch.setenv("PACELINE_SERVER__PORT", str(server.port))
        assert run("predict", "echo", "[1.5]").stdout.startswith("output_0")
    told = run("predict", "echo", "1", code=1).stderr
    assert f"asked http://127.0.0.1:{server.port} (from environment PACELINE_SERVER__PORT)" in told
    assert "error: no server at" in told


def test_without_any_server_predict_asks_the_usual_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.supervisor.live_run_dirs", lambda _: [])
    assert find_server(None) == Found("http://127.0.0.1:8000", "the default")
    Path("paceline.toml").write_text('[server]\nhost = "0.0.0.0"\ninsecure = true\nport = 9000\n')
    assert find_server(None) == Found("http://127.0.0.1:9000", "from paceline.toml:4")


def test_with_json_an_error_is_an_object_too(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda request: error(404, "model_not_found", "no model")) as server:
        result = run("predict", "ecko", "1", "--url", server.url, "--json", code=2)
    assert json.loads(result.stdout) == {"error": "no model", "code": "model_not_found"}
    assert result.stderr == "error: no model\n"
    shown = json.loads(run("models", "show", "net:9", "--json", code=2).stdout)
    assert shown["code"] == "version_not_found"
    assert "code" not in json.loads(run("models", "delete", "net", "--json", code=2).stdout)
    monkeypatch.setenv("PACELINE_SERVER__PORT", "x")
    assert "server.port" in json.loads(run("config", "show", "--json", code=2).stdout)["error"]
    event = json.loads(run("serve", "net", "--json", code=2).stdout)
    assert (event["event"], event["exit_code"]) == ("stopped", 2)
    assert "server.port" in event["reason"] == event["error"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{"], "is not JSON"),
        (["none.npy"], "Did you mean @none.npy"),
        (["x=none.npy"], "Did you mean x=@none.npy"),
        (["@none.npy"], "cannot read none.npy"),
        (["x=1", "x=2"], "given twice"),
        (["method=1"], "by its position only"),
        (["x=@two.npz"], "holds 2 arrays"),
        (["@object.npy"], "not a numpy file"),
        (["@cut.npz"], "not a numpy file"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(home: Path, words: list[str], expected: str) -> None:
    np.savez("two.npz", a=np.zeros(1), b=np.zeros(1))
    np.save("object.npy", np.array([object()]), allow_pickle=True)
    Path("cut.npz").write_bytes(Path("two.npz").read_bytes()[:50])
    with pytest.raises(ConfigError, match=expected):
        read_inputs(words)


def test_a_json_object_gives_inputs_by_name() -> None:
    assert read_inputs(['{"x": [1], "y": "a"}', "2", 'z="b=c"']) == ([2], {"x": [1], "y": "a", "z": "b=c"})


def a_process(**changes: Any) -> ProcessStatus:
    values: dict[str, Any] = {
        "kind": "worker",
        "runner": "net",
        "index": 0,
        "pid": 41,
        "state": "ready",
        "device": "cuda:0",
        "uptime_s": 4000.0,
        "restarts": 1,
        "requests": 12,
        "batches": 3,
        "rows": 12,
        "rss_bytes": 300 * 1024 * 1024,
        "last_death": "",
    }
    return ProcessStatus(**(values | changes))


def test_status_is_a_table_or_json(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def fetch(run_dir: Path) -> Status:
        asked.append(run_dir)
        supervisor = a_process(kind="supervisor", runner="", device="")
        broker = a_process(kind="broker", device="", last_death="killed by signal 9")
        return Status("0.1", "http://h:1", False, "", (supervisor, broker, a_process()))

    monkeypatch.setattr("paceline.supervisor.fetch_status", fetch)
    lines = run("status", "--run-dir", "/run/x").stdout.splitlines()
    assert lines[0] == "paceline 0.1 on http://h:1: serving"
    assert " ".join(lines[2].split()) == "PROCESS KIND PID STATE DEVICE UPTIME RESTARTS REQUESTS RSS"
    assert lines[3].split()[:2] == ["supervisor", "supervisor"]
    assert " ".join(lines[4].split()) == "net/broker broker 41 ready - 1 h 6 min 1 12 300 MiB"
    assert " ".join(lines[5].split()) == "net/0 worker 41 ready cuda:0 1 h 6 min 1 12 300 MiB"
    assert lines[-1] == "last death of net/broker: killed by signal 9"
    shown = json.loads(run("status", "--json").stdout)
    assert shown["processes"][1]["rss_bytes"] == 300 * 1024 * 1024
    assert asked == [Path("/run/x"), home / "run" / "p8000"]
    monkeypatch.setattr("paceline.supervisor.fetch_status", lambda _: Status("0.1", "http://h:1", False, "shop", ()))
    assert run("status").stdout.splitlines()[0] == "paceline 0.1 on http://h:1: service shop serving"


def test_status_finds_the_one_server_that_lives(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [home / "run" / "p9000"]
    monkeypatch.setattr("paceline.supervisor.live_run_dirs", lambda _: alive)
    assert status_command.live_run_dir(None) == alive[0]
    alive.append(home / "run" / "p8000")
    assert status_command.live_run_dir(None) == alive[1]
    alive[1] = home / "run" / "p9001"
    with pytest.raises(ConfigError, match=r"p9000, .*p9001"):
        status_command.live_run_dir(None)


def serving(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> list[ServeOptions]:
    """Put a supervisor that only tells in place of the real one; what it was started with."""
    started: list[ServeOptions] = []

    def serve(options: ServeOptions, on_event: Callable[[events.Event], None]) -> int:
        started.append(options)
        on_event(events.Starting(options.targets, "http://127.0.0.1:8000", "/run/x", 7))
        on_event(events.ChildReady("worker", "net/0", 8, "cpu", 0.5))
        on_event(events.Ready("http://127.0.0.1:8000", (events.Served("net", 3, 3, "central"),), 1.0))
        on_event(events.Stopped(code, "drained"))
        return code

    monkeypatch.setattr("paceline.supervisor.serve", serve)
    return started


def test_serve_passes_flags_on_and_tells_how_to_use_the_server(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = serving(monkeypatch)
    words = "--port 9001 --api-workers 2 --workers 3 --max-batch-size 8 --latency-budget-ms 50 --run-dir /r --trust"
    more = "--devices cuda:0,cuda:1 --dispatch central --buckets 1,8 --latency-table-ms 1:5.5,8:20"
    text = run("serve", "net:latest", *words.split(), *more.split()).stdout
    (options,) = started
    server, runner = options.config.server, options.config.runner("net", {})
    assert options.targets == ("net:latest",)
    assert options.trust
    assert (server.port, server.api_workers, server.run_dir) == (9001, 2, Path("/r"))
    assert (runner.workers, runner.max_batch_size, runner.latency_budget_ms) == (3, 8, 50.0)
    assert (runner.devices, runner.dispatch) == (("cuda:0", "cuda:1"), "central")
    assert (runner.buckets, runner.latency_table_ms) == ((1, 8), ((1, 5.5), (8, 20.0)))
    assert "ready: net (3 workers, one queue in its broker) on http://127.0.0.1:8000" in text
    assert "curl -s http://127.0.0.1:8000/v2/models/net/infer -d '" in text
    assert "Ctrl-C stops" in text
    assert "\x1b" not in text


def test_serve_json_is_one_object_per_event(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, code=1)
    lines = run("serve", "net", "--json", code=1).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [event["event"] for event in told] == ["starting", "child_ready", "ready", "stopped"]
    assert told[2].pop("time").endswith("Z")
    assert told[2] == {
        "event": "ready",
        "url": "http://127.0.0.1:8000",
        "runners": [{"name": "net", "workers": 3, "ready": 3, "dispatch": "central"}],
        "seconds": 1.0,
        "native": "",
        "service": "",
        "routes": [],
    }


def test_serve_of_a_service_shows_its_routes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ServeOptions] = []

    def serve(options: ServeOptions, on_event: Callable[[events.Event], None]) -> int:
        asked.append(options)
        on_event(events.Ready("http://127.0.0.1:8000", (), 1.0, "", "shop", ("/predict", "/docs")))
        on_event(events.Reloading(("service.py",)))
        return 0

    monkeypatch.setattr("paceline.supervisor.serve", serve)
    text = run("serve", "service:svc", "--working-dir", "/some/where", "--reload").stdout
    assert (asked[0].targets, asked[0].folder, asked[0].reload) == (("service:svc",), Path("/some/where"), True)
    assert "ready: service shop on" in text
    assert "\n  http://127.0.0.1:8000/predict\n  http://127.0.0.1:8000/docs\n" in text
    assert "service.py changed: starting anew" in text
    told = json.loads(run("serve", "service:svc", "--json").stdout.splitlines()[0])
    assert (told["service"], told["routes"]) == ("shop", ["/predict", "/docs"])


def test_production_is_the_default_and_excludes_reload(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = serving(monkeypatch)
    run("serve", "service:svc", "--production")
    assert (started[0].folder, started[0].reload) == (Path(), False)
    assert "exclude each other" in run("serve", "service:svc", "--production", "--reload", code=2).stderr


def test_serve_for_other_machines_needs_insecure_and_warns(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    started = serving(monkeypatch)
    assert "--insecure" in run("serve", "net", "--host", "0.0.0.0", code=2).stderr
    assert not started
    assert "WARNING: listening on 0.0.0.0" in run("serve", "net", "--host", "0.0.0.0", "--insecure").stderr


def test_a_start_that_fails_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(options: ServeOptions, on_event: Callable[[events.Event], None]) -> int:
        raise StartError("port 8000 is in use by nginx (pid 7)")

    monkeypatch.setattr("paceline.supervisor.serve", serve)
    assert run("serve", "net", code=1).stderr == "error: port 8000 is in use by nginx (pid 7)\n"


def test_control_c_ends_a_command_without_a_word(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(options: ServeOptions, on_event: Callable[[events.Event], None]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("paceline.supervisor.serve", serve)
    result = run("serve", "net", code=130)
    assert not result.output


@pytest.mark.parametrize("shape", [(-1, 4), (-1, 3, 32, 32)])
def test_the_curl_line_is_a_request_that_the_shell_makes(home: Path, shape: tuple[int, ...]) -> None:
    method = MethodSpec("__call__", inputs=(InputSpec("x", dtypes.F32, shape), InputSpec("it's", dtypes.BOOL, (1,))))
    store = ModelStore(home)
    with store.create("net", framework="custom", methods={"__call__": method}) as pending:
        pending.write("weights.bin", [b"w"])
    line = curl_line("http://h:1", "net:latest", home)
    assert len(line) < 700
    script = f"curl() {{ printf '%s\\n' \"$@\"; }}; {line}"
    words = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:3] == ["-s", "http://h:1/v2/models/net/infer", "-d"]
    x, flag = json.loads(words[3])["inputs"]
    size = int(np.prod(shape)) * -1
    assert (x["datatype"], x["shape"], x["data"]) == ("FP32", [1, *shape[1:]], [0.0] * size)
    assert (flag["name"], flag["data"]) == ("it's", [False])


def test_the_curl_line_of_an_unknown_signature_asks_for_the_metadata(home: Path) -> None:
    store = ModelStore(home)
    with store.create("net", framework="custom", methods={"__call__": MethodSpec("__call__")}) as pending:
        pending.write("weights.bin", [b"w"])
    assert curl_line("http://h:1", "net", home) == "curl -s http://h:1/v2/models/net"
    assert curl_line("http://h:1", "none", home) == "curl -s http://h:1/v2"


def test_no_colour_without_a_terminal_or_with_no_color(store: ModelStore) -> None:
    show = "from paceline.cli import terminal; import sys; sys.stdout.isatty = lambda: True; "
    show += "print(repr(terminal.styled('x', 'green bold')))"

    def shown(**environ: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", show],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **environ},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    assert shown(TERM="xterm") == r"'\x1b[32m\x1b[1mx\x1b[0m'"
    assert shown(TERM="xterm", NO_COLOR="1") == shown(TERM="dumb") == "'x'"


def test_names_sizes_and_times_are_readable() -> None:
    assert event_name(events.GivenUp("worker", "net/0", "x")) == "given_up"
    assert [size(n) for n in (0, 1023, 1536, 10 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "10 MiB",
        "3.0 TiB",
    ]
    assert [duration(s) for s in (0.9, 61, 3700, 90_000)] == ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]
