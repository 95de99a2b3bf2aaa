"""The documentation's two pages: the OpenAPI document, and a page of forms that reads it, from one file without the
network.

The page's Content-Security-Policy admits its own script and style by their hashes, and calls of its own server.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from starlette.responses import Response

DOCS, OPENAPI = "/docs", "/docs.json"

_FILE = Path(__file__).with_name("docs.html")


def pages(document: dict[str, Any]) -> dict[str, Callable[[], Response]]:
    """Who makes the answers of both routes: each request gets one of its own, since middleware changes headers in
    place."""
    html, policy = _page()
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
    openapi = orjson.dumps(document)
    return {
        DOCS: lambda: Response(html, headers=headers, media_type="text/html"),
        OPENAPI: lambda: Response(openapi, media_type="application/json"),
    }


@functools.cache
def _page() -> tuple[str, str]:
    html = _FILE.read_text(encoding="utf-8")
    script, style = _hash_of(html, "script"), _hash_of(html, "style")
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src blob:; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash_of(html: str, tag: str) -> str:
    """The source expression of the page's one element `tag`."""
    found = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None, tag
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
