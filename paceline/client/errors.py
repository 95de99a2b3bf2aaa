"""The one error that no server sends: there was none to send it."""

from __future__ import annotations

from paceline.protocol.errors import PacelineError


class ServerUnreachable(PacelineError, ConnectionError):
    """No server at the address, or the connection broke before an answer; the message says which and what to do.

    Also a ConnectionError, so that code which knows nothing of Paceline can catch it.
    """
