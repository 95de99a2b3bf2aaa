"""What the settings of one runner must say of each other: checked where all its layers are known, by the inspector.

Apart from settings.py because it asks the dispatcher's own curve how long one row takes, and a command line that reads
settings should not load a dispatcher for that.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.config.settings import Config, RunnerSettings
from paceline.protocol.errors import ConfigError
from paceline.protocol.limits import POOL_REPLY_S
from paceline.runner.dispatcher.curve import Curve


def agreed(config: Config, name: str, code: Mapping[str, object]) -> RunnerSettings:
    """The settings of the runner `name` as `Config.runner` has them, if they agree.

    Raises ConfigError: a bucket over max_batch_size, or a budget in which not even one row can be answered.
    """
    settings = config.runner(name, code)
    origins = {row.key: row.origin for row in config.origins({name: code})}
    error = _bucket_error(settings) or _budget_error(settings)
    if error:
        key, text = error
        title = f"runner.{name}.{key}"
        raise ConfigError(f"{title} is {getattr(settings, key)} ({origins[title]}), but {text}")
    return settings


def _bucket_error(settings: RunnerSettings) -> tuple[str, str] | None:
    """The key that is wrong and why, None if they agree."""
    if not settings.buckets or settings.buckets[-1] <= settings.max_batch_size:
        return None
    return (
        "buckets",
        f"no batch has more than max_batch_size = {settings.max_batch_size} rows; leave out what is larger",
    )


def _budget_error(settings: RunnerSettings) -> tuple[str, str] | None:
    if not settings.latency_table_ms:
        return None
    one_row_ms = Curve(settings.latency_table_ms, settings.buckets or ()).seconds(1)
    works_ms = one_row_ms + 2 * POOL_REPLY_S * 1e3  # there and back
    if settings.latency_budget_ms >= works_ms:
        return None
    return (
        "latency_budget_ms",
        f"by latency_table_ms one row alone takes {one_row_ms:g} ms; give it {works_ms:g} or more",
    )
