"""A batch materialization engine for Feast: ``feast materialize`` of any feature view to Redis, in whole columns.

In ``feature_store.yaml``::

    batch_engine:
      type: materialize.publish.feast_engine.PrescoreEngine

Feast's offline store reads, as ever; then columns are encoded as wholes
(:mod:`materialize.publish.feast_columns`) instead of value by value, and written over pipelined connections.
A row is written if its timestamp is newer than the stored one, as with Feast. Views that need more than that
(transformations, aggregations, filters, validation, offline writes, other online stores) are left to Feast's
local engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.common.materialization_job import MaterializationJobStatus
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.compute_engines.local.nodes import LocalSourceReadNode
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.repo_config import FeastConfigBaseModel
from feast.utils import _validate_vector_field_lengths

from materialize.publish.feast_block import Rows, encode_timestamps, entity_keys
from materialize.publish.feast_columns import encode_feature
from materialize.publish.feast_format import Kind, decode_timestamp, timestamp_field
from materialize.publish.redis_loader import RedisLoader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast.infra.common.materialization_job import MaterializationTask
    from feast.infra.registry.base_registry import BaseRegistry
    from numpy.typing import NDArray

_FIRST_ROWS, _ROWS = 1024, 65_536
"""Rows encoded at a time, which bounds the memory of wide views. Where most entities of the first are in the store,
whole hashes are not tried any more."""


class PrescoreEngineConfig(FeastConfigBaseModel):
    """What may stand under ``batch_engine``: connections per server, and seconds without any progress."""

    type: str = "materialize.publish.feast_engine.PrescoreEngine"
    connections: int = 2
    timeout_seconds: float = 10.0


class PrescoreEngine(LocalComputeEngine):
    """Feast's local engine with a fast way from plain views into Redis."""

    def __init__(self, *, connections: int = 2, timeout_seconds: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._connections, self._timeout = connections, timeout_seconds

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not self._is_plain(task.feature_view):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._write(registry, task)
        except Exception as error:  # noqa: BLE001 - Feast takes a job's failure as a value and raises it itself
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _is_plain(self, view: Any) -> bool:
        """Whether a view is no more than columns of one source that go to Redis."""
        extras = (
            "feature_transformation",
            "aggregations",
            "filter",
            "enable_validation",
            "source_views",
            "offline",
        )
        return (
            isinstance(self.repo_config.online_store, RedisOnlineStoreConfig)
            and view.batch_source is not None
            and not view.stream_source
            and view.online
            and not any(getattr(view, extra, None) for extra in extras)
            and DUMMY_ENTITY_ID not in {field.name for field in view.entity_columns}
        )

    def _write(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view: Any = task.feature_view
        store = self.repo_config.online_store
        table = self._read(registry, task)
        _validate_vector_field_lengths(table, view)
        name = compute_versioned_name(view, self.repo_config.registry.enable_online_feature_view_versioning)
        kinds = {field.name: Kind[field.dtype.to_value_type().name] for field in view.entity_columns}
        keys = entity_keys({key: table[key] for key in kinds}, self.repo_config.project, kinds)
        stamps = _microseconds(table[view.batch_source.timestamp_field])
        rows = _latest(_codes(table, list(kinds), keys), self._order(task, table, stamps))
        with RedisLoader(
            store_url(store), self.repo_config.project, self._connections, self._timeout
        ) as loader:
            creating = True
            for some in _portions(rows):
                part, their_keys = table.take(some), keys.take(some)
                columns = {
                    field.name: encode_feature(field.name, part[field.name], field.dtype.to_value_type())
                    for field in view.features
                }
                their_stamps = encode_timestamps(stamps[some])
                left = np.arange(len(some))
                if creating:
                    left = loader.create(name, their_keys, columns, their_stamps)
                    creating = len(left) < len(some) / 2
                stored = np.zeros(0, np.int64)
                if not store.skip_dedup:
                    newer = _newer(loader, name, their_keys.take(left), stamps[some[left]])
                    stored, left = left[~newer], left[newer]
                if len(left):
                    values = {feature: column.take(left) for feature, column in columns.items()}
                    loader.write(name, their_keys.take(left), values, their_stamps.take(left))
                if store.key_ttl_seconds:
                    written = np.delete(np.arange(len(some)), stored)
                    loader.expire(their_keys.take(written), store.key_ttl_seconds)

    def _read(self, registry: BaseRegistry, task: MaterializationTask) -> pa.Table:
        view: Any = task.feature_view
        # The backend computes what plain views have none of.
        builder = LocalFeatureBuilder(registry, task, cast("Any", None))
        source = LocalSourceReadNode(
            "source", view.batch_source, builder.get_column_info(view), task.start_time, task.end_time
        )
        return source.execute(self.get_execution_context(registry, task)).data

    @staticmethod
    def _order(task: MaterializationTask, table: pa.Table, stamps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows from the newest to the oldest, by event and then by creation; equals in the source's order."""
        sort: list[NDArray[np.int64]] = [-stamps]
        view: Any = task.feature_view
        created = view.batch_source.created_timestamp_column
        if task.only_latest and created and created in table.column_names:
            sort.insert(0, -_microseconds(table[created]))
        return np.lexsort(sort)


def store_url(config: RedisOnlineStoreConfig) -> str:
    """The URL of a Feast Redis store, as :func:`materialize.publish.redis_connections.open_store` takes it."""
    nodes, options = RedisOnlineStore._parse_connection_string(config.connection_string)  # noqa: SLF001
    scheme = "rediss" if options.pop("ssl", False) else "redis"
    path = ""
    if config.redis_type == RedisType.redis_cluster:
        scheme += "+cluster"
        options.pop("skip_full_coverage_check", None)
    elif config.redis_type == RedisType.redis_sentinel:
        scheme, path = f"{scheme}+sentinel", f"/{config.sentinel_master}"
    secrets = [quote(str(options.pop(name, "") or ""), safe="") for name in ("username", "password")]
    user = f"{secrets[0]}:{secrets[1]}@" if any(secrets) else ""
    hosts = ",".join(f"{node['host']}:{node['port']}" for node in nodes)
    if socket := options.pop("unix_socket_path", ""):
        scheme, hosts, path = "unix", "", str(socket)
    query = f"?{urlencode(options)}" if options else ""
    return f"{scheme}://{user}{hosts}{path}{query}"


def _microseconds(values: pa.ChunkedArray) -> NDArray[np.int64]:
    zone = values.type.tz if pa.types.is_timestamp(values.type) else None
    moments = pc.cast(values, pa.timestamp("us", zone), safe=False)
    numbers: NDArray[np.int64] = pc.cast(moments, pa.int64()).to_numpy()
    return numbers


def _codes(table: pa.Table, ids: list[str], keys: Rows) -> NDArray[np.int32]:
    """A number for each row, equal where the key is: int32[n] from 0, without a gap."""
    whole_number = len(ids) == 1 and pa.types.is_integer(table[ids[0]].type)
    # The same by the bytes of the key takes ten times as long.
    found = table[ids[0]].combine_chunks() if whole_number else keys.to_binary()
    codes: NDArray[np.int32] = found.dictionary_encode().indices.to_numpy()
    return codes


def _latest(codes: NDArray[np.int32], newest_first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The newest row of each key: int64[m], ascending."""
    winners = np.empty(codes.max(initial=-1) + 1, np.int64)
    # The last assignment wins, so the newest comes last.
    winners[codes[newest_first[::-1]]] = newest_first[::-1]
    return np.sort(winners)


def _portions(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """A few of the rows, which tell whether the store has their entities already, and then the others."""
    yield rows[:_FIRST_ROWS]
    for begin in range(_FIRST_ROWS, len(rows), _ROWS):
        yield rows[begin : begin + _ROWS]


def _newer(loader: RedisLoader, view: str, keys: Rows, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row's timestamp is newer than the stored one: bool[n]."""
    stored = loader.read_field(keys, timestamp_field(view))
    # Rows of one run often share their time. Feast takes a stored time of 1970, to the second, for none.
    moments = {raw: decode_timestamp(raw) if raw else 0 for raw in set(stored)}
    present = np.array([moments[raw] for raw in stored], np.int64)
    newer: NDArray[np.bool_] = (present == 0) | (stamps > present)
    return newer
