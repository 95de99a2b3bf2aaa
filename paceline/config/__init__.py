"""Settings with their origins: defaults < code < paceline.toml < environment < flags."""

from paceline.config.keys import KEYS, Key
from paceline.config.settings import Config, OriginRow, RunnerSettings, ServerSettings, load_config

__all__ = ["KEYS", "Config", "Key", "OriginRow", "RunnerSettings", "ServerSettings", "load_config"]
