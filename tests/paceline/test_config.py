"""Settings: layers, origins, refusals with a suggestion."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.config import KEYS, Config, RunnerSettings, load_config
from paceline.config.settings import is_loopback
from paceline.protocol import limits
from paceline.protocol.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    path = folder / "paceline.toml"
    path.write_text(text)
    return path


def refusal(flags: dict[str, object], file: Path | None = None, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(flags, file, environ or {})
    return str(caught.value)


def origin_of(config: Config, key: str) -> tuple[object, str]:
    row = next(row for row in config.origins() if row.key == key)
    return row.value, row.origin


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_anything_given_every_value_is_a_default() -> None:
    config = load_config({}, None, {})
    assert (config.server.host, config.server.port, config.server.api_workers) == ("127.0.0.1", 8000, 1)
    assert config.server.body_bytes_max == limits.BODY_BYTES_MAX
    assert config.store_home == Path("~/.paceline").expanduser()
    assert {row.origin for row in config.origins()} == {"default"}
    assert config.runner("net", {}) == RunnerSettings(
        workers=None,
        devices=None,
        threads=None,
        max_batch_size=limits.BATCH_ROWS_DEFAULT,
        latency_budget_ms=limits.LATENCY_BUDGET_MS,
        queue_timeout_ms=None,
        execution_timeout_ms=None,
        dispatch=None,
        buckets=None,
        latency_table_ms=None,
    )


def test_each_layer_overrides_the_one_below_it(tmp_path: Path) -> None:
    file = written(tmp_path, "[runner.net]\nmax_batch_size = 16\nworkers = 3\n")
    environ = {"PACELINE_RUNNER__NET__WORKERS": "4", "PACELINE_RUNNER__NET__THREADS": "2"}
    code = {"latency_budget_ms": 50, "max_batch_size": 8, "threads": 7}

    assert load_config({}, None, {}).runner("net", code).latency_budget_ms == 50.0
    settings = load_config({"workers": 5}, file, environ).runner("net", code)

    assert (settings.latency_budget_ms, settings.max_batch_size, settings.threads, settings.workers) == (50.0, 16, 2, 5)


def test_every_value_knows_its_origin(tmp_path: Path) -> None:
    written(tmp_path, '# a comment with port = 1\n[server]\nport = 9000\n\n[runner."my.net"]\nworkers = 2\n')
    config = load_config({"host": "localhost"}, None, {"PACELINE_SERVER__API_WORKERS": "2"})
    assert origin_of(config, "server.port") == (9000, "paceline.toml:3")
    assert origin_of(config, "runner.my.net.workers") == (2, "paceline.toml:6")
    assert origin_of(config, "server.host") == ("localhost", "flag --host")
    assert origin_of(config, "server.api_workers") == (2, "environment PACELINE_SERVER__API_WORKERS")
    assert origin_of(config, "server.rows_max") == (limits.REQUEST_ROWS_MAX, "default")
    said = {row.key: row for row in config.origins({"my.net": {"threads": 3}})}
    assert said["runner.my.net.threads"] == ("runner.my.net.threads", 3, "code")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("server.port = 9000", 1),
        ("[server]\n\n  port=9000", 3),
        ('["server"]\n"port" = 9000', 2),
        ("server = { port = 9000 }", 1),
        ("[runner.net]\ndevices = [\n 'cpu',\n]\n[server] # here\nport = 9_000", 6),
    ],
)
def test_line_numbers_follow_every_way_of_writing_a_key(tmp_path: Path, text: str, line: int) -> None:
    file = written(tmp_path, text)
    assert origin_of(load_config({}, file, {}), "server.port") == (9000, f"{file}:{line}")


def test_flags_of_runners_go_to_every_runner_and_none_means_not_given() -> None:
    config = load_config({"max_batch_size": 4, "workers": None}, None, {"PACELINE_RUNNER__A__WORKERS": "2"})
    assert (config.runner("a", {}).max_batch_size, config.runner("b", {}).max_batch_size) == (4, 4)
    assert (config.runner("a", {}).workers, config.runner("b", {}).workers) == (2, None)


@pytest.mark.parametrize("name", ["my-net.v2", "my_net_v2", "My-Net_V2"])
def test_environment_spells_runner_names_with_underscores_and_without_case(name: str) -> None:
    config = load_config({}, None, {"PACELINE_RUNNER__MY_NET_V2__WORKERS": "3"})
    assert config.runner(name, {}).workers == 3
    config.check_runners([name])


def test_runner_names_in_a_file_are_exact(tmp_path: Path) -> None:
    config = load_config({}, written(tmp_path, "[runner.my_net]\nworkers = 2\n"), {})
    assert config.runner("my-net", {}).workers is None
    with pytest.raises(ConfigError, match=r'unknown runner "my_net" \(.*toml:2\)\. Did you mean "my-net"\?'):
        config.check_runners(["my-net"])


def test_unknown_runner_in_the_environment_is_an_error_with_a_suggestion() -> None:
    config = load_config({}, None, {"PACELINE_RUNNER__NTE__WORKERS": "2"})
    with pytest.raises(ConfigError, match=r"NTE__WORKERS.*This server runs net, other"):
        config.check_runners(["net", "other"])


def test_sizes_take_a_unit_and_off_turns_a_limit_off(tmp_path: Path) -> None:
    file = written(tmp_path, '[server]\nbody_bytes_max = "2MiB"\n[runner.net]\nqueue_timeout_ms = "off"\n')
    config = load_config({}, file, {})
    assert config.server.body_bytes_max == 2 * 1024 * 1024
    assert config.runner("net", {"queue_timeout_ms": 100}).queue_timeout_ms is None
    assert origin_of(config, "runner.net.queue_timeout_ms") == ("off", f"{file}:4")
    assert load_config({}, None, {"PACELINE_SERVER__BODY_BYTES_MAX": "64kB"}).server.body_bytes_max == 64_000


def test_relative_folders_in_a_file_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = written(tmp_path / "etc", '[store]\nhome = "models"\n[server]\nrun_dir = "/run/pace"\n')
    config = load_config({}, file, {})
    assert config.store_home == tmp_path / "etc" / "models"
    assert config.server.run_dir == Path("/run/pace")


def test_store_home_comes_from_paceline_home_below_its_longer_name() -> None:
    environ = {"PACELINE_HOME": "/srv/a"}
    assert load_config({}, None, environ).store_home == Path("/srv/a")
    assert load_config({}, None, {**environ, "PACELINE_STORE__HOME": "/srv/b"}).store_home == Path("/srv/b")


def test_file_is_found_by_flag_then_variable_then_working_directory(tmp_path: Path) -> None:
    written(tmp_path, "[server]\nport = 1\n")
    other, third = tmp_path / "other.toml", tmp_path / "third.toml"
    other.write_text("[server]\nport = 2\n")
    third.write_text("[server]\nport = 3\n")
    environ = {"PACELINE_CONFIG": str(other)}
    assert load_config({}, None, {}).server.port == 1
    assert load_config({}, None, environ).server.port == 2
    assert load_config({}, third, environ).server.port == 3
    assert "cannot read" in refusal({}, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[serve]\nport = 1", 'unknown section "serve" (TOML:1). Did you mean "server"?'),
        ("[server]\nprot = 1", 'unknown key "prot" in [server] (TOML:2). Did you mean "port"?'),
        ("[runner.net]\nmax_batchsize = 1", 'in [runner.net] (TOML:2). Did you mean "max_batch_size"?'),
        ("[server]\nworkers = 1", "It belongs into [runner.<name>]"),
        ("[runner]\nworkers = 1", "expected sections [runner.<name>]"),
        ("[runner.my.net]\nworkers = 1", 'write [runner."my.net"]'),
        ("server = 3", "expected a section [server]"),
        ("[server]\nport = 70000", "server.port is 70000 (TOML:2); expected a whole number from 0 to 65535"),
        ("[server]\nport = true", "server.port is True (TOML:2)"),
        ("[server]\nport = 80.5", "server.port is 80.5 (TOML:2)"),
        ("[runner.net]\nlatency_budget_ms = nan", "runner.net.latency_budget_ms is nan"),
        ("[runner.net]\nlatency_budget_ms = 0", "expected a number over 0"),
        ("[runner.net]\nlatency_budget_ms = '50ms'", "latency_budget_ms is '50ms'"),
        ("[runner.net]\ndevices = 'gpu one'", 'expected a list of devices such as ["cuda:0", "cuda:1"], or "auto"'),
        ("[runner.net]\ndevices = []", "expected a list of devices"),
        ("[server]\nbody_bytes_max = '64 giraffes'", 'or a text such as "64MiB"'),
        ("[server]\nhost = 'a b'", "expected a host name or address"),
        ("[store]\nhome = ''", "expected the path of a folder"),
        ("[runner.net]\ndispatch = 'worked'", 'expected "central" (one in a broker) or "worker"'),
        (
            "[runner.net]\nbuckets = [8, 8]",
            'rising batch sizes such as [1, 8, 64], or "none": sizes must rise, and 8 follows 8',
        ),
        ("[runner.net]\nbuckets = [8, 'x']", "'x' is no batch size from 1 to 65536"),
        ("[runner.net]\nbuckets = []", "expected a list of rising batch sizes"),
        ("[runner.net]\nlatency_table_ms = { 8 = 5, 1 = 5 }", "(TOML:2); expected a table such as"),
        ("[runner.net]\nlatency_table_ms = { 8 = 5, 1 = 5 }", "sizes must rise, and 1 follows 8"),
        ("[runner.net.latency_table_ms]\n1 = 5.5\n8 = -3", "8 row(s) cannot take -3 ms"),
        ("[runner.net]\nlatency_table_ms = { one = 5 }", "'one' is no batch size from 1 to 65536"),
        ("[runner.net]\nlatency_table_ms = {}", 'milliseconds by rows, or "learned"'),
        ("[runner.net]\nlatency_table_ms = '1=5.5'", 'a text such as "1:5.5,64:37"'),
        ("[runner.net]\nbuckets = { 1 = 2 }", 'write [runner."net.buckets"]'),
        ("port = ", "is not TOML"),
    ],
)
def test_a_wrong_file_says_what_was_given_where_and_what_was_expected(tmp_path: Path, text: str, expected: str) -> None:
    file = written(tmp_path, text)
    assert expected.replace("TOML", str(file)) in refusal({}, file) or expected in refusal({}, file)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PACELINE_SERVRE__PORT", "1", 'Did you mean "server"?'),
        ("PACELINE_SERVER__PROT", "1", 'Did you mean "port"?'),
        ("PACELINE_SERVER__PORT", "", "server.port is '' (environment PACELINE_SERVER__PORT)"),
        ("PACELINE_SERVER__PORT", "8e3", "expected a whole number"),
        ("PACELINE_SERVER__INSECURE", "maybe", "expected true or false"),
        ("PACELINE_RUNNER__WORKERS", "1", "names no runner"),
        ("PACELINE_RUNNER__NET__WORKRES", "1", 'Did you mean "workers"?'),
        ("PACELINE_SERVER_PORT", "1", 'Did you mean "PACELINE_SERVER__PORT"?'),
        ("PACELINE_PORT", "1", 'Did you mean "PACELINE_SERVER__PORT"?'),
        ("PACELINE_WORKERS", "1", 'Did you mean "PACELINE_RUNNER__<NAME>__WORKERS"?'),
        ("PACELINE_HOMES", "/x", 'Did you mean "PACELINE_HOME"?'),
        ("PACELINE_CONFIG_FILE", "/x", 'Did you mean "PACELINE_CONFIG"?'),
    ],
)
def test_a_wrong_variable_is_named_with_the_nearest_right_one(variable: str, value: str, expected: str) -> None:
    assert expected in refusal({}, None, {variable: value})


def test_variables_that_kubernetes_makes_are_left_alone() -> None:
    address = "tcp://10.0.0.1:80"
    environ = {"PACELINE_PORT": address, "PACELINE_SERVER_PORT": address, "PACELINE_PORT_80_TCP_ADDR": "10.0.0.1"}
    environ |= {"PACELINE_SERVICE_HOST": "10.0.0.1", "PACELINE_SERVICE_PORT": "80", "PACELINE_MODE": "x"}
    assert load_config({}, None, environ).server.port == 8000


def test_a_key_outside_every_section_is_told_its_section(tmp_path: Path) -> None:
    file = tmp_path / "paceline.toml"
    file.write_text("port = 1\n")
    assert "stands in no section; put it under [server]" in refusal({}, file)
    file.write_text("workers = 1\n")
    assert "put it under [runner.<name>]" in refusal({}, file)


def test_wrong_flags_and_wrong_code_are_named() -> None:
    assert 'unknown flag "prot". Did you mean "port"?' in refusal({"prot": 1})
    assert "(flag --max-batch-size)" in refusal({"max_batch_size": 0})
    with pytest.raises(ConfigError, match=r'unknown key "batch_size_max" in \[runner.net\] \(code\)'):
        load_config({}, None, {}).runner("net", {"batch_size_max": 1})


def test_other_hosts_than_loopback_need_insecure_and_then_warn() -> None:
    message = refusal({"host": "0.0.0.0"})
    assert "flag --host" in message
    assert "--insecure" in message
    assert load_config({}, None, {}).warnings() == []
    config = load_config({"host": "0.0.0.0", "insecure": True}, None, {})
    assert "anybody who reaches this port" in config.warnings()[0]


@pytest.mark.parametrize(
    ("host", "safe"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("example.org", False),
    ],
)
def test_only_loopback_addresses_count_as_private(host: str, safe: bool) -> None:
    assert is_loopback(host) is safe


def test_each_port_has_a_run_directory_of_its_own_below_the_store() -> None:
    config = load_config({"port": 81}, None, {"PACELINE_HOME": "/srv/a"})
    assert config.server.run_dir == Path("/srv/a/run/p81")
    assert load_config({}, None, {}).server.run_dir == Path("~/.paceline/run/p8000").expanduser()
    assert load_config({}, None, {"PACELINE_SERVER__RUN_DIR": "/run/pace"}).server.run_dir == Path("/run/pace")


def test_a_latency_table_is_a_table_a_section_or_a_text(tmp_path: Path) -> None:
    points = ((1, 5.5), (64, 37.0))
    for text in (
        "[runner.net]\nlatency_table_ms = { 1 = 5.5, 64 = 37 }",
        "[runner.net.latency_table_ms]\n1 = 5.5\n64 = 37",
    ):
        assert load_config({}, written(tmp_path, text), {}).runner("net", {}).latency_table_ms == points
    (tmp_path / "paceline.toml").unlink()
    for config in (
        load_config({"latency_table_ms": "1:5.5, 64:37"}, None, {}),
        load_config({}, None, {"PACELINE_RUNNER__NET__LATENCY_TABLE_MS": "1:5.5,64:37"}),
    ):
        assert config.runner("net", {}).latency_table_ms == points
    assert config.runner("net", {"latency_table_ms": {1: 3}}).latency_table_ms == points
    assert load_config({}, None, {}).runner("net", {"latency_table_ms": {1: 3}}).latency_table_ms == ((1, 3.0),)
    config = load_config({"latency_table_ms": "learned"}, None, {})
    assert config.runner("net", {"latency_table_ms": {1: 3}}).latency_table_ms is None
    assert origin_of(load_config({"latency_table_ms": "1:5.5,64:37"}, None, {}), "runner.*.latency_table_ms") == (
        "1:5.5,64:37.0",
        "flag --latency-table-ms",
    )


def test_a_latency_table_has_the_line_where_it_stands(tmp_path: Path) -> None:
    file = written(tmp_path, "[runner.net]\nworkers = 2\n\n[runner.net.latency_table_ms]\n1 = 5.5\n")
    assert origin_of(load_config({}, file, {}), "runner.net.latency_table_ms") == ("1:5.5", f"{file}:4")


def test_buckets_are_a_list_or_a_text(tmp_path: Path) -> None:
    file = written(tmp_path, "[runner.net]\nbuckets = [1, 8, 64]\n")
    assert load_config({}, file, {}).runner("net", {}).buckets == (1, 8, 64)
    assert load_config({"buckets": "1, 8"}, file, {}).runner("net", {}).buckets == (1, 8)
    assert load_config({"buckets": "none"}, file, {}).runner("net", {}).buckets is None


def test_a_config_travels_as_messagepack(tmp_path: Path) -> None:
    file = written(tmp_path, '[runner.net]\ndevices = ["cuda:0", "cuda:1"]\nqueue_timeout_ms = "off"\n')
    file.write_text(file.read_text() + "buckets = [1, 64]\nlatency_table_ms = { 1 = 0.1, 64 = 37 }\n")
    config = load_config({"port": 0, "insecure": True}, file, {"PACELINE_RUNNER__MY_NET__WORKERS": "2"})
    again = Config.from_plain(msgpack.unpackb(msgpack.packb(config.to_plain())))
    assert again == config
    net = again.runner("net", {})
    assert (net.devices, net.buckets) == (("cuda:0", "cuda:1"), (1, 64))
    assert net.latency_table_ms == ((1, 0.1), (64, 37.0))
    some_damaged: list[dict[str, object]] = [
        {},
        {"entries": [1]},
        {"entries": [["server", "", "nope", 1, "x", False]]},
        {"entries": []},
    ]
    for damaged in some_damaged:
        with pytest.raises(ConfigError):
            Config.from_plain(damaged)


def test_other_machines_need_keys_and_it_says_how_to_make_them() -> None:
    text = refusal({"native_listen": "tcp://0.0.0.0:7400"})
    assert "(flag --native-listen) without server.native_keys" in text
    assert "paceline keys new DIR" in text
    environ = {"PACELINE_SERVER__NATIVE_LISTEN": "tcp://gpu-1:0", "PACELINE_SERVER__NATIVE_KEYS": "/etc/keys"}
    server = load_config({}, None, environ).server
    assert (server.native_listen, server.native_keys) == ("tcp://gpu-1:0", Path("/etc/keys"))
    server = load_config({"native_listen": "off"}, None, environ).server
    assert (server.native_listen, server.native_keys) == (None, Path("/etc/keys"))
    assert load_config({}, None, {}).server.native_listen is None


@pytest.mark.parametrize(
    "address", ["7400", "tcp://*:7400", "tcp://0.0.0.0", "tcp://[::]:7400", "ipc:///x", "http://a:1"]
)
def test_where_other_machines_connect_is_a_tcp_address(address: str) -> None:
    assert "tcp://0.0.0.0:7400" in refusal({"native_listen": address, "native_keys": "/k"})


def test_a_recording_is_off_and_its_file_in_a_file_is_relative_to_that(tmp_path: Path) -> None:
    assert load_config({}, None, {}).server.record is None
    file = written(tmp_path, '[server]\nrecord = "decisions.jsonl"\n')
    assert load_config({}, file, {}).server.record == tmp_path / "decisions.jsonl"
    assert load_config({"record": Path("mine.jsonl")}, file, {}).server.record == Path("mine.jsonl")
    assert load_config({"record": "off"}, file, {}).server.record is None


def test_relative_key_folder_in_a_file_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = written(tmp_path / "etc", '[server]\nnative_keys = "keys"\n')
    assert load_config({}, file, {}).server.native_keys == tmp_path / "etc" / "keys"
    file.write_text('[server]\nnative_keys = "off"\nrun_dir = "auto"\n')
    assert load_config({}, file, {}).server.native_keys is None


def test_key_names_are_unique_so_that_a_flag_is_the_name_alone() -> None:
    assert len({key.name for key in KEYS}) == len(KEYS)
    assert all(key.doc and not key.doc.endswith(".") for key in KEYS)


@given(
    st.sampled_from(KEYS), st.text(max_size=30) | st.sampled_from(["1", "0.5", "1e999", "cpu", "64MiB", "~", "auto"])
)
def test_any_text_in_the_environment_is_accepted_or_refused(key: object, text: str) -> None:
    assert isinstance(key, type(KEYS[0]))
    middle = "NET__" if key.section == "runner" else ""
    accepts({f"PACELINE_{key.section.upper()}__{middle}{key.name.upper()}": text}, {})


_ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.text(max_size=5))


@given(st.sampled_from(KEYS), _ANY)
def test_any_value_of_a_flag_is_accepted_or_refused(key: object, value: object) -> None:
    assert isinstance(key, type(KEYS[0]))
    accepts({}, {key.name: value})


@given(st.text(max_size=60) | st.from_regex(r"\[(server|runner|store)[a-z.\]\[]{0,9}\n(port|workers|home) = .{0,9}"))
def test_any_text_as_a_file_is_accepted_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, errors="surrogatepass")
    accepts({}, {}, file)


def accepts(environ: dict[str, str], flags: dict[str, object], file: Path | None = None) -> bool:
    try:
        config = load_config(flags, file, environ)
    except ConfigError:
        return False
    assert Config.from_plain(msgpack.unpackb(msgpack.packb(config.to_plain()))) == config
    assert config.origins()
    config.runner("net", {})
    return True
