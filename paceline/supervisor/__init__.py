"""Runs the processes of one server and tells of them: `serve`, its options and events; and of what code says."""

from paceline.supervisor.events import Event, describe
from paceline.supervisor.interview import code_settings
from paceline.supervisor.options import Programs, ServeOptions
from paceline.supervisor.profile import fetch_profile
from paceline.supervisor.status import fetch_status, live_run_dirs
from paceline.supervisor.supervisor import serve

__all__ = [
    "Event",
    "Programs",
    "ServeOptions",
    "code_settings",
    "describe",
    "fetch_profile",
    "fetch_status",
    "live_run_dirs",
    "serve",
]
