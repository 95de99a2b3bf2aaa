"""All latency tables of one dispatcher: by worker profile and key, bounded, the least recently used leaves first."""

from collections import OrderedDict
from collections.abc import Hashable, Mapping

from paceline.runner.dispatcher.config import DispatcherConfig
from paceline.runner.dispatcher.latency_table import LatencyTable, LearnedTable

Table = LatencyTable | LearnedTable


class TableBook:
    """A given table serves every key of its profile; learned ones are per key and start from their method's."""

    def __init__(self, config: DispatcherConfig) -> None:
        self._config = config
        self._buckets = tuple(sorted(config.buckets))
        self._named = {name: self._given(points) for name, points in (config.latency_tables or {}).items()}
        self.version = 0  # changes whenever any curve does
        self.any_given = bool(config.latency_table or config.latency_tables)
        self._default = None if config.latency_table is None else self._given(config.latency_table)
        self._learned: OrderedDict[tuple[str, Hashable], LearnedTable] = OrderedDict()
        self._pools: OrderedDict[tuple[str, Hashable], LearnedTable] = OrderedDict()

    def table(self, profile: str, key: Hashable) -> Table:
        given = self._named.get(profile, self._default) if self._named else self._default
        if given is not None:
            return given
        table = self._learned.get((profile, key))
        if table is None:
            pool = None if _method(key) is key else self._pools.get((profile, _method(key)))
            table = self._remember(self._learned, (profile, key), self._fresh(pool))
        else:
            self._learned.move_to_end((profile, key))
        return table

    def peek(self, profile: str, key: Hashable) -> Table | None:
        """Like `table`, but makes and touches nothing."""
        given = self._named.get(profile, self._default)
        return given or self._learned.get((profile, key)) or self._pools.get((profile, _method(key)))

    def observe(self, profile: str, key: Hashable, padded_rows: int, seconds: float, now: float) -> None:
        table = self.table(profile, key)
        curve = table.curve
        table.observe(padded_rows, seconds, now)
        self.version += table.curve is not curve
        method = _method(key)
        if table.known or method is key:
            return
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
        shelf: OrderedDict[tuple[str, Hashable], LearnedTable],
        name: tuple[str, Hashable],
        table: LearnedTable,
    ) -> LearnedTable:
        shelf[name] = table
        if len(shelf) > self._config.keys_max:
            shelf.popitem(last=False)
        return table


def _method(key: Hashable) -> Hashable:
    """The part of a key whose tables resemble each other."""
    return key[0] if isinstance(key, tuple) and key else key
