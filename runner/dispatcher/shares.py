"""Which part of the workers each key needs, so that one knows what the others leave to it. Knows no curve or queue."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple


class Share(NamedTuple):
    """Of all workers; 1.0 = as much as they can do in batches of the largest useful size."""

    part: float
    until: float


class Shares:
    """A key counts from when it was told of until the time that was said then, or until `keys_max` others were."""

    def __init__(self, keys_max: int) -> None:
        self._keys_max = keys_max
        self._shares: OrderedDict[Hashable, Share] = OrderedDict()  # the one that was told of last is the last
        self._sum = 0.0

    def room(self, key: Hashable, part: float, until: float, now: float) -> float:
        """`key` needs this part until then. What is left to it: all that the others leave, and no less than its share
        of what everybody needs, where that is too much."""
        shares = self._shares
        self._sum += part - self._pop(key)
        shares[key] = Share(part, until)
        while len(shares) > self._keys_max or next(iter(shares.values())).until <= now:
            self._sum -= self._pop(next(iter(shares)))
        if len(shares) <= 1:
            self._sum = part
            return 1.0
        return max(1.0 - (self._sum - part), part / max(self._sum, part) if part else 0.0)

    def _pop(self, key: Hashable) -> float:
        share = self._shares.pop(key, None)
        return 0.0 if share is None else share.part
