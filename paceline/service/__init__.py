"""Services: a user's functions behind HTTP routes; see docs/services.md."""

from __future__ import annotations

from paceline.service.service import Service

__all__ = ["Service"]
