"""Which runners a function names, so that one that its service lacks is found at load, not at the first request.

Only what a function's own code names is seen. A runner that it reaches by other ways says the same when it is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

from paceline.handle import Runner
from paceline.protocol.errors import StartError


def check_runners_listed(function: Callable[..., Any], api: str, service: str, listed: Collection[Runner]) -> None:
    """Raises StartError for a runner that `function` names, is not `listed`, and does not run in this process."""
    for name, value in _named_values(function).items():
        if isinstance(value, Runner) and value not in listed and not value._is_bound():
            raise StartError(
                f"the API {api!r} uses the runner {value.name!r}, which service {service!r} does not list: write "
                f"paceline.Service(name={service!r}, runners=[..., {name}])"
            )


def _named_values(function: Callable[..., Any]) -> dict[str, Any]:
    """What the global and enclosing names in a function's code stand for now."""
    try:
        found = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):  # no function of Python's own, or a name without a value yet
        return {}
    return {**found.globals, **found.nonlocals}
