"""The one table of settings: name, type, default, range and meaning. Parsing, `config show` and the docs follow it."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.config.kinds import (
    Buckets,
    Devices,
    Dispatch,
    Endpoint,
    Flag,
    Folder,
    HostName,
    Integer,
    Kind,
    LatencyTable,
    Number,
    Size,
)
from paceline.protocol import limits
from paceline.protocol.errors import ConfigError, did_you_mean

SECTIONS = ("server", "store", "runner")
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Key:
    """One setting. `unset` is the word for None ("auto", "off"), empty where there is always a value. Names are unique
    over all sections, so that a flag is the name alone."""

    section: str
    name: str
    kind: Kind
    default: object
    doc: str
    unset: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def title(self, runner: str = "") -> str:
        """Its dotted name: "server.port", "runner.net.workers"."""
        return f"{self.section}.{runner}.{self.name}" if runner else f"{self.section}.{self.name}"

    def read(self, value: object, origin: str, runner: str = "") -> object:
        """`value` as this key's type. Raises ConfigError that says what was given, by whom, and what was expected."""
        if self.unset and (value is None or value == self.unset):
            return None
        try:
            return self.kind.read(value)
        except (ValueError, OverflowError) as error:
            # float("x") has a text of its own, which says less than ours.
            why = str(error) if type(error) is ValueError and not isinstance(self.kind, Number) else ""
            expected = self.kind.expected + (f', or "{self.unset}"' if self.unset else "")
            raise ConfigError(
                f"{self.title(runner)} is {_shown(value)} ({origin}); expected {expected}{': ' + why if why else ''}. "
                f"It sets {self.doc}."
            ) from error

    def plain(self, value: object) -> object:
        """`value` in TOML's types, so that `read` makes it of them again; None as the word `unset`."""
        if value is None:
            return self.unset
        if isinstance(self.kind, LatencyTable) and isinstance(value, tuple):
            return self.kind.text(value)
        if isinstance(value, tuple):
            return list(value)
        return value if isinstance(value, (bool, int, float)) else str(value)


# fmt: off
KEYS: tuple[Key, ...] = (
    Key("server", "host", HostName(), "127.0.0.1", "the address to listen on; others than loopback need insecure"),
    Key("server", "port", Integer(0, 65_535), 8000, "the TCP port to listen on; 0 takes a free one"),
    Key("server", "insecure", Flag(), False, "whether other machines may use the models, unasked"),
    Key("server", "api_workers", Integer(1, 256), 1, "how many API-server processes take requests"),
    Key("server", "timeout_max_ms", Number(_DAY_S * 1000), limits.TIMEOUT_MAX_MS, "the longest time-out of a request"),
    Key("server", "body_bytes_max", Size(1024, 2**31 - 1), limits.BODY_BYTES_MAX, "the largest request body"),
    Key("server", "rows_max", Integer(1, 1_000_000), limits.REQUEST_ROWS_MAX, "the most rows of one request"),
    Key("server", "drain_grace_s", Number(_DAY_S, zero=True), limits.DRAIN_GRACE_S, "how long a stop may take"),
    Key("server", "window_requests", Integer(1, 65_536), limits.WINDOW_REQUESTS,
        "the most unanswered requests of one API server at one worker"),
    Key("server", "pending_requests", Integer(1, 1_000_000), limits.PENDING_REQUESTS_MAX,
        "the most requests that wait in one API server for a worker"),
    Key("server", "native_listen", Endpoint(), None,
        "where native clients on other machines connect; needs native_keys", unset="off"),
    Key("server", "native_keys", Folder(), None, "the folder made by `paceline keys new`", unset="off"),
    Key("server", "run_dir", Folder(), None, "the private folder of sockets and locks", unset="auto"),
    Key("server", "record", Folder("the path of a file"), None,
        "the file in which each decision of the dispatcher is recorded", unset="off"),
    Key("store", "home", Folder(), None, "the folder of the model store", unset="auto"),
    Key("runner", "workers", Integer(1, 1024), None, "how many worker processes", unset="auto"),
    Key("runner", "devices", Devices(), None, "the devices of the workers, one each in turn", unset="auto"),
    Key("runner", "threads", Integer(1, 1024), None, "torch threads of each worker", unset="auto"),
    Key("runner", "max_batch_size", Integer(1, 65_536), limits.BATCH_ROWS_DEFAULT, "the most rows of one batch"),
    Key("runner", "latency_budget_ms", Number(_DAY_S * 1000), limits.LATENCY_BUDGET_MS,
        "the time from arrival to answer of a request that names none"),
    Key("runner", "queue_timeout_ms", Number(_DAY_S * 1000), None, "the longest wait for a start", unset="off"),
    Key("runner", "execution_timeout_ms", Number(_DAY_S * 1000), None,
        "how long one batch may run before its worker counts as hung", unset="auto"),
    Key("runner", "dispatch", Dispatch(), None, "where requests wait: one queue, or one in each worker", unset="auto"),
    Key("runner", "buckets", Buckets(), None, "the sizes that batches are padded up to", unset="none"),
    Key("runner", "latency_table_ms", LatencyTable(), None, "how long a batch takes, by its rows", unset="learned"),
)
# fmt: on
BY_NAME = {key.name: key for key in KEYS}


def in_section(section: str) -> tuple[Key, ...]:
    return tuple(key for key in KEYS if key.section == section)


def find_key(section: str, name: str, origin: str, runner: str = "") -> Key:
    """The key `name` of `section`. Raises ConfigError that names the nearest and lists all."""
    key = BY_NAME.get(name)
    if key is not None and key.section == section:
        return key
    where = f"[{section}.{runner}]" if runner else f"[{section}]"
    if key is not None:
        belongs = "[runner.<name>]" if key.section == "runner" else f"[{key.section}]"
        raise ConfigError(f'unknown key "{name}" in {where} ({origin}). It belongs into {belongs}.')
    known = [key.name for key in in_section(section)]
    raise ConfigError(
        f'unknown key "{name}" in {where} ({origin}).{did_you_mean(name, known)} Known keys: {", ".join(known)}.'
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
