"""Addresses of servers on other machines: `tcp://host:port`, the host an IPv4 address or a name.

Pure: read by the settings, by whoever binds and by the client; opens nothing.
"""

from __future__ import annotations

import re

PORT_MAX = 65_535
_ADDRESS = re.compile(r"tcp://([0-9A-Za-z_](?:[0-9A-Za-z._-]{0,252}[0-9A-Za-z_.])?):([0-9]{1,5})")


def tcp_address(host: str, port: int) -> str:
    return f"tcp://{host}:{port}"


def split_tcp(address: str) -> tuple[str, int]:
    """(host, port) of `address`. Raises ValueError unless it is tcp://host:port with a port up to 65535."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > PORT_MAX:
        raise ValueError(f"{address!r} is not tcp://host:port with an IPv4 address or a name and a port up to 65535")
    return found[1], int(found[2])
