"""All latency tables of one dispatcher: by worker profile, key and length, bounded; the least recently used leaves."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping

from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.latency_table import LatencyTable, LearnedTable

Table = LatencyTable | LearnedTable
Name = tuple[Hashable, ...]  # of a table: profile, key, and the length where there is one


class TableBook:
    """A given table serves every key and length of its profile; learned ones are of one each and start from their
    method's."""

    def __init__(self, config: DispatcherConfig) -> None:
        self._config = config
        self._buckets = tuple(sorted(config.buckets))
        self._named = {name: self._given(points) for name, points in (config.latency_tables or {}).items()}
        self.version = 0  # changes whenever any curve does
        self.any_given = bool(config.latency_table or config.latency_tables)
        self._default = None if config.latency_table is None else self._given(config.latency_table)
        self._learned: OrderedDict[Name, LearnedTable] = OrderedDict()
        self._pools: OrderedDict[Name, LearnedTable] = OrderedDict()

    def table(self, profile: str, key: Hashable, length: int = 0) -> Table:
        given = self._named.get(profile, self._default) if self._named else self._default
        if given is not None:
            return given
        name = (profile, key, length) if length else (profile, key)
        table = self._learned.get(name)
        if table is None:
            pool = self._pools.get((profile, _method(key))) if _has_pool(key, length) else None
            table = self._remember(self._learned, name, self._fresh(pool))
        else:
            self._learned.move_to_end(name)
        return table

    def peek(self, profile: str, key: Hashable, length: int = 0) -> Table | None:
        """Like `table`, but makes and touches nothing."""
        given = self._named.get(profile, self._default)
        name = (profile, key, length) if length else (profile, key)
        return given or self._learned.get(name) or self._pools.get((profile, _method(key)))

    def observe(
        self, profile: str, key: Hashable, padded_rows: int, seconds: float, now: float, length: int = 0
    ) -> None:
        table = self.table(profile, key, length)
        curve = table.curve
        table.observe(padded_rows, seconds, now)
        self.version += table.curve is not curve
        if table.known or not _has_pool(key, length):
            return
        method = _method(key)
        pool = self._pools.get((profile, method))
        if pool is None:
            pool = self._remember(self._pools, (profile, method), self._fresh(None))
        pool.observe(padded_rows, seconds, now)

    def _given(self, points: Mapping[int, float]) -> LatencyTable:
        return LatencyTable(points, self._buckets, self._config.quantile)

    def _fresh(self, pool: LearnedTable | None) -> LearnedTable:
        return LearnedTable(self._buckets, self._config.quantile, self._config.table_ageing_s, pool)

    def _remember(
        self,
        shelf: OrderedDict[Name, LearnedTable],
        name: Name,
        table: LearnedTable,
    ) -> LearnedTable:
        shelf[name] = table
        if len(shelf) > self._config.keys_max:
            shelf.popitem(last=False)
        return table


def _has_pool(key: Hashable, length: int) -> bool:
    """Whether others resemble this one."""
    return length > 0 or _method(key) is not key


def _method(key: Hashable) -> Hashable:
    """The part of a key whose tables resemble each other."""
    return key[0] if isinstance(key, tuple) and key else key
